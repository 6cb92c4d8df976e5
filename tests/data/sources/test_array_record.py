"""ArrayRecord files in the format of vljax."""

import pickle

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from tests.data.written import jpeg
from vljax.config import UserError
from vljax.data.records import ExampleError
from vljax.data.sources import ArrayRecord
from vljax.data.sources.filters import Range
from vljax.data.sources.record_format import pack, unpack

EXAMPLES = [
    {"captions": ["a cat", "猫"], "tags": ["pet"], "class": "cat", "width": 10},
    {"captions": ["a dog"], "class": "dog", "width": 20},
    {"captions": [], "width": 30},
]


def write(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return str(path)


@pytest.fixture
def folder(tmp_path):
    records = [pack(example, jpeg(i)) for i, example in enumerate(EXAMPLES)]
    write(tmp_path / "0.array_record", records[:2])
    write(tmp_path / "1.array_record", records[2:])
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    return tmp_path


def test_a_record_has_the_documented_bytes():
    text = b'{"captions": ["\xc3\xa9"]}'
    record = b"VLX1" + bytes([len(text), 0, 0, 0]) + text + b"image"
    assert pack({"captions": ["é"]}, b"image") == record
    assert unpack(record) == ({"captions": ["é"]}, b"image")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "not in vljax's format"),
        (b"other format", "not in vljax's format"),
        (pack({"a": 1}, b"")[:-2], "damaged"),
        (b"VLX1\2\0\0\0[]image", "damaged"),
    ],
)
def test_damaged_and_foreign_records_are_rejected(record, message):
    with pytest.raises(ExampleError, match=message):
        unpack(record)


def test_an_invalid_layout_rejects_its_example(tmp_path):
    layouts = [1, {"regions": [{"box": 3}]}, {"masks": "-"}]
    records = [pack({"vljax_layout": layout}, jpeg()) for layout in layouts]
    opened = ArrayRecord(write(tmp_path / "x.array_record", records), captions=()).open()
    for i in range(len(layouts)):
        with pytest.raises(ExampleError, match=r"of the record (is|are) damaged"):
            opened[i]


def test_records_of_several_files(folder):
    records = ArrayRecord(str(folder)).open()
    assert [records[i].captions for i in range(3)] == [("a cat", "猫"), ("a dog",), ()]
    assert [records[i].image for i in range(3)] == [jpeg(i) for i in range(3)]
    assert [records[i].label for i in range(3)] == [1, 0, None]
    assert records[0].tags == ("pet",)
    assert records.class_names == ("dog", "cat")
    assert pickle.loads(pickle.dumps(records))[2] == records[2]


def test_filters(folder):
    records = ArrayRecord(str(folder), filters=(Range("width", minimum=15),)).open()
    assert [records[i].captions for i in range(len(records))] == [("a dog",), ()]
    assert records.counts.left_out == {"width is not at least 15": 1}


def test_missing_class_names_are_an_error(folder):
    (folder / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes\.txt: not there, but classes have names; set"):
        ArrayRecord(str(folder)).open()
    assert ArrayRecord(str(folder), label=None).open()[0].label is None


def test_other_files_and_record_formats_are_an_error(folder, tmp_path):
    for name in ("0.array_record", "1.array_record"):
        write(folder / name, [b"tf.train.Example"])
    with pytest.raises(UserError, match=r"0\.array_record: record is not in vljax's format; read"):
        ArrayRecord(str(folder)).open()
    (folder / "0.array_record").write_bytes(b"text")
    with pytest.raises(UserError, match=r"0\.array_record: not an intact ArrayRecord file"):
        ArrayRecord(str(folder)).open()


def test_a_missing_column_is_an_error_with_a_suggestion(folder):
    with pytest.raises(UserError, match=r"has no 'caption'; did you mean 'captions'\?"):
        ArrayRecord(str(folder), captions=("caption",)).open()


def test_the_identity_follows_the_content(folder):
    before = ArrayRecord(str(folder)).open().identity
    assert ArrayRecord(str(folder)).open().identity == before
    write(folder / "1.array_record", [pack(EXAMPLES[2], jpeg(5))])
    assert ArrayRecord(str(folder)).open().identity != before


def test_a_column_may_occur_late_and_a_record_may_be_damaged(tmp_path):
    records = [pack({"alt": "first"} if i > 120 else {}, jpeg()) for i in range(130)]
    records[2] = b"damaged"
    opened = ArrayRecord(write(tmp_path / "x.array_record", records), captions=("alt",)).open()
    captions = [opened.annotation(i).captions for i in range(130)]
    assert captions == [()] * 121 + [("first",)] * 9
    with pytest.raises(ExampleError, match="record is not in vljax's format"):
        opened[2]
