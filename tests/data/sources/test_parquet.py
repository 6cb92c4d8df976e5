"""Parquet files."""

import io
import json
import pickle

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.written import jpeg
from vljax.config import UserError
from vljax.data.records import ExampleError
from vljax.data.sources import Parquet
from vljax.data.sources.filters import Length, Range


def columns(count, first=0):
    return {
        "image": [jpeg(i) for i in range(first, first + count)],
        "caption": [f"picture {i}" for i in range(first, first + count)],
        "width": list(range(first, first + count)),
        "class": ["odd" if i % 2 else "even" for i in range(first, first + count)],
    }


def write(path, content, *, groups=3, metadata=None):
    table = pa.table(content)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=groups)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "0.parquet", columns(8))
    write(tmp_path / "1.parquet", columns(4, first=8))
    return str(tmp_path)


def test_rows_of_several_files_and_row_groups_in_any_order(folder):
    records = Parquet(folder, label="class").open()
    assert len(records) == 12
    for i in (11, 0, 7, 8, 3):
        assert records[i].image == jpeg(i)
        assert records[i].captions == (f"picture {i}",)
        assert records[i].label == 1 - (1 - i % 2)
    assert records.class_names == ("even", "odd")
    assert records.counts.fields == {"caption": 12, "class": 12}
    assert pickle.loads(pickle.dumps(records))[9] == records[9]


def test_rows_are_numbered_after_filtering(folder):
    filters = (Range("width", minimum=3), Length("caption", maximum=9))
    records = Parquet(folder, filters=filters).open()
    assert [records[i].captions[0] for i in range(len(records))] == [
        f"picture {i}" for i in range(3, 10)
    ]
    assert records[6].image == jpeg(9)
    assert records.counts.left_out == {
        "width is not at least 3": 3,
        "length of caption is not at most 9": 2,
    }
    assert records.identity != Parquet(folder).open().identity


def test_image_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    path = write(tmp_path / "x.parquet", {"file": ["a.jpg", "lost.jpg", None], "text": ["a"] * 3})
    records = Parquet(path, image="file", captions=("text",)).open()
    assert records[0].image == jpeg()
    with pytest.raises(ExampleError, match=r"'lost.jpg' cannot be read \(No such file"):
        records[1]
    with pytest.raises(ExampleError, match=r"^no image$"):
        records[2]


def test_images_and_class_names_of_hugging_face_are_read(tmp_path):
    (tmp_path / "b.jpg").write_bytes(jpeg(1))
    images = [{"bytes": jpeg(0), "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}]
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["zebra", "ant"], "_type": "ClassLabel"},
    }
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    content = {"image": images, "captions": [["one", "two"], []], "label": [0, 1]}
    path = write(tmp_path / "x.parquet", content, metadata=metadata)
    records = Parquet(path, captions=("captions",), label="label").open()
    assert [records[i].image for i in range(2)] == [jpeg(0), jpeg(1)]
    assert [records[i].captions for i in range(2)] == [("one", "two"), ()]
    assert records.class_names == ("zebra", "ant")
    assert [records.annotation(i).label for i in range(2)] == [0, 1]


def test_a_missing_column_is_an_error_with_a_suggestion(folder):
    with pytest.raises(UserError, match=r"captions: .* has no 'captoin'; did you mean 'caption'\?"):
        Parquet(folder, captions=("captoin",)).open()
    with pytest.raises(UserError, match=r"image: .* has no 'img'"):
        Parquet(folder, image="img").open()


@pytest.mark.parametrize("end", [0, 100, -10])
def test_a_truncated_file_is_an_error(folder, tmp_path, end):
    path = tmp_path / "1.parquet"
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(UserError, match=rf"{path}: not an intact Parquet file \(.+\)$"):
        Parquet(folder).open()


def test_a_caption_that_is_not_utf8_rejects_its_example(tmp_path):
    content = {"image": [jpeg()], "caption": pa.array([b"caf\xe9"], pa.binary())}
    records = Parquet(write(tmp_path / "x.parquet", content)).open()
    assert records.annotation(0).captions == ()
    with pytest.raises(ExampleError, match=r"caption is not UTF-8 \(byte 3\)"):
        records[0]


def test_a_caption_column_without_text_rejects_examples(folder):
    with pytest.raises(ExampleError, match="width is not text but int"):
        Parquet(folder, captions=("width",)).open()[0]


def test_the_identity_follows_the_content(folder, tmp_path):
    before = Parquet(folder).open().identity
    assert Parquet(folder).open().identity == before
    write(tmp_path / "1.parquet", {**columns(4, first=8), "caption": ["another text"] * 4})
    assert Parquet(folder).open().identity != before


def test_a_remote_file_is_read(tmp_path):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns(3)), buffer)
    fsspec.filesystem("memory").pipe_file("/tables/x.parquet", buffer.getvalue())
    records = Parquet("memory://tables/x.parquet").open()
    assert records[2].image == jpeg(2)
    fsspec.filesystem("memory").rm("/tables", recursive=True)


def test_numbers_are_indices_if_the_data_has_class_names(tmp_path):
    names = {"class": {"names": ["1", "2", "3"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": names}})}
    content = {**columns(3), "class": [0, 1, 2]}
    path = write(tmp_path / "a.parquet", content, metadata=metadata)
    records = Parquet(path, label="class").open()
    assert records.class_names == ("1", "2", "3")
    assert [records.annotation(i).label for i in range(3)] == [0, 1, 2]


def test_an_empty_class_is_not_a_class(tmp_path):
    path = write(tmp_path / "a.parquet", {**columns(3), "class": ["0", "", "1"]})
    records = Parquet(path, label="class").open()
    assert records.class_names == ()
    assert [records.annotation(i).label for i in range(3)] == [0, None, 1]


def test_a_file_without_a_column_of_the_others_is_an_error(tmp_path):
    write(tmp_path / "0.parquet", columns(3))
    write(tmp_path / "1.parquet", {name: c for name, c in columns(3).items() if name != "caption"})
    with pytest.raises(UserError, match=r"1\.parquet: no column 'caption'; .*0\.parquet has it"):
        Parquet(str(tmp_path)).open()


def test_an_unreachable_image_rejects_its_example(tmp_path):
    content = {**columns(2), "image": ["nowhere://bucket/0.jpg", "1.jpg"]}
    records = Parquet(write(tmp_path / "a.parquet", content)).open()
    for index in range(2):
        with pytest.raises(ExampleError, match="cannot be read"):
            records[index]


CLASSES = {"info": {"features": {"label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}}}}


@pytest.mark.parametrize(
    ("values", "metadata", "names", "labels"),
    [
        ([0, 2, None], CLASSES, ("cat", "dog", "emu"), [0, 2, None]),
        ([0, 2, -1], CLASSES, ("cat", "dog", "emu"), [0, 2, None]),
        ([0.0, 2.0, None], CLASSES, ("cat", "dog", "emu"), [0, 2, None]),
        ([10, 2, -1], None, (), [10, 2, None]),
        ([10.0, 2.0, float("nan")], None, (), [10, 2, None]),
        ([2**33, 2, -1], None, ("2", "8589934592"), [1, 0, None]),
        ([1, 2, 0], {"info": None}, (), [1, 2, 0]),
        ([1, 2, 0], {"info": {"features": [{"name": "label"}]}}, (), [1, 2, 0]),
        ([1, 2, 0], {"info": {"features": {"label": [{"dtype": "int64"}]}}}, (), [1, 2, 0]),
        ([1, 2, 0], {"info": {"features": {"label": {"names": {"0": "cat"}}}}}, (), [1, 2, 0]),
        ([1, 2, 0], "not json", (), [1, 2, 0]),
    ],
)
def test_labels_may_be_missing_and_metadata_of_any_kind(tmp_path, values, metadata, names, labels):
    content = metadata if isinstance(metadata, str) else json.dumps(metadata)
    metadata = {"huggingface": content}
    path = write(tmp_path / "x.parquet", {**columns(3), "label": values}, metadata=metadata)
    records = Parquet(path, label="label").open()
    assert records.class_names == names
    assert [records[i].label for i in range(3)] == labels


def test_a_label_column_of_lists_is_an_error(tmp_path):
    path = write(tmp_path / "x.parquet", {**columns(2), "label": [[0], [1]]})
    message = r"data\.source\.label: parquet:x\.parquet: 'label' holds lists or objects; name a"
    with pytest.raises(UserError, match=message):
        Parquet(path, label="label").open()


def test_groups_that_are_too_large_for_one_table_are_read_in_batches(tmp_path, monkeypatch):
    images = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(7)]
    path = write(tmp_path / "x.parquet", {**columns(7), "image": images}, groups=7)
    records = Parquet(path).open()
    (reader,) = records._table._readers
    monkeypatch.setattr("vljax.data.sources.parquet._BATCH_BYTES", 2000)  # about two images

    def refuse(number, columns):
        raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunks")

    monkeypatch.setattr(reader, "read_row_group", refuse)
    assert [records[i].image for i in range(7)] == [jpeg(i) for i in range(7)]
    assert records._table._read(0, ("image",)).column("image").num_chunks > 1


def test_a_group_larger_than_the_cache_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr("vljax.data.sources.parquet._CACHE_BYTES", 1)
    records = Parquet(write(tmp_path / "x.parquet", columns(6))).open()
    readings = []
    plain = records._table._read_group
    monkeypatch.setattr(
        records._table, "_read_group", lambda *args: readings.append(args) or plain(*args)
    )
    assert [records[i].image for i in range(6)] == [jpeg(i) for i in range(6)]
    assert len(readings) == 4  # captions and images of two groups
    assert len(records._table._cache) == 2


def test_text_that_is_not_utf8_rejects_its_example_only(tmp_path):
    texts = pa.array([b"one", b"caf\xe9", b"three"], pa.binary())
    values = pa.StringArray.from_buffers(3, *texts.buffers()[1:])
    path = write(tmp_path / "x.parquet", {**columns(3), "caption": values, "class": values})
    records = Parquet(path, label="class").open()
    assert records.class_names == ("one", "three")
    assert [records.annotation(i).captions for i in range(3)] == [("one",), (), ("three",)]
    with pytest.raises(ExampleError) as caught:
        records[1]
    assert caught.value.kind == "bad_utf8"
    assert len(Parquet(path, filters=(Length("caption", minimum=1),)).open()) == 2


def test_a_damaged_row_group_rejects_its_examples_only(tmp_path, caplog):
    names = [f"name {i}" for i in range(6)]
    path = write(tmp_path / "x.parquet", {**columns(6), "class": names}, groups=3)
    about = pq.ParquetFile(path).metadata.row_group(1).column(3)
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    start = about.dictionary_page_offset or about.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    (tmp_path / "x.parquet").write_bytes(content)
    records = Parquet(path, label="class").open()
    assert "row group 1 of" in caplog.text
    assert [records[i].label for i in range(3)] == [0, 1, 2]
    with pytest.raises(ExampleError, match=r"row 4 of x\.parquet cannot be read") as caught:
        records[4]
    assert caught.value.kind == "unreadable"
