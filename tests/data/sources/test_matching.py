"""Captions of an image and of other images as questions."""

import json

import numpy as np
import pytest

from tests.data.written import jpeg
from vljax import config
from vljax.config import UserError
from vljax.data.sources import Csv, Expand, JsonLines, Matching
from vljax.data.vocabulary import count_answers


@pytest.fixture
def captions(tmp_path):
    """Six records of four images; two records show one image, and two images have one caption."""
    rows = [("a", "one dog"), ("a", "a brown dog"), ("b", "one cat"), ("c", "Two  cats")]
    rows += [("d", "two cats"), ("b", " ")]
    for name in "abcd":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(ord(name)))
    lines = [json.dumps({"image": f"{name}.jpg", "caption": text}) for name, text in rows]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    table = "".join(f"{name}.jpg,{text}\n" for name, text in rows)
    (tmp_path / "captions.csv").write_text(f"image,caption\n{table}")
    return tmp_path, rows


def sources(folder):
    return JsonLines(str(folder / "captions.jsonl")), Csv(str(folder / "captions.csv"))


def test_a_wrong_caption_is_never_one_of_the_same_image(captions):
    folder, rows = captions
    texts = {text.lower(): {n for n, t in rows if t.lower() == text.lower()} for _, text in rows}
    for source in sources(folder):
        records = Matching(source, mismatched=30).open()
        assert records.image_numbers().tolist() == [0, 0, 1, 2, 3, 1]
        seen = set()
        for i, (name, text) in enumerate(rows):
            asked = records[i].questions
            assert [q.kind for q in asked] == ["match"] * len(asked)
            right = [q.text for q in asked if q.answer == "yes"]
            wrong = [q.text for q in asked if q.answer == "no"]
            assert (right, len(wrong)) == (([text] * 30, 30) if text.strip() else ([], 0))
            assert not any(name in texts[other.lower()] for other in wrong)
            assert not any(" ".join(o.lower().split()) == "two cats" for o in wrong if name in "cd")
            seen |= {*wrong}
        assert len(seen) == 5  # every caption is somewhere a wrong one


def test_half_of_the_answers_are_yes_and_depend_on_the_seed(captions):
    source = sources(captions[0])[0]
    first, again, other = (Matching(source, 3, seed=seed).open() for seed in (0, 0, 1))
    assert count_answers(Matching(source, 3)).counts == (("no", 15), ("yes", 15))
    assert [first.annotation(i) for i in range(6)] == [again.annotation(i) for i in range(6)]
    asked = [[q.text for q in r.annotation(2).questions] for r in (first, other)]
    assert asked[0] != asked[1]
    assert first.identity == again.identity != other.identity
    rows = Expand(Matching(source)).open()
    assert len(rows) == 10
    np.testing.assert_array_equal(rows.image_numbers(), [0, 0, 0, 0, 1, 1, 2, 2, 3, 3])


def test_one_image_and_wrong_fields_are_errors(captions):
    folder, _ = captions
    one = folder / "one.jsonl"
    one.write_text('{"image": "a.jpg", "caption": "x"}\n{"image": "a.jpg", "caption": "y"}\n')
    with pytest.raises(UserError, match=r"jsonl:one\.jsonl: has one image; matching needs two"):
        Matching(JsonLines(str(one))).open()
    with pytest.raises(UserError, match=r"data\.source\.source\.path: unset"):
        Matching(JsonLines()).open()
    with pytest.raises(UserError, match="must be at least 1, got 0"):
        config.validate(Matching(JsonLines(str(one)), mismatched=0))
    with pytest.raises(UserError, match="seed: must not be negative, got -1"):
        config.validate(Matching(JsonLines(str(one)), seed=-1))
    one.write_text("")
    with pytest.raises(UserError, match=r"one\.jsonl: has no examples; matching needs two images"):
        Matching(JsonLines(str(one))).open()


def test_rows_without_a_path_or_with_damage_share_no_image(tmp_path):
    (tmp_path / "a.csv").write_text('image,caption\na.jpg,x\n,y\n,z\na.jpg,v\na.jpg,"one",more\n')
    lines = '{"image": "a.jpg"}\n{"image": ""}\n{"image": null}\n{"image": "a.jpg"}\n{}\n'
    (tmp_path / "a.jsonl").write_text(lines)
    for source in (Csv(str(tmp_path / "a.csv")), JsonLines(str(tmp_path / "a.jsonl"))):
        assert source.open().image_numbers().tolist() == [0, 1, 2, 0, 3]
