"""Tar shards written by the webdataset package."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest

from tests.data.samples import sample_data
from tests.data.written import jpeg, sample, write_shards, write_tar
from vljax.config import UserError, decode, encode, validate
from vljax.data.pipeline.pipeline import stream_fingerprint, train_batches
from vljax.data.records import ExampleError, Source
from vljax.data.sources import WebDataset
from vljax.data.sources.filters import Equals, Length, Range
from vljax.data.sources.webdataset import WebDatasetRecords


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "set", [sample(i, cls=str(i % 3)) for i in range(25)])


def test_shards_written_by_webdataset_are_read(folder):
    records = WebDataset(folder, label="cls").open()
    assert len(records) == 25
    for number in (0, 9, 10, 24):
        record = records[number]
        assert record.image == sample(number)["jpg"]
        assert record.captions == (f"picture {number}",)
        assert record.label == number % 3
    assert records.class_names == ()


def test_entries_of_the_json_member_are_columns(folder):
    captions = ("json.url", "txt")
    records = WebDataset(folder, captions=captions, tags="json.status").open()
    assert records[3].captions == ("https://example.org/3.jpg", "picture 3")
    assert records[3].tags == ("success",)


def test_a_json_entry_may_have_several_captions_and_tags(tmp_path):
    about = {"captions": ["one", "two"], "tags": ["a", "b"], "class": "dog"}
    folder = write_shards(tmp_path, [sample(0, json=about)])
    source = WebDataset(folder, captions=("json.captions",), tags="json.tags", label="json.class")
    record = source.open()[0]
    assert (record.captions, record.tags, record.label) == (("one", "two"), ("a", "b"), 0)
    assert source.open().class_names == ("dog",)


def test_class_names_come_from_a_file(folder, tmp_path):
    (tmp_path / "names").write_text("ant\nbee\ncat\n")
    records = WebDataset(folder, label="cls", classes=str(tmp_path / "names")).open()
    assert records.class_names == ("ant", "bee", "cat")
    (tmp_path / "names").write_text("ant\nbee\n")
    records = WebDataset(folder, label="cls", classes=str(tmp_path / "names")).open()
    with pytest.raises(ExampleError, match="class 2 has no name; there are 2"):
        records[2]


def test_examples_are_numbered_after_filtering(folder):
    filters = (
        Range("json.width", minimum=25),
        Length("txt", minimum=10),
        Equals("json.status", values=("success",)),
    )
    records = WebDataset(folder, filters=filters).open()
    assert [records[i].captions[0] for i in range(len(records))] == [
        f"picture {i}" for i in range(10, 25)
    ]
    assert records.counts.left_out == {
        "json.width is not at least 25": 5,
        "length of txt is not at least 10": 5,
    }


def test_the_preferred_of_several_images_is_read(tmp_path):
    both = sample(0, jpg=None, png=b"second", webp=b"third")
    folder = write_shards(tmp_path, [both])
    assert WebDataset(folder).open()[0].image == b"second"
    assert WebDataset(folder, image=("webp",)).open()[0].image == b"third"


def test_records_are_pickled_and_read_by_threads(folder):
    records = WebDataset(folder).open()
    expected = [records[i] for i in range(25)]
    copy = pickle.loads(pickle.dumps(records))
    with ThreadPoolExecutor(8) as pool:
        indices = np.random.default_rng(0).integers(0, 25, 200).tolist()
        assert list(pool.map(copy.__getitem__, indices)) == [expected[i] for i in indices]


def test_remote_shards_are_read_by_byte_ranges(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.put(f"{folder}/*.tar", "/bucket/")
    local, remote = WebDataset(folder).open(), WebDataset("memory://bucket").open()
    monkeypatch.setattr(system, "open", None)  # no shard is read from start to end any more
    assert [remote[i] for i in (3, 21)] == [local[i] for i in (3, 21)]
    assert remote.identity == local.identity
    system.rm("/bucket", recursive=True)


def test_a_caption_that_is_not_utf8_rejects_only_its_example(tmp_path):
    samples = [sample(0), sample(1, txt=b"caf\xe9")]
    records = WebDataset(write_shards(tmp_path, samples)).open()
    assert records.annotation(1).captions == ()
    with pytest.raises(ExampleError, match=r"^txt is not UTF-8 \(byte 3\)$"):
        records[1]
    assert records[0].captions == ("picture 0",)


def test_an_invalid_json_member_rejects_its_example(tmp_path):
    samples = [sample(0), {**sample(1), "json": b"{"}]
    records = WebDataset(write_shards(tmp_path, samples), captions=("json.caption",)).open()
    with pytest.raises(ExampleError, match="json is not valid"):
        records[1]


def test_rejected_examples_stay_in_their_batch(tmp_path, caplog):
    bad = [
        sample(0, txt=b"\xff"),
        sample(1, txt=None),
        sample(2, jpg=b"no image"),
        sample(3, jpg=sample(3)["jpg"][:300]),
    ]
    folder = write_shards(tmp_path, [*bad, *(sample(i) for i in range(4, 8))])
    data = sample_data(folder, source=WebDataset(folder))
    batches = train_batches(data, seed=0, global_batch=8)
    batch = next(batches)
    batches.close()
    by_id = dict(zip(batch["example_id"][:, 1].tolist(), batch["valid"].tolist(), strict=True))
    assert by_id == {i: i >= 4 for i in range(8)}
    reasons = "\n".join(caplog.messages)
    for reason in ("txt is not UTF-8", "no caption", "image is none of", "image cannot be decoded"):
        assert reason in reasons


def test_a_shard_truncated_after_indexing_rejects_examples(folder):
    records = WebDataset(folder).open()
    with open(f"{folder}/00001.tar", "r+b") as shard:
        shard.truncate(2000)
    with pytest.raises(ExampleError, match=r"shard 00001\.tar is shorter than when it was indexed"):
        records[19]
    assert records[9].captions == ("picture 9",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": ("text",)}, r"captions: webdataset:set has no 'text'; did you mean 'txt'\?"),
        ({"captions": ("json.captoin",)}, r"did you mean 'json.caption'\?"),
        ({"label": "class"}, "label: webdataset:set has no 'class'"),
        (
            {"filters": (Range("json.widht", minimum=1),)},
            r"filters.0.column: .* has no 'json.widht'; did you mean 'json.width'\?",
        ),
    ],
)
def test_a_missing_column_is_an_error_with_a_suggestion(folder, changes, message):
    with pytest.raises(
        UserError, match=rf"^data\.source\.{message}" if ":" in message else message
    ):
        WebDataset(folder, **changes).open()


def test_an_unset_path_or_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"data\.source\.path: unset; set --data\.source\.path"):
        WebDataset().open()
    with pytest.raises(UserError, match=r"nor a folder with \.tar files there"):
        WebDataset(str(tmp_path)).open()


def test_a_recipe_checks_the_path_of_a_source(folder, tmp_path):
    source = WebDataset((folder, f"{folder}/{{00000..00001}}.tar"), filters=(Range("json.w", 1),))
    assert decode(Source, encode(source)) == source
    assert validate(source) == source
    with pytest.raises(UserError, match=f"path: no such file or folder: {tmp_path}/gone/"):
        validate(WebDataset(f"{tmp_path}/gone/{{00000..00001}}.tar"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/cc12m", "cc12m"),
        ("gs://bucket/cc12m/{00000..01242}.tar", "cc12m"),
        ("cc12m.tar", "cc12m"),
        (("/a/cc3m", "/b/cc12m/*.tar"), "cc3m+cc12m"),
        (None, "webdataset"),
    ],
)
def test_the_data_set_is_named_after_its_folder(path, name):
    assert WebDataset(path).dataset == name


def test_the_fingerprint_changes_with_shards_and_columns(folder, tmp_path):
    def plan_of(**changes):
        source = WebDataset(f"{folder}/{{00000..00002}}.tar", **changes)
        return stream_fingerprint(sample_data(folder, source=source), seed=0, global_batch=4)

    assert plan_of() == plan_of(index_folder=str(tmp_path / "elsewhere"))
    assert plan_of() != plan_of(captions=("json.caption",))
    before = plan_of()
    write_shards(tmp_path / "set", [sample(i, txt="new") for i in range(25)])
    assert plan_of() != before


def test_marks_and_missing_classes_in_members(tmp_path):
    mark = b"\xef\xbb\xbf"
    members = {}
    for i, (number, about) in enumerate([(b"10", "dog"), (b"-1", float("nan")), (b"2\n", ["dog"])]):
        about = json.dumps({"class": about, "text": "half \ud83d"})
        members |= {f"{i}.jpg": jpeg(i), f"{i}.txt": mark + b"a cat", f"{i}.cls": mark + number}
        members |= {f"{i}.json": about.encode()}
    path = write_tar(tmp_path / "x.tar", members)
    records = WebDataset(path, captions=("txt", "json.text"), label="cls").open()
    assert records.class_names == ()
    assert [records[i].label for i in range(3)] == [10, None, 2]
    assert records[0].captions == ("a cat", "half \ufffd")
    records = WebDataset(path, label="json.class").open()
    assert records.class_names == ("dog",)
    assert [records.annotation(i).label for i in range(3)] == [0, None, None]
    with pytest.raises(ExampleError, match="class is not one value but list"):
        records[2]


def late(folder, first, count):
    members = {}
    for i in range(count):
        about = {"text": f"picture {i}"} if i >= first else {"url": "x"}
        members |= {f"{i}.jpg": b"x", f"{i}.json": json.dumps(about).encode()}
    return write_tar(folder / "x.tar", members)


@pytest.mark.parametrize("first", [1, 99, 100, 149])
def test_a_json_entry_may_occur_late(tmp_path, first):
    path = late(tmp_path, first, 150)
    records = WebDataset(path, captions=("json.text",)).open()
    captions = [records.annotation(i).captions for i in range(150)]
    assert captions == [()] * first + [(f"picture {i}",) for i in range(first, 150)]
    assert len(WebDataset(path, captions=("json.url",), tags="json.text").open()) == 150
    with pytest.raises(UserError, match=r"has no 'json\.texts'; did you mean 'json\.text'\?"):
        WebDataset(path, captions=("json.texts",)).open()


def test_examples_are_read_for_columns_only_until_all_are_found(tmp_path, monkeypatch):
    path = late(tmp_path, 120, 150)
    readings = []
    plain = WebDatasetRecords.json_columns
    monkeypatch.setattr(
        WebDatasetRecords, "json_columns", lambda self, i: readings.append(i) or plain(self, i)
    )
    WebDataset(path, captions=("json.url",)).open()
    assert readings == []
    WebDataset(path, captions=("json.text",)).open()
    assert readings == [*range(121)]
