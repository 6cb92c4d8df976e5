"""The built-in pictures, JSON-lines files, and what all sources share."""

import json
import pickle
import sys
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from tests.data.samples import encoded, picture, write_jsonl
from vljax.config import UserError, decode
from vljax.data.records import Annotation, ExampleError, Source
from vljax.data.sources import JsonLines
from vljax.data.sources.filters import Length
from vljax.data.tokenizers import SentencePiece, load_tokenizer
from vljax.datasets import Builtin
from vljax.datasets.builtin.source import BuiltinRecords
from vljax.files import write_file


def write_builtin(folder: Path, splits: list[str], captions: list[str]) -> None:
    writer = ArrayRecordWriter(str(folder / "images.array_record"), "group_size:1")
    with open(folder / "items.jsonl", "w") as index:
        for i, (split, caption) in enumerate(zip(splits, captions, strict=True)):
            writer.write(encoded(picture(8, 8, 4, seed=i), "WEBP", lossless=True))
            name = "bird" if split == "test" else "animal"
            item = {"index": i, "caption": caption, "tags": ["t"], "class": name, "split": split}
            index.write(json.dumps(item) + "\n")
    writer.close()


def test_a_builtin_split_has_its_captions_and_images_and_global_labels(tmp_path):
    write_builtin(tmp_path, ["train", "test", "train", "test"], ["a", "b", "c", "d"])
    records = BuiltinRecords(tmp_path, "test")
    assert [records[i].captions for i in range(len(records))] == [("b",), ("d",)]
    assert records.class_names == ("animal", "bird")
    assert [records[i].label for i in range(2)] == [1, 1]
    expected = [encoded(picture(8, 8, 4, seed=i), "WEBP", lossless=True) for i in (1, 3)]
    assert [records[i].image for i in range(2)] == expected


def test_builtin_survives_pickling_after_it_was_read(tmp_path):
    write_builtin(tmp_path, ["train", "train"], ["a", "b"])
    records = BuiltinRecords(tmp_path, "train")
    first = records[1]
    assert pickle.loads(pickle.dumps(records))[1] == first


def test_builtin_identity_follows_the_content(tmp_path):
    write_builtin(tmp_path, ["train"], ["a"])
    before = BuiltinRecords(tmp_path, "train").identity
    assert BuiltinRecords(tmp_path, "train").identity == before
    write_builtin(tmp_path, ["train"], ["another"])
    assert BuiltinRecords(tmp_path, "train").identity != before


def test_builtin_identity_follows_how_the_content_is_read(tmp_path, monkeypatch):
    write_builtin(tmp_path, ["train"], ["a"])
    records = BuiltinRecords(tmp_path, "train")
    assert records[0].tags == ("t", "animal")
    monkeypatch.setattr("vljax.datasets.builtin.source._tags", lambda item: tuple(item["tags"]))
    assert BuiltinRecords(tmp_path, "train").identity != records.identity


def test_a_missing_image_file_of_the_builtin_set_rejects_examples(tmp_path):
    write_builtin(tmp_path, ["train"], ["a"])
    (tmp_path / "images.array_record").unlink()
    with pytest.raises(ExampleError, match="image cannot be read"):
        BuiltinRecords(tmp_path, "train")[0]


def test_the_shipped_splits_share_no_caption():
    splits = [Builtin(split).open() for split in ("train", "validation", "test")]
    captions = [{r.annotation(i).first_caption for i in range(len(r))} for r in splits]
    assert all(captions)
    assert not captions[0] & captions[1]
    assert not captions[0] & captions[2]
    assert not captions[1] & captions[2]
    assert len({r.class_names for r in splits}) == 1


def test_jsonl_reads_captions_tags_classes_and_images_beside_the_file(tmp_path):
    path = write_jsonl(
        tmp_path,
        [
            {"caption": "a dog", "tags": ["x"], "class": "dog"},
            {"captions": ["", "a cat", "cat"], "class": "cat"},
            {"caption": "unlabelled"},
        ],
    )
    records = JsonLines(path).open()
    assert records.class_names == ("cat", "dog")
    assert [records[i].captions for i in range(3)] == [
        ("a dog",),
        ("", "a cat", "cat"),
        ("unlabelled",),
    ]
    assert [records.annotation(i).label for i in range(3)] == [1, 0, None]
    assert records[0].tags == ("x",)
    assert records.annotation(1).first_caption == "a cat"
    assert records[2].image == (tmp_path / "2.png").read_bytes()
    assert pickle.loads(pickle.dumps(records))[1] == records[1]


def test_an_unset_jsonl_path_is_an_error():
    with pytest.raises(UserError, match=r"unset; set --data\.source\.path"):
        JsonLines().open()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", r"not a JSON object \(list\)"),
        ('{"caption": "a"}', "'image' is missing"),
        ('{"image": 3, "caption": "a"}', "'image' must be text, got 3"),
        ('{"image": "0.png", "caption": 1984}', "'caption' must be text, got 1984"),
        ('{"image": "0.png", "captions": "a"}', "'captions' must be a list of texts, got 'a'"),
        ('{"image": "0.png", "captions": ["a", 1]}', "'captions' must be a list of texts"),
        ('{"image": "0.png", "tags": "x"}', "'tags' must be a list of texts, got 'x'"),
        ('{"image": "0.png", "class": [1]}', r"'class' must be text, got \[1\]"),
        ('{"image": "0.png", "caption": "a", "captions": ["b"]}', "keep one"),
        (b'{"image": "0.png", "caption": "\xff"}', "not a JSON object"),
    ],
)
def test_a_malformed_line_rejects_its_example_and_a_file_of_them_is_an_error(
    tmp_path, line, message
):
    path = Path(write_jsonl(tmp_path, [{"caption": "a"}]))
    content = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(path.read_bytes() + b"\n" + content + b"\n")
    records = JsonLines(str(path)).open()
    assert (len(records), records[0].captions, records.annotation(1)) == (2, ("a",), Annotation(()))
    with pytest.raises(ExampleError, match=message):
        records[1]
    path.write_bytes(b"\n" + content + b"\n")
    with pytest.raises(UserError, match=message) as caught:
        JsonLines(str(path)).open()
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "captions"),
    [
        ({"caption": None}, ()),
        ({"caption": float("nan")}, ()),
        ({"captions": ["one", None]}, ("one",)),
        ({"caption": ["one", "two"]}, ("one", "two")),
        ({"caption": "a smile \ud83d"}, ("a smile \ufffd",)),
        ({"caption": "x", "tags": None}, ("x",)),
    ],
)
def test_a_line_may_lack_a_caption(tmp_path, change, captions):
    records = JsonLines(write_jsonl(tmp_path, [{"caption": "a"}, change])).open()
    assert [records[i].captions for i in range(2)] == [("a",), captions]
    kept = JsonLines(str(tmp_path / "pets.jsonl"), filters=(Length("caption", minimum=1),))
    assert len(kept.open()) == 1 + ("caption" in change and bool(captions))


def test_a_line_without_an_image_rejects_its_example(tmp_path):
    records = JsonLines(write_jsonl(tmp_path, [{"caption": "a"}, {"image": None}])).open()
    with pytest.raises(ExampleError, match=r"^no image$") as caught:
        records[1]
    assert caught.value.kind == "not_an_image"


@pytest.mark.parametrize(
    ("classes", "names", "labels"),
    [
        (["dog", None, "cat"], ("cat", "dog"), [1, None, 0]),
        (["7", "10"], ("10", "7"), [1, 0]),
        ([7, 10.0, -1, float("nan"), ""], (), [7, 10, None, None, None]),
        (["dog", 3], ("3", "dog"), [1, 0]),
        ([2**32, 9], ("9", "4294967296"), [1, 0]),
        ([" d", "d", "a\nb", "\ud83d"], (" d", "a\nb", "d", "\ufffd"), [0, 2, 1, 3]),
    ],
)
def test_classes_of_lines_are_names_or_indices(tmp_path, classes, names, labels):
    rows = [{"caption": "a", "class": value} for value in classes]
    records = JsonLines(write_jsonl(tmp_path, rows)).open()
    assert records.class_names == names
    assert [records[i].label for i in range(len(rows))] == labels


def test_byte_order_marks_are_not_part_of_jsonl(tmp_path):
    path = Path(write_jsonl(tmp_path, [{"caption": "a"}]))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert JsonLines(str(path)).open()[0].captions == ("a",)
    path.write_text(path.read_text("utf-8-sig"), "utf-16")
    with pytest.raises(UserError, match=r"pets\.jsonl: not UTF-8 but UTF-16; save it as UTF-8"):
        JsonLines(str(path)).open()


def test_a_missing_image_rejects_its_example(tmp_path):
    records = JsonLines(write_jsonl(tmp_path, [{"image": "lost.jpg", "caption": "a"}])).open()
    with pytest.raises(ExampleError, match=r"'lost.jpg' cannot be read \(No such file"):
        records[0]


def test_sources_are_found_by_name():
    assert decode(Source, {"type": "builtin", "split": "test"}) == Builtin("test")
    assert Builtin("test").full_name == "builtin:test"
    assert JsonLines("/somewhere/pets.jsonl").full_name == "jsonl:pets.jsonl"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (Builtin("test"), ("builtin", "test")),
        (Builtin("train"), ("builtin", "train")),
        (JsonLines("/data/coco/val.jsonl"), ("val", "all")),
        (JsonLines("test.jsonl"), ("test", "all")),
        (JsonLines("gs://bucket/folder/val.2017.jsonl"), ("val.2017", "all")),
        (JsonLines("my own $data$.jsonl"), ("my_own_data_", "all")),
        (JsonLines("a\\b\n.jsonl"), ("a_b_", "all")),
        (JsonLines(), ("jsonl", "all")),
    ],
)
def test_metric_names_differ_by_file_and_split(source, names):
    assert (source.dataset, source.split_name) == names


@pytest.mark.parametrize(("url", "package"), [("gs://b/x", "gcsfs"), ("s3://b/x", "s3fs")])
def test_a_missing_package_for_remote_files_is_an_error(monkeypatch, url, package):
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    message = f"^{url}: .*:// needs a package: pip install {package}$"
    with pytest.raises(UserError, match=message):
        JsonLines(url).open()
    with pytest.raises(UserError, match=message):
        SentencePiece(url).load()
    with pytest.raises(UserError, match=f"{url}/config.json: .* pip install {package}$"):
        load_tokenizer(url)


@pytest.mark.parametrize("location", ["beside", "remote"])
def test_jsonl_images_are_relative_paths_or_urls(location, tmp_path, monkeypatch):
    image = encoded(picture(8, 8), "PNG")
    (tmp_path / "a.png").write_bytes(image)
    name = "memory://jsonl/a.png" if location == "remote" else "a.png"
    if location == "remote":
        write_file(name, image)
        (tmp_path / "a.png").unlink()
    path = Path(write_jsonl(tmp_path, [{"image": name, "caption": "a"}]))
    monkeypatch.chdir(path.parent)
    assert JsonLines(path.name).open()[0].image == image


def test_unknown_kinds_of_urls_are_an_error():
    with pytest.raises(UserError, match=r"unknown kind of address; known: gs://, s3://$"):
        JsonLines("http://b/x").open()


def test_a_missing_jsonl_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"x\.jsonl: cannot be read \(No such file or directory\)"):
        JsonLines(str(tmp_path / "x.jsonl")).open()
