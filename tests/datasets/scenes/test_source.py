import dataclasses
import io
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from tests.data.samples import write_jsonl
from tests.datasets.scenes.samples import OBJECTS, boxes_of, write_objects
from vljax.config import UserError, decode, encode, validate
from vljax.data.records import Record, Source
from vljax.data.sources import JsonLines
from vljax.datasets import Builtin, Scenes, Tuxpaint
from vljax.datasets.scenes.names import spelling


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return JsonLines(write_objects(tmp_path_factory.mktemp("objects")))


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_scene_i_depends_on_seed_split_and_i_alone(objects):
    scenes = Scenes(objects, size=96, examples=50)
    records = scenes.open()
    last = records[20]
    fewer = dataclasses.replace(scenes, examples=21).open()
    assert fewer[20] == last  # does not depend on the number of scenes or on earlier reads
    assert records[20] == last
    assert pickle.loads(pickle.dumps(records))[20] == last
    other = dataclasses.replace(scenes, seed=1).open()
    assert all(other[i].image != records[i].image for i in range(10))
    assert other.identity != records.identity
    assert scenes.open().identity == records.identity


def test_scenes_differ_from_each_other(objects):
    records = Scenes(objects, size=96).open()
    assert len({records[i].image for i in range(100)}) == 100


def test_splits_of_the_built_in_set_share_no_object():
    things = [Scenes(Builtin(split)).open()._things for split in ("validation", "test")]
    names = [{thing.name for thing in split} for split in things]
    pictures = [{c.pixels.tobytes() for thing in split for c in thing.cutouts} for split in things]
    assert min(len(split) for split in names) > 20
    assert not names[0] & names[1]
    assert not pictures[0] & pictures[1]


def test_boxes_are_the_extents_of_the_masks_and_phrases_name_their_regions(objects):
    records = Scenes(objects, size=96).open()
    for i in range(100):
        record = records[i]
        masks = pixels(record.masks)
        assert masks.shape == (96, 96)
        assert boxes_of(masks) == {n: r.box for n, r in enumerate(record.regions, 1)}
        spoken = {0: [], 1: []}
        for phrase in record.phrases:
            text = record.captions[phrase.caption][phrase.start : phrase.end]
            names = {record.regions[j].name for j in phrase.regions}
            assert len(names) == 1
            many = len(phrase.regions) > 1
            stem = names.pop()[:-2] if many else names.pop()  # "leaf" is "leaves" when many
            assert stem in text
            assert text.split()[0] in (
                {2: "two", 3: "three", 4: "four", 5: "five"}[len(phrase.regions)] if many else "a",
                "an",
            )
            spoken.setdefault(phrase.caption, []).extend(phrase.regions)
        assert sorted(spoken[0]) == sorted(spoken[1]) == list(range(len(record.regions)))


def test_objects_are_painted_where_their_masks_are(objects):
    records = Scenes(objects, size=96).open()
    for i in range(30):
        record = records[i]
        image, masks = pixels(record.image).astype(int), pixels(record.masks)
        for number, region in enumerate(record.regions, 1):
            _, colour, *_ = OBJECTS[region.name]
            inside = np.median(image[masks == number], axis=0)
            np.testing.assert_allclose(inside, colour, atol=2)
            assert region.colour == OBJECTS[region.name][0]


def test_min_visible_of_each_object_is_visible(objects):
    hidden = 0
    for least in (0.0, 0.9):
        records = Scenes(objects, size=96, max_objects=6, min_visible=least).open()
        for i in range(60):
            composed = records._scene(i).composed
            for number, (patch, (x, y)) in enumerate(
                zip(composed.patches, composed.corners, strict=True), 1
            ):
                height, width = patch.shape[:2]
                whole = patch[..., 3] >= 128
                seen = composed.masks[y : y + height, x : x + width] == number
                share = (seen & whole).sum() / whole.sum()
                assert share >= least
                hidden += share < 0.9
    assert hidden  # with `min_visible` 0, objects hide each other


RELATION = {"to the left of": (0, 1), "to the right of": (0, -1), "above": (1, 1), "below": (1, -1)}
ANSWER = {"left": (0, 1), "right": (0, -1), "above": (1, 1), "below": (1, -1)}
POSITION = {"leftmost": (0, 1), "rightmost": (0, -1), "topmost": (1, 1), "bottommost": (1, -1)}


def lies(first, second, axis, sign):
    """Whether a box ends before another begins."""
    near, far = (first, second) if sign > 0 else (second, first)
    return near[axis + 2] < far[axis]


def check_answer(question, record: Record, boxes):
    """Whether the answer agrees with the masks and names; uses no code of vljax."""
    names = [region.name for region in record.regions]
    text, answer = question.text, question.answer
    at = {name: boxes[names.index(name) + 1] for name in names if names.count(name) == 1}

    def pointed_at():
        if len(names) == 1:
            return 0
        axis, sign = next(v for k, v in POSITION.items() if k in text)
        ends = [sign * boxes[i][axis if sign > 0 else axis + 2] for i in range(1, len(names) + 1)]
        assert sorted(ends)[0] < sorted(ends)[1]
        return int(np.argmin(ends))

    kind = question.kind
    if kind == "exists":
        name = re.fullmatch(r"Is there an? (.+)\?", text)[1]
        return (name in names) == (answer == "yes")
    if kind == "count":
        plural = re.fullmatch(r"How many (.+) are there\?", text)[1]
        (name,) = {n for n in OBJECTS if n[:3] == plural[:3]}
        return names.count(name) == int(answer)
    if kind == "total":
        return len(names) == int(answer)
    if kind == "what":
        return names[pointed_at()] == answer
    if kind == "colour":
        return OBJECTS[names[pointed_at()]][0] == answer
    if kind == "is_colour":
        asked = re.fullmatch(r"Is .+ (\w+)\?", text)[1]
        return (OBJECTS[names[pointed_at()]][0] == asked) == (answer == "yes")
    if kind == "what_beside":
        relation, seen_from = re.fullmatch(r"What is (.+) the (.+)\?", text).groups()
        axis, sign = RELATION[relation]
        there = [
            n
            for i, n in enumerate(names, 1)
            if n != seen_from and lies(boxes[i], at[seen_from], axis, sign)
        ]
        return there == [answer]
    if kind == "side":
        first, second = re.fullmatch(
            r"Is the (.+?) (?:to the left or to the right of|above or below) the (.+)\?", text
        ).groups()
        return lies(at[first], at[second], *ANSWER[answer])
    if kind == "is_beside":
        first, relation, second = re.fullmatch(
            rf"Is the (.+?) ({'|'.join(RELATION)}) the (.+)\?", text
        ).groups()
        axis, sign = RELATION[relation]
        return lies(at[first], at[second], axis, sign if answer == "yes" else -sign)
    assert kind == "direction"
    first, second = re.fullmatch(r"Where is the (.+), seen from the (.+)\?", text).groups()
    middles = [np.add(box[:2], box[2:]) / 2 for box in (at[first], at[second])]
    axis, sign = ANSWER[answer]
    along, across = abs(middles[0] - middles[1])[[axis, 1 - axis]]
    return lies(at[first], at[second], axis, sign) and along > 1.8 * across


def test_answers_agree_with_the_masks(objects):
    records = Scenes(objects, size=96).open()
    kinds = set()
    for i in range(400):
        record = Record(**vars(records.annotation(i)), image=b"", masks=records.masks(i))
        boxes = boxes_of(pixels(record.masks))
        for question in record.questions:
            kinds.add(question.kind)
            assert check_answer(question, record, boxes), (i, question, record.regions)
    assert len(kinds) == 10


def test_pictures_can_be_backgrounds(objects, tmp_path):
    photos = JsonLines(write_jsonl(tmp_path, [{"caption": "a"}, {"caption": "b"}]))
    drawn, on_photos = (
        Scenes(objects, backgrounds, size=96).open() for backgrounds in (None, photos)
    )
    for i in range(10):
        assert on_photos[i].regions == drawn[i].regions
        assert on_photos[i].image == on_photos[i].image
        assert on_photos[i].image != drawn[i].image
        assert not any("background" in caption for caption in on_photos[i].captions)
    assert drawn.identity != on_photos.identity


def test_the_pipeline_decodes_scenes_exactly(objects):
    record = Scenes(objects, size=96).open()[3]
    from vljax.data.transforms import Decode

    image = Decode()({"record": record}, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(image, pixels(record.image))
    assert pixels(record.masks).dtype == np.uint8


def test_recipes_name_scenes_with_their_objects():
    scenes = Scenes(Builtin("test"), max_objects=3)
    assert decode(Source, encode(scenes)) == scenes
    assert scenes.full_name == "scenes:builtin:test"
    assert (scenes.dataset, scenes.split_name) == ("scenes-builtin", "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_objects": 10}, "max_objects: must be 1 to 9, got 10"),
        ({"max_objects": 0}, "max_objects: must be 1 to 9, got 0"),
        ({"examples": 0}, "examples: must be 1 or more"),
        ({"size": 32}, "size: must be 64 to 1024, got 32"),
        ({"min_visible": 1.5}, r"min_visible: must be 0 to 1, got 1\.5"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        validate(Scenes(**changes))


def test_too_few_objects_are_an_error(objects, tmp_path):
    with pytest.raises(
        UserError, match="has pictures of 12 things that can be used, too few for 9"
    ):
        Scenes(objects, max_objects=9).open()
    opaque = write_jsonl(tmp_path, [{"caption": f"{n}"} for n in OBJECTS])
    with pytest.raises(UserError, match=r"pictures of 0 things .* they need transparency"):
        Scenes(JsonLines(opaque)).open()


def test_classes_can_be_left_out_by_name():
    with pytest.raises(UserError, match=r"leave_out: unknown class 'flag'; did you mean 'flags'\?"):
        Scenes(Builtin("validation"), leave_out=("flag",)).open()
    everything = Scenes(Builtin("validation"), leave_out=()).open()._things
    fewer = Scenes(Builtin("validation")).open()._things
    assert {t.name for t in fewer} < {t.name for t in everything}


def test_objects_without_english_captions_are_refused():
    with pytest.raises(
        UserError, match=r"objects: captions in 'de'; begin its languages with 'en'"
    ):
        validate(Scenes(Tuxpaint(languages=("de",))))


def test_spelling_variants_of_a_name_are_one_thing():
    """Before, "Is there a paper clip?" had the answer "no" for a picture of a "paperclip"."""
    things = Scenes(Builtin("train")).open()._things
    by_name = {thing.name: thing for thing in things}
    variants = {"paper clip", "paperclip", "volley ball", "volley-ball"} & by_name.keys()
    assert len(variants) == 2
    assert all(len(by_name[name].cutouts) >= 2 for name in variants)
    assert len({spelling(name) for name in by_name}) == len(things)
    assert by_name["cog"].may_be(by_name["gear"])
