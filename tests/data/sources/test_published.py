"""Readers of published files: small files in the official formats."""

import json

import pytest

from tests.data.written import jpeg
from vljax.config import UserError
from vljax.data.records import Phrase
from vljax.data.sources import (
    Clevr,
    Expand,
    Gqa,
    Nlvr2,
    RefCoco,
    SugarCrepe,
    VqaV2,
    Winoground,
    Xm3600,
)


def write_winoground(folder, lines=2):
    """`examples.jsonl` with the entries of the published file, and its images."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(lines):
        names = [f"ex_{i}_img_{j}" for j in (0, 1)]
        for j, name in enumerate(names):
            (folder / "images" / f"{name}.png").write_bytes(jpeg(2 * i + j))
        captions = {"caption_0": f"a dog on cat {i}", "caption_1": f"a cat on dog {i}"}
        more = {"id": i, "tag": "Noun", "num_main_preds": 1, "collapsed_tag": "Object"}
        rows.append({"image_0": names[0], "image_1": names[1], **captions, **more})
    (folder / "examples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_sugar_crepe(folder, categories):
    """A JSON file for each category, whose keys have gaps, and the images in val2017."""
    (folder / "val2017").mkdir(parents=True)
    for i, category in enumerate(categories):
        rows = {}
        for key in ("0", "3"):
            name = f"00000000000{key}.jpg"
            (folder / "val2017" / name).write_bytes(jpeg(int(key)))
            pair = {"caption": f"a lamp {i}", "negative_caption": f"a red lamp {i}"}
            rows[key] = {"filename": name, **pair}
        (folder / f"{category}.json").write_text(json.dumps(rows))


def write_xm3600(folder, keys=("0a", "0b")):
    """`captions.jsonl` with two languages, and the images by key."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for i, key in enumerate(keys):
        (folder / "images" / f"{key}.jpg").write_bytes(jpeg(i))
        languages = {
            "en": {"caption": [f"dog {i}", f"the dog {i}"], "caption/tokenized": []},
            "de": {"caption": [f"Hund {i}"], "caption/tokenized": []},
        }
        lines.append(json.dumps({"image/key": key, "image/locale": "en", **languages}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")


def write_vqa(folder, images=(42, 7)):
    """Questions and annotations of VQA v2, two for each image."""
    (folder / "val2014").mkdir(parents=True)
    questions, annotations = [], []
    for image in images:
        (folder / "val2014" / f"COCO_val2014_{image:012d}.jpg").write_bytes(jpeg(image))
        for n, (text, kind, given) in enumerate(
            [
                ("Is it red?", "yes/no", ["yes"] * 9 + ["no"]),
                ("How many?", "number", ["2"] * 10),
            ]
        ):
            number = {"question_id": image * 1000 + n, "image_id": image}
            questions.append({**number, "question": text})
            people = [
                {"answer": answer, "answer_confidence": "yes", "answer_id": i + 1}
                for i, answer in enumerate(given)
            ]
            about = {"answer_type": kind, "question_type": "is it", "answers": people}
            annotations.append({**number, **about, "multiple_choice_answer": given[0]})
    head = {"info": {}, "data_type": "mscoco", "data_subtype": "val2014", "license": {}}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps({**head, "task_type": "Open-Ended", "questions": questions})
    )
    (folder / "v2_mscoco_val2014_annotations.json").write_text(
        json.dumps({**head, "annotations": annotations})
    )


def write_gqa(folder, **changes):
    """`questions1.2/testdev_balanced_questions.json`: three questions about two images."""
    (folder / "images").mkdir(parents=True)
    rows = {}
    for i, (image, text, answer, kind) in enumerate(
        [
            ("n161313", "Is it overcast?", "no", "verify"),
            ("n2", "Who is tall?", "man", "query"),
            ("n161313", "Is it red or blue?", "red", "choose"),
        ]
    ):
        (folder / "images" / f"{image}.jpg").write_bytes(jpeg(len(image)))
        types = {"detailed": "weatherVerifyC", "semantic": "global", "structural": kind}
        about = {"imageId": image, "question": text, "answer": answer, "types": types}
        more = {"semantic": [], "entailed": [], "isBalanced": True, "groups": {"global": None}}
        rows[f"20130725{i}"] = {**more, **about, "fullAnswer": f"{answer}.", **changes}
    (folder / "questions1.2").mkdir()
    file = folder / "questions1.2" / "testdev_balanced_questions.json"
    file.write_text(json.dumps(rows))


def write_clevr(folder, **changes):
    """`questions/CLEVR_val_questions.json`, and the images in `images/val`."""
    (folder / "images" / "val").mkdir(parents=True)
    (folder / "questions").mkdir()
    rows = []
    for i, (image, text, answer, last) in enumerate(
        [
            (0, "Are there any cubes?", "no", "exist"),
            (0, "How many?", "2", "count"),
            (1, "What is its colour?", "red", "query_color"),
        ]
    ):
        name = f"CLEVR_val_00000{image}.png"
        (folder / "images" / "val" / name).write_bytes(jpeg(image))
        program = [{"inputs": [], "function": "scene", "value_inputs": []}]
        program.append({"inputs": [0], "function": last, "value_inputs": []})
        about = {"image_filename": name, "image_index": image, "question": text, "answer": answer}
        more = {"question_index": i, "question_family_index": 7, "split": "val"}
        rows.append({**about, **more, "program": program, **changes})
    content = {"info": {"split": "val", "version": "1.0"}, "questions": rows}
    (folder / "questions" / "CLEVR_val_questions.json").write_text(json.dumps(content))


def write_nlvr2(folder, split="dev", **changes):
    """`data/dev.json` with three sentences about two pairs, and the images in `dev`."""
    (folder / "data").mkdir(parents=True)
    lines = []
    for pair, sentence, label in ((0, 0, "True"), (0, 1, "False"), (1, 0, "False")):
        place = folder / split / "12" if split == "train" else folder / split
        place.mkdir(parents=True, exist_ok=True)
        for j in (0, 1):
            (place / f"{split}-850-{pair}-img{j}.png").write_bytes(jpeg(2 * pair + j))
        about = {"identifier": f"{split}-850-{pair}-{sentence}", "label": label, "writer": 1}
        about |= {"directory": 12} if split == "train" else {}
        about |= {"sentence": f"Both dogs sit {sentence}.", "left_url": "http://a", "synset": "dog"}
        lines.append(json.dumps({**about, **changes}))
    (folder / "data" / f"{split}.json").write_text("\n".join(lines) + "\n")


def test_gqa_has_one_of_three_types_as_kind(tmp_path):
    write_gqa(tmp_path)
    records = Gqa(str(tmp_path)).open()
    assert [(q.kind, q.answer) for q in records[0].questions] == [
        ("verify", "no"),
        ("choose", "red"),
    ]
    assert records[1].image == jpeg(2)
    detailed = Gqa(str(tmp_path), kinds="detailed").open()
    assert detailed[1].questions[0].kind == "weatherVerifyC"
    assert detailed.identity != records.identity
    rows = Expand(Gqa(str(tmp_path)), by="question").open()
    assert rows.image_numbers().tolist() == [0, 0, 1]


def test_clevr_has_the_last_function_as_kind(tmp_path):
    write_clevr(tmp_path)
    records = Clevr(str(tmp_path)).open()
    assert [(q.kind, q.answer) for q in records[0].questions] == [("exist", "no"), ("count", "2")]
    assert records[1].questions[0].kind == "query_color"
    assert records[1].image == jpeg(1)


@pytest.mark.parametrize("split", ["dev", "train"])
def test_nlvr2_has_two_images_and_sentences(tmp_path, split):
    write_nlvr2(tmp_path, split)
    source = Nlvr2(str(tmp_path), split=split)
    records = source.open()
    assert (len(records), records.image_count) == (2, 2)
    assert [q.answer for q in records[0].questions] == ["true", "false"]
    assert (records[1].image, records[1].more_images) == (jpeg(2), (jpeg(3),))
    rows = Expand(source, by="question").open()
    assert (rows[2].more_images, rows.image_count) == ((jpeg(3),), 2)
    converted = source.open_with_all_columns(None, lambda done, total: None).other_columns(1)
    assert converted["image_2"] == jpeg(3)


@pytest.mark.parametrize(
    ("write", "source", "changes", "message"),
    [
        (write_gqa, Gqa, {"imageId": 7}, r"questions\.json: 201307250: 'imageId' must be text"),
        (write_gqa, Gqa, {"types": None}, r"201307250\.types: must be an object, got None"),
        (write_gqa, Gqa, {"types": {}}, r"types: 'structural' must be text"),
        (write_clevr, Clevr, {"program": []}, r"questions\.0: 'program' must be a list of func"),
        (write_clevr, Clevr, {"program": [{}]}, r"questions\.0\.program\.0: 'type' must be text"),
        (write_clevr, Clevr, {"answer": None}, r"questions\.0: 'answer' must be text, got None"),
        (write_nlvr2, Nlvr2, {"label": "maybe"}, r"dev\.json:1: 'label' must be True or False"),
        (write_nlvr2, Nlvr2, {"identifier": "dev-1"}, r"dev\.json:1: 'identifier' must be SPLIT-"),
    ],
)
def test_malformed_questions_of_other_sets_are_named(tmp_path, write, source, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        source(str(tmp_path)).open()


def test_splits_without_answers_are_refused(tmp_path):
    write_clevr(tmp_path)
    file = tmp_path / "questions" / "CLEVR_val_questions.json"
    content = json.loads(file.read_text())
    del content["questions"][1]["answer"]
    file.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"questions\.1: has no 'answer'; name a split whose answers"
    ):
        Clevr(str(tmp_path)).open()


def test_winoground_has_two_rows_a_line(tmp_path):
    write_winoground(tmp_path / "data")
    records = Winoground(str(tmp_path)).open()  # as its repository has it, in data/
    assert [records.annotation(i).captions[0] for i in range(4)] == [
        "a dog on cat 0",
        "a cat on dog 0",
        "a dog on cat 1",
        "a cat on dog 1",
    ]
    assert records[3].image == jpeg(3)
    assert records.image_numbers().tolist() == [0, 1, 2, 3]


def test_sugar_crepe_has_a_right_and_a_wrong_caption(tmp_path):
    write_sugar_crepe(tmp_path, ("add_att", "swap_obj"))
    records = SugarCrepe(str(tmp_path), categories=("add_att", "swap_obj")).open()
    assert len(records) == 4
    assert records[3].captions == ("a lamp 1", "a red lamp 1")
    assert (records[3].label, records.class_names) == (1, ("add_att", "swap_obj"))
    assert records[3].image == jpeg(3)
    assert records.image_numbers().tolist() == [0, 1, 0, 1]
    with pytest.raises(UserError, match=r"has no add_obj\.json; name the folder with SugarCrepe"):
        SugarCrepe(str(tmp_path)).open()


def test_xm3600_has_one_language_or_all(tmp_path):
    write_xm3600(tmp_path)
    english = Xm3600(str(tmp_path)).open()
    assert (english[1].captions, english[1].tags) == (("dog 1", "the dog 1"), ())
    assert english[1].image == jpeg(1)
    every = Xm3600(str(tmp_path / "captions.jsonl"), language="all").open()
    assert every[0].captions == ("dog 0", "the dog 0", "Hund 0")
    assert every[0].tags == ("en", "en", "de")
    assert english.identity != every.identity
    with pytest.raises(UserError, match=r"jsonl:1: no captions in the language 'dee'; did you"):
        Xm3600(str(tmp_path), language="dee").open()


def test_vqa_v2_has_ten_answers(tmp_path):
    write_vqa(tmp_path)
    records = VqaV2(str(tmp_path)).open()
    assert len(records) == 2
    red, count = records[0].questions
    assert (red.kind, red.answer, red.answers) == ("yes_no", "yes", (("yes", 9.0), ("no", 1.0)))
    assert (count.kind, count.answer, count.answers) == ("number", "2", ())
    assert records[1].image == jpeg(7)
    rows = Expand(VqaV2(str(tmp_path)), by="question").open()
    assert len(rows) == 4
    assert rows.image_numbers().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": None}, r"questions\.json: no list 'questions'"),
        ({"questions": [[]]}, r"questions\.0: must be an object"),
        ({"questions": [{"question_id": 1, "image_id": "7"}]}, "'image_id' must be a whole number"),
        ({"questions": [{"question_id": 5, "image_id": 7}]}, "has no answers to question_id 5"),
    ],
)
def test_malformed_questions_are_named(tmp_path, change, message):
    write_vqa(tmp_path)
    file = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        VqaV2(str(file)).open()


def test_questions_without_their_answers_name_the_file(tmp_path):
    write_vqa(tmp_path)
    file = tmp_path / "v2_mscoco_val2014_annotations.json"
    content = json.loads(file.read_text())
    twice = content["annotations"] + content["annotations"][:1]
    file.write_text(json.dumps({"annotations": twice}))
    with pytest.raises(UserError, match=r"annotations\.4: question_id 42000 occurs twice"):
        VqaV2(str(tmp_path)).open()
    file.unlink()
    with pytest.raises(UserError, match=r"v2_mscoco_val2014_annotations\.json: cannot be read"):
        VqaV2(str(tmp_path)).open()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"examples\.jsonl:2: not JSON"),
        ("[]", r"examples\.jsonl:2: must be an object, got \[\]"),
        ('{"image_0": "a", "caption_0": " "}', r"examples\.jsonl:2: 'caption_0' must be text"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, message):
    write_winoground(tmp_path, lines=1)
    file = tmp_path / "examples.jsonl"
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(UserError, match=message):
        Winoground(str(tmp_path)).open()


def test_a_missing_path_says_what_to_name(tmp_path):
    with pytest.raises(UserError, match=r"data\.source\.path: unset; set --data\.source\.path to"):
        VqaV2().open()
    with pytest.raises(UserError, match=r"has no captions\.jsonl; name XM3600's captions\.jsonl"):
        Xm3600(str(tmp_path)).open()
    (tmp_path / "captions.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"captions\.jsonl: has no lines"):
        Xm3600(str(tmp_path)).open()


def write_refcoco(folder, **changes):
    """MDETR's form: an entry of `images` for each expression, with its own id."""
    (folder / "train2014").mkdir(parents=True)
    name = "COCO_train2014_000000000042.jpg"
    (folder / "train2014" / name).write_bytes(jpeg(42))
    about = {"file_name": name, "height": 20, "width": 24, "original_id": 42}
    more = {"dataset_name": "refcoco", "tokens_negative": [[0, 8]]}
    images = [
        {**about, **more, "id": i, "caption": text} for i, text in enumerate(["left man", "dog"])
    ]
    boxes = [
        {"image_id": i, "bbox": box, "area": 9, "category_id": 1, "tokens_positive": [[0, 8]]}
        for i, box in ((1, [1.0, 2.0, 3.4, 4.6]), (0, [0, 0, 10.2, 12]))
    ]
    content = {"info": {}, "images": images, "annotations": boxes, "categories": [], **changes}
    (folder / "mdetr").mkdir()
    file = folder / "mdetr" / "finetune_refcoco+_testA.json"
    file.write_text(json.dumps(content))
    return str(file)


def test_refcoco_has_a_row_for_each_expression(tmp_path):
    source = RefCoco(write_refcoco(tmp_path))
    assert (source.dataset, source.split_name) == ("refcoco+", "testA")
    records = source.open()
    assert records[1].captions == ("dog",)
    assert records[1].regions[0].box == (1, 2, 4, 7)
    assert records[0].phrases[0] == Phrase(0, 0, len("left man"), (0,))
    assert records[0].image == records[1].image == jpeg(42)
    assert records.image_numbers().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": []}, r"images\.0: no annotation has image_id 0"),
        ({"annotations": [{"image_id": 0, "bbox": [0, 0, 1]}]}, "'bbox' must be four numbers"),
        ({"annotations": [{"image_id": 0, "bbox": [0, 0, 1, 1]}] * 2}, "image_id 0 has two boxes"),
    ],
)
def test_malformed_boxes_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        RefCoco(write_refcoco(tmp_path, **changes)).open()


def test_pickles_are_refused(tmp_path):
    (tmp_path / "refs(unc).p").write_bytes(b"")
    with pytest.raises(UserError, match=r"is a pickle, which could run any program; name a file"):
        RefCoco(str(tmp_path / "refs(unc).p")).open()
    with pytest.raises(UserError, match="is a folder; name a file such as finetune_refcoco_val"):
        RefCoco(str(tmp_path)).open()


@pytest.mark.parametrize(
    ("write", "source", "expected"),
    [
        (write_winoground, Winoground, {"file_name": "ex_0_img_1.png", "id": 0, "tag": "Noun"}),
        (
            lambda folder: write_sugar_crepe(folder, ("add_att",)),
            lambda folder: SugarCrepe(folder, categories=("add_att",)),
            {"file_name": "000000000003.jpg"},
        ),
        (write_xm3600, Xm3600, {"image/key": "0b", "image/locale": "en"}),
        (write_gqa, Gqa, {"file_name": "n2.jpg", "question_id": ["201307251"]}),
        (write_clevr, Clevr, {"question_index": [2], "question_family_index": [7]}),
        (write_nlvr2, Nlvr2, {"identifier": ["dev-850-1-0"]}),
        (write_vqa, VqaV2, {"image_id": 7, "question_ids": [7000, 7001]}),
        (
            write_refcoco,
            lambda folder: RefCoco(f"{folder}/mdetr/finetune_refcoco+_testA.json"),
            {"original_id": 42, "id": 1},
        ),
    ],
)
def test_conversion_gets_the_other_entries(tmp_path, write, source, expected):
    write(tmp_path)
    records = source(str(tmp_path)).open_with_all_columns(None, lambda done, total: None)
    assert records.other_columns(1).items() >= expected.items()
    assert source(str(tmp_path)).open().other_columns(1) == {}


@pytest.mark.parametrize(
    ("source", "split"),
    [
        (Gqa("gqa"), "testdev_balanced"),
        (Gqa("gqa/val_balanced_questions.json"), "val_balanced"),
        (Gqa("train_all_questions/train_all_questions_3.json"), "train_all"),
        (Clevr("CLEVR_v1.0", split="train"), "train"),
        (Clevr("questions/CLEVR_valA_questions.json"), "valA"),
        (Nlvr2("data/test1.json"), "test1"),
        (VqaV2("vqa/v2_OpenEnded_mscoco_train2014_questions.json"), "train2014"),
        (VqaV2(), "val2014"),
    ],
)
def test_the_split_is_that_of_the_file(source, split):
    """It is part of the names of metrics."""
    assert source.split_name == split
