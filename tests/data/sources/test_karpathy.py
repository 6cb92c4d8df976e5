"""Karpathy splits."""

import json

import pytest

from tests.data.written import jpeg
from vljax.config import UserError
from vljax.data.records import ExampleError
from vljax.data.sources import Karpathy


@pytest.fixture
def file(tmp_path):
    def row(i, split, **more):
        sentences = [{"raw": f"picture {i}", "sentid": i}, {"raw": "  a picture", "sentid": 9}]
        return {"filename": f"{i}.jpg", "split": split, "sentences": sentences, **more}

    rows = [row(0, "train"), row(1, "test"), row(2, "test", filepath="val2014"), row(3, "val")]
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text(json.dumps({"dataset": "flickr30k", "images": rows}))
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    return path


def test_a_split_has_all_its_captions(file):
    records = Karpathy(str(file)).open()
    assert len(records) == 2
    assert records[0].captions == ("picture 1", "  a picture")
    assert records[0].image == jpeg(1)
    assert records.class_names == ()
    assert len(Karpathy(str(file), split="val").open()) == 1
    assert Karpathy(str(file)).dataset == "dataset_flickr30k"


def test_images_are_read_with_and_without_their_sub_folder(file, tmp_path):
    records = Karpathy(str(file)).open()
    with pytest.raises(ExampleError, match=r"image '2\.jpg' cannot be read"):
        records.image(1)
    (tmp_path / "val2014").mkdir()
    (tmp_path / "2.jpg").write_bytes(jpeg(5))
    assert records.image(1) == jpeg(5)
    (tmp_path / "val2014" / "2.jpg").write_bytes(jpeg(2))
    assert records.image(1) == jpeg(2)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.jpg").write_bytes(jpeg(7))
    assert Karpathy(str(file), str(tmp_path / "elsewhere")).open().image(0) == jpeg(7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no list 'images', so not a split file of Karpathy"),
        ('{"images": [{"split": "val"}]}', "no image is of the split 'test'; there are: val"),
        ('{"images": [{"split": "test"}]}', r"images\.0: 'filename' must be text, got None"),
        (
            '{"images": [{"split": "test", "filename": "a", "sentences": [{"raw": 1}]}]}',
            r"images\.0\.sentences: 'raw' must be text, got 1",
        ),
    ],
)
def test_other_files_are_an_error(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        Karpathy(str(path)).open()


def test_a_bad_entry_rejects_its_image_only(tmp_path):
    sentences = [{"raw": "a dog"}, {"raw": None}, {"raw": "half \ud83d"}]
    rows = [{"filename": "0.jpg", "sentences": sentences}, {"filename": "1.jpg", "sentences": None}]
    content = {"images": [{"split": "test", **row} for row in rows]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    (tmp_path / "0.jpg").write_bytes(jpeg())
    records = Karpathy(str(tmp_path / "x.json")).open()
    assert records[0].captions == ("a dog", "half \ufffd")
    assert records.annotation(1).captions == ()
    with pytest.raises(ExampleError, match=r"images\.1\.sentences: None is not a list"):
        records[1]


def test_an_unset_path_is_an_error():
    with pytest.raises(UserError, match=r"data\.source\.path: unset"):
        Karpathy().open()
