"""`vljax data convert`; vljax and other software read the result."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from unittest.mock import MagicMock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from tests.data.samples import captioned, encoded, picture, write_jsonl
from tests.data.written import jpeg, sample, write_shards
from vljax.commands.main import main
from vljax.data.sources import ArrayRecord, JsonLines, Karpathy, WebDataset
from vljax.datasets import Builtin, Scenes


def run(capsys, *argv):
    status = main(["data", "convert", *map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def converted(capsys, *argv):
    status, out, err = run(capsys, *argv, "--workers", "1", "--json", "-")
    assert status == 0, err
    return json.loads(out)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def examples(folder):
    """The examples in tar shards, read undecoded by the `webdataset` package."""
    files = sorted(str(path) for path in folder.glob("*.tar"))
    return list(webdataset.WebDataset(files, shardshuffle=False))


def records(folder):
    """Descriptions and images, read by the array_record package and split as documented."""
    result = []
    for path in sorted(folder.glob("*.array_record")):
        for record in ArrayRecordReader(str(path)).read_all():
            end = 8 + int.from_bytes(record[4:8], "little")
            result.append((json.loads(record[8:end]), record[end:]))
    return result


SUFFIX = {"webdataset": "tar", "array_record": "array_record"}


def every(records):
    return [records[i] for i in range(len(records))]


@pytest.fixture
def pets(tmp_path):
    rows = [
        {
            **row,
            "url": f"https://example.org/{i}",
            "score": i / 2,
            "captions": [row["caption"], "é"],
        }
        for i, row in enumerate(captioned(7))
    ]
    for row in rows:
        row["captions"] = [row.pop("caption"), "é"]
    (tmp_path / "in").mkdir()
    return write_jsonl(tmp_path / "in", rows)


def test_other_software_reads_shards_in_order_with_all_columns(pets, tmp_path, capsys):
    out = tmp_path / "out"
    result = converted(capsys, pets, "--to", "webdataset", "--out", out, "--examples-per-shard", 3)
    assert (result["examples"], result["shards"], result["new_shards"]) == (7, 3, 3)
    read = examples(out)
    assert [example["__key__"] for example in read] == [f"{i:09d}" for i in range(7)]
    for i, example in enumerate(read):
        assert example["png"] == (tmp_path / "in" / f"{i}.png").read_bytes()
        assert example["txt"].decode() == f"photo number {i}"
        assert example["cls"].decode() == str(i % 2)  # even, odd
        about = json.loads(example["json"])
        assert about["captions"] == [f"photo number {i}", "é"]
        assert about["tags"] == ["small", "square", f"tag{i}"]
        assert about["class"] == ("odd" if i % 2 else "even")
        assert (about["url"], about["score"]) == (f"https://example.org/{i}", i / 2)
        assert (about["image"], about["width"], about["height"]) == (f"{i}.png", 24, 20)


def test_the_printed_options_read_all_shards(pets, tmp_path, capsys):
    out = tmp_path / "out"
    result = converted(capsys, pets, "--to", "webdataset", "--out", out)
    assert result["read_with"] == (
        f"--data.source webdataset --data.source.path {out} --data.source.captions json.captions "
        "--data.source.tags json.tags --data.source.label json.class "
        f"--data.source.classes {out}/classes.txt"
    )
    source = WebDataset(
        str(out),
        captions=("json.captions",),
        tags="json.tags",
        label="json.class",
        classes=str(out / "classes.txt"),
    )
    before, after = JsonLines(pets).open(), source.open()
    assert every(after) == every(before)
    assert after.class_names == before.class_names


def test_array_record_package_and_vljax_read_array_record_shards(pets, tmp_path, capsys):
    out = tmp_path / "out"
    converted(capsys, pets, "--to", "array_record", "--out", out, "--examples-per-shard", 4)
    before, after = JsonLines(pets).open(), ArrayRecord(str(out)).open()
    assert every(after) == every(before)
    assert after.class_names == before.class_names
    for i, (description, image) in enumerate(records(out)):
        assert image == (tmp_path / "in" / f"{i}.png").read_bytes()
        assert (description["url"], description["score"]) == (f"https://example.org/{i}", i / 2)


def test_shards_of_img2dataset_keep_members_entries_and_keys(tmp_path, capsys):
    long = "k" * 120  # longer than fits into a header
    written = [sample(i, npy=b"\0" + bytes([i])) for i in range(3)] + [sample(7, __key__=long)]
    shards, out = write_shards(tmp_path / "in", written), tmp_path / "out"
    converted(capsys, shards, "--to", "webdataset", "--out", out)
    read = examples(out)
    assert len(read) == 4
    for i, (old, new) in enumerate(zip(written, read, strict=True)):
        about = json.loads(new["json"])
        assert about.pop("__key__") == old["__key__"]
        assert about.pop("captions") == [old["txt"]]
        expected = json.loads(old["json"])
        if expected["width"] != 24:  # img2dataset's name for the stored size
            expected["source_width"], expected["width"] = expected["width"], 24
        assert {name: about[name] for name in expected} == expected
        assert (new["jpg"], new.get("npy")) == (old["jpg"], old.get("npy"))
        assert new["txt"].decode() == old["txt"], i
    status, _, err = run(capsys, shards, "--to", "array_record", "--out", tmp_path / "records")
    assert status == 2
    assert "example 0: column 'npy' is bytes, which array_record cannot hold" in err
    assert "leave it out by --drop npy" in err
    dropped = ("--drop", "npy", "--to", "array_record", "--out", tmp_path / "dropped")
    assert converted(capsys, shards, *dropped)["examples"] == 4
    assert [d["url"] for d, _ in records(tmp_path / "dropped")] == [
        json.loads(example["json"])["url"] for example in written
    ]


def test_tables_keep_columns_that_training_does_not_read(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["image", "caption", "alt", "url"], ["a.jpg", "a cat", "Katze", "u"]]
        )
    fields = ("--captions", "caption", "alt")
    converted(
        capsys, tmp_path / "t.csv", *fields, "--to", "array_record", "--out", tmp_path / "csv"
    )
    ((about, image),) = records(tmp_path / "csv")
    assert image == jpeg(1)
    assert about == {
        "captions": ["a cat", "Katze"],
        "image": "a.jpg",
        "caption": "a cat",
        "alt": "Katze",
        "url": "u",
        "width": 24,
        "height": 20,
    }
    table = pa.table(
        {
            "image": [{"bytes": jpeg(2), "path": "b.jpg"}],
            "caption": ["a dog"],
            "when": pa.array([np.datetime64("2026-01-02T03:04:05")]),
            "missing": [float("nan")],
            "vector": [[0.5, 1.0]],
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    converted(capsys, tmp_path / "p.parquet", "--to", "webdataset", "--out", tmp_path / "pq")
    (example,) = examples(tmp_path / "pq")
    about = json.loads(example["json"])
    assert example["jpg"] == jpeg(2)
    assert (about["image"], about["missing"], about["vector"]) == ("b.jpg", None, [0.5, 1.0])
    assert about["when"].startswith("2026-01-02T03:04:05")


def test_repeated_conversion_keeps_every_earlier_size(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(encoded(picture(40, 80)))
    row = {"image": "a.png", "original_width": 640, "width": 100, "original_height": None}
    path, rows = write_jsonl(tmp_path, [row]), []
    for side in (64, 32, 16):
        out = tmp_path / str(side)
        converted(capsys, path, "--max-side", side, "--to", "array_record", "--out", out)
        rows.append(records(out)[0][0])
        path = out
    assert {k: v for k, v in rows[-1].items() if k != "image"} == {
        "width": 16,
        "source_width_3": 32,
        "source_width_2": 64,
        "source_width": 100,
        "original_width": 640,
        "height": 8,
        "source_height": 16,
        "original_height": 32,
    }


def test_split_files_keep_all_fields_of_an_image(tmp_path, capsys):
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    sentence = {"raw": "A cat.", "tokens": ["a", "cat"], "sentid": 3}
    row = {"filename": "1.jpg", "filepath": "val2014", "cocoid": 7, "imgid": 0, "sentids": [3]}
    rows = [{**row, "split": "test", "sentences": [sentence]}]
    file = tmp_path / "dataset_coco.json"
    file.write_text(json.dumps({"dataset": "coco", "images": rows}))
    words = (f"karpathy:{file}", "--to", "array_record", "--out", tmp_path / "out")
    converted(capsys, *words)
    ((about, _),) = records(tmp_path / "out")
    assert about["captions"] == ["A cat."]
    assert {name: about[name] for name in row} == row
    assert about["sentences"] == [{"tokens": ["a", "cat"], "sentid": 3}]
    assert Karpathy(str(file)).open().other_columns(0) == {}


def test_a_folder_keeps_paths_and_sidecar_files(tmp_path, capsys):
    folder = tmp_path / "in" / "cat"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(jpeg(1))
    (folder / "a.txt").write_text("one\ntwo\n")
    (folder / "a.json").write_text('{"by": "me"}')
    (folder / "a.dat").write_bytes(b"\xff")
    converted(capsys, tmp_path / "in", "--to", "webdataset", "--out", tmp_path / "out")
    (example,) = examples(tmp_path / "out")
    about = json.loads(example["json"])
    assert (about["path"], about["json"]) == ("cat/a.jpg", {"by": "me"})
    assert (about["class"], about["captions"]) == ("cat", ["one", "two"])
    assert (example["dat"], example["txt"]) == (b"\xff", b"one")


def test_scenes_keep_regions_questions_and_masks(tmp_path, capsys):
    # Objects of the test split: opening scenes measures all pictures of the split.
    fields = ("--examples", 3, "--size", 64, "--objects.split", "test")
    words = ("scenes", *fields, "--to", "array_record", "--out")
    counted = converted(capsys, *words, tmp_path / "out")["fields"]
    assert counted == {"captions": 3, "tags": 3, "phrases": 3, "questions": 3, "regions": 3}
    before, after = (
        Scenes(Builtin("test"), examples=3, size=64).open(),
        ArrayRecord(str(tmp_path / "out")),
    )
    assert every(after.open()) == every(before)
    assert before[0].regions
    assert before[0].questions
    assert before[0].masks
    bare = converted(capsys, *words, tmp_path / "bare", "--drop", "questions", "masks")
    assert "questions" not in bare["fields"]
    record = ArrayRecord(str(tmp_path / "bare")).open()[0]
    assert (record.questions, record.masks, record.regions) == ((), None, before[0].regions)
    status, _, err = run(capsys, *words, tmp_path / "small", "--max-side", 32)
    assert status == 2
    assert "--max-side: examples have boxes, in pixels; set the size of the source" in err


def test_foreign_columns_named_like_our_layout_are_kept(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    others = {"regions": "Europe", "phrases": [1], "questions": {"a": "b"}, "masks": ["m.png"]}
    path = write_jsonl(tmp_path, [{"image": "a.jpg", "captions": ["x"], **others}])
    for to in SUFFIX:
        converted(capsys, path, "--to", to, "--out", tmp_path / to)
    ((about, _),) = records(tmp_path / "array_record")
    (example,) = examples(tmp_path / "webdataset")
    for description in (about, json.loads(example["json"])):
        assert {name: description[name] for name in others} == others
    opened = ArrayRecord(str(tmp_path / "array_record")).open()
    assert (opened[0].captions, opened[0].regions, opened[0].masks) == (("x",), (), None)
    assert {name: opened.other_columns(0)[name] for name in others} == others
    path = write_jsonl(tmp_path, [{"image": "a.jpg", "vljax_layout": 1}])
    status, _, err = run(capsys, path, "--to", "array_record", "--out", tmp_path / "own")
    assert status == 2
    assert "column 'vljax_layout' has the name of something else in what is written; leave" in err


def test_images_are_resized_and_encoded_by_the_options(tmp_path, capsys):
    wide, small = picture(60, 90, seed=1), picture(20, 30, seed=2)
    alpha = np.concatenate([small, np.full((20, 30, 1), 7, np.uint8)], axis=-1)
    for name, content in (
        ("0.jpg", encoded(wide, "JPEG")),
        ("1.png", encoded(small)),
        ("2.png", encoded(alpha)),
    ):
        (tmp_path / name).write_bytes(content)
    path = write_jsonl(
        tmp_path, [{"image": f"{i}.{e}"} for i, e in enumerate(("jpg", "png", "png"))]
    )
    converted(capsys, path, "--max-side", 45, "--to", "webdataset", "--out", tmp_path / "a")
    first, second, third = examples(tmp_path / "a")
    scaled = Image.open(io.BytesIO(first["jpg"]))
    about = json.loads(first["json"])
    assert scaled.size == (45, 30) == (about["width"], about["height"])
    reference = io.BytesIO()
    with Image.open(tmp_path / "0.jpg") as image:
        image.resize((45, 30), Image.Resampling.BICUBIC).save(reference, "JPEG", quality=95)
    difference = np.asarray(scaled, np.int16) - np.asarray(Image.open(reference), np.int16)
    assert np.abs(difference).max() <= 1
    assert second["png"] == (tmp_path / "1.png").read_bytes()
    assert third["png"] == (tmp_path / "2.png").read_bytes()
    words = (path, "--encode", "jpg", "--max-rejected-share", 0.5, "--to", "webdataset", "--out")
    result = converted(capsys, *words, tmp_path / "b")
    assert (result["examples"], result["rejected"]) == (2, {"transparent": 1})
    assert examples(tmp_path / "b")[0]["jpg"] == (tmp_path / "0.jpg").read_bytes()


def test_rejected_examples_are_counted_listed_and_limited(pets, tmp_path, capsys):
    (tmp_path / "in" / "2.png").write_bytes(b"no image")
    (tmp_path / "in" / "5.png").unlink()
    out = tmp_path / "out"
    words = (pets, "--to", "array_record", "--out", out, "--examples-per-shard", 3)
    status, _, err = run(capsys, *words, "--workers", 1, "--max-rejected-share", 0.2)
    assert status == 2
    assert err.count("\n") == 1
    assert "--max-rejected-share: 2 of 7 examples cannot be used, more than 0.2 of them" in err
    assert "such as example 2 (2.png): image is none of JPEG" in err
    result = converted(capsys, *words, "--max-rejected-share", 0.5)  # all shards are there
    assert (result["examples"], result["new_shards"]) == (5, 0)
    assert result["rejected"] == {"not_an_image": 1, "unreadable": 1}
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(row["index"], row["id"], row["kind"]) for row in rows] == [
        (2, "2.png", "not_an_image"),
        (5, "5.png", "unreadable"),
    ]
    assert [d["image"] for d, _ in records(out)] == [f"{i}.png" for i in (0, 1, 3, 4, 6)]


@pytest.mark.parametrize("to", ["webdataset", "array_record"])
def test_bytes_do_not_depend_on_workers_and_missing_shards_are_rewritten(to, tmp_path, capsys):
    words = ("builtin:test", "--to", to, "--examples-per-shard", 150, "--out")
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(capsys, *words, one, "--workers", 1)[0] == 0
    assert run(capsys, *words, two, "--workers", 2)[0] == 0
    before = contents(one)
    assert contents(two) == before
    shard = sorted(one.glob(f"*.{SUFFIX[to]}"))[1]
    shard.unlink()
    (one / f"{shard.name}.0123.partial").write_bytes(b"left by a process that was killed")
    assert converted(capsys, *words, one)["new_shards"] == 1
    assert contents(one) == before


def test_a_killed_conversion_leaves_only_complete_shards_and_resumes(tmp_path, capsys):
    words = ["builtin:test", "--to", "webdataset", "--examples-per-shard", "10", "--workers", "2"]
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "vljax.commands.main",
        "data",
        "convert",
        *words,
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("*.tar")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = sorted(out.glob("*.tar"))
    assert 0 < len(there) < 43
    for path in there:
        with tarfile.open(path) as tar:
            assert len({name.partition(".")[0] for name in tar.getnames()}) == 10
    time.sleep(1)  # the workers end with their parent
    result = converted(capsys, *words[:-2], "--out", out)
    assert result["complete"]
    whole = tmp_path / "whole"
    converted(capsys, *words[:-2], "--out", whole)
    assert contents(out) == contents(whole)


def test_a_full_disk_is_a_one_line_error_and_leaves_no_shard(tmp_path):
    program = (
        "import resource, sys; from vljax.commands.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "sys.exit(main(sys.argv[1:]))"
    )
    for to in ("webdataset", "array_record"):
        words = ["data", "convert", "builtin:test", "--to", to, "--out", str(tmp_path / to)]
        done = subprocess.run(
            [sys.executable, "-c", program, *words, "--workers", "1"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"error: {tmp_path}/{to}/00000.{SUFFIX[to]}")
        assert done.stderr.count("\n") == 1
        assert {path.suffix for path in (tmp_path / to).iterdir()} <= {".txt", ".json", ""}


def test_a_url_may_be_the_output(pets, tmp_path, capsys):
    words = (pets, "--to", "webdataset", "--examples-per-shard", 3, "--out")
    converted(capsys, *words, tmp_path / "local")
    converted(capsys, *words, f"file://{tmp_path}/remote")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")


def test_a_column_with_a_reserved_name_is_an_error(tmp_path, capsys):
    shards = write_shards(tmp_path / "tar", [sample(0, json={"captions": ["x"]})])
    status, _, err = run(capsys, shards, "--to", "array_record", "--out", tmp_path / "out")
    assert status == 2
    assert "column 'captions' has the name of something else in what is written" in err
    assert "read it (--captions) or leave it out by --drop captions" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("builtin:test", "--out", "x"), "--to is missing: vljax data convert SOURCE --to"),
        (("builtin:test", "--to", "webdataset"), "--out is missing: vljax data convert SOURCE"),
        (("tarr:x", "--to", "webdataset", "--out", "x"), "unknown source 'tarr'"),
        (("mixture", "--to", "webdataset", "--out", "x"), "parts: a mixture needs at least one"),
        (
            ("builtin", "--to", "webdataset", "--out", "x", "--examples-per-shard", "0"),
            "--examples-per-shard: needs a number of 1 or more, got '0'",
        ),
        (
            ("builtin", "--to", "webdataset", "--out", "x", "--max-side", "abc"),
            "--max-side: needs a number of 1 or more, got 'abc'",
        ),
        (("builtin", "--to", "tar", "--out", "x"), "--to: invalid choice: 'tar'"),
        (
            ("builtin", "--to", "webdataset", "--out", "x", "--quality", "80"),
            "--quality: is for images that are re-encoded; add --encode or --max-side",
        ),
        (
            ("builtin", "--to", "webdataset", "--out", "x", "--max-rejected-share", "2"),
            "--max-rejected-share: must be 0 to 1, got 2.0",
        ),
        (
            ("builtin", "builtin:test", "--to", "webdataset", "--out", "x"),
            "convert one data set at a time, got 2",
        ),
    ],
)
def test_bad_input_is_a_one_line_error(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("words", [("--help",), ("builtin", "--help"), ("builtin", "-h")])
def test_help_after_a_source_lists_its_fields(capsys, words):
    with pytest.raises(SystemExit) as stop:
        run(capsys, *words)
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert ("--max-side" in shown) == (len(words) == 1)
    assert ("--split" in shown) == (len(words) == 2)


def test_a_folder_with_other_files_is_refused(tmp_path, capsys, pets):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_bytes(b"mine")
    status, _, err = run(capsys, pets, "--to", "webdataset", "--out", tmp_path / "full")
    assert status == 2
    assert "is there already and holds 'photo.jpg'; choose a folder of its own" in err
    words = (pets, "--to", "webdataset", "--out", tmp_path / "out")
    converted(capsys, *words)
    status, _, err = run(capsys, *words, "--examples-per-shard", 3)
    assert status == 2
    assert "holds another conversion (examples_per_shard was 10000, now 3)" in err


def test_a_tilde_means_the_home_folder(pets, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = converted(capsys, pets, "--to", "webdataset", "--out=~/out")
    assert result["out"] == str(tmp_path / "out")
    assert (tmp_path / "out" / "00000.tar").exists()
    assert not (tmp_path / "~").exists()


def test_one_conversion_at_a_time_writes_to_a_folder(tmp_path, capsys, pets, monkeypatch):
    out = tmp_path / "out"
    words = (pets, "--to", "webdataset", "--out", out)
    converted(capsys, *words)
    program = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = [sys.executable, "-c", program, str(out / ".convert" / "lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(holder, **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        under_way = out / "00000.tar.0123.partial"
        under_way.write_bytes(b"half of it")
        monkeypatch.setattr(
            tempfile, "tempdir", str(tmp_path)
        )  # another user may have another TMPDIR
        status, _, err = run(capsys, *words)
        assert status == 2
        assert err == (
            f"error: --out {out}: another conversion is writing there; wait until it ends, or write"
            " elsewhere\n"
        )
        assert under_way.read_bytes() == b"half of it"
        other.stdin.close()
    assert converted(capsys, *words)["new_shards"] == 0
    assert not under_way.exists()


def test_missing_beam_is_an_error(tmp_path, capsys, pets, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    words = ("--to", "webdataset", "--out", tmp_path / "out", "--beam=--runner=DirectRunner")
    status, _, err = run(capsys, pets, *words)
    assert status == 2
    assert err == "error: --beam needs a package: pip install 'vljax[beam]'\n"


def test_a_pipeline_that_leaves_no_shards_is_an_error(tmp_path, capsys, pets, monkeypatch):
    for name in ("apache_beam", "apache_beam.options", "apache_beam.options.pipeline_options"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    sys.modules["apache_beam"].Pipeline.return_value.__exit__.return_value = None
    words = ("--to", "webdataset", "--out", tmp_path / "out", "--examples-per-shard", 3)
    status, out, err = run(capsys, pets, *words, "--beam=--runner=DirectRunner")
    assert (status, out) == (2, "")
    assert "the pipeline ended, but 3 of 3 shards are not there, such as 00000.tar; name" in err


def test_class_names_of_any_kind_survive(tmp_path, capsys):
    classes = ["a\nb", "a\nb", "c", " d", "d", "x\u2028y", "e\x85f", "half \ud83d"]
    (tmp_path / "in").mkdir()
    rows = [{"caption": "x", "class": name} for name in classes]
    source = JsonLines(write_jsonl(tmp_path / "in", rows)).open()
    assert len(source.class_names) == 7
    for target, label in (("webdataset", "json.class"), ("array_record", "class")):
        out = tmp_path / target
        converted(capsys, tmp_path / "in" / "pets.jsonl", "--to", target, "--out", out)
        kind = {"webdataset": WebDataset, "array_record": ArrayRecord}[target]
        read = kind(str(out), label=label, classes=f"{out}/classes.txt").open()
        assert read.class_names == source.class_names
        assert [x.label for x in every(read)] == [x.label for x in every(source)]
    beside = ArrayRecord(str(tmp_path / "array_record")).open()
    assert beside.class_names == source.class_names


@pytest.mark.parametrize("target", ["webdataset", "array_record"])
def test_half_characters_do_not_stop_a_conversion(target, tmp_path, capsys):
    half = "a smile \ud83d"
    rows = [{"caption": f"picture {i}", "tags": ["x"]} for i in range(12)]
    rows[3] = {"caption": half, "tags": [half], "class": half, half: {half: 1}}
    rows[5]["note"] = half
    (tmp_path / "in").mkdir()
    path = write_jsonl(tmp_path / "in", rows)
    result = converted(capsys, path, "--to", target, "--out", tmp_path / "out")
    assert (result["examples"], result["rejected"]) == (11, {"bad_utf8": 1})
    kind, columns = {
        "webdataset": (WebDataset, {"captions": ("json.captions",), "tags": "json.tags"}),
        "array_record": (ArrayRecord, {}),
    }[target]
    read = kind(str(tmp_path / "out"), **columns).open()[3]
    assert (read.captions, read.tags) == (("a smile \ufffd",), ("a smile \ufffd",))


def test_large_images_are_made_small_up_to_a_limit(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    path = write_jsonl(tmp_path / "in", [{"image": f"{i}.png", "caption": "x"} for i in range(2)])
    for i, size in enumerate(((8000, 8001), (300, 300))):
        Image.new("L", size).save(tmp_path / "in" / f"{i}.png")
    options = (path, "--to", "webdataset", "--max-side", "64", "--max-rejected-share", "0.5")
    result = converted(capsys, *options, "--out", tmp_path / "a")
    assert (result["examples"], result["rejected"]) == (2, {})
    limited = converted(capsys, *options, "--out", tmp_path / "b", "--max-pixels", "64000000")
    assert limited["rejected"] == {"too_many_pixels": 1}
