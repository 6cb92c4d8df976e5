"""`vljax data index`, run in the test process."""

import csv
import json
import subprocess
import sys

import pytest

from tests.data.written import jpeg, sample, write_shards
from vljax.commands.main import main


@pytest.fixture
def shards(tmp_path):
    samples = [sample(i) for i in range(12)] + [sample(12, jpg=None), sample(13, txt=None)]
    return write_shards(tmp_path / "set", [*samples, sample(14, pyd=b"pickle")])


def run(capsys, *argv):
    status = main(["data", *argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_table_of_shards_examples_fields_and_what_was_left_out(shards, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    status, out, _ = run(capsys, "index", shards)
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0
    for row in ("files 2", "examples 14", "with jpg 14", "with txt 13"):
        assert row in rows
    assert "left out: no image 1" in rows
    assert "left out: pickle 1" in rows


def test_json_has_the_same_counts(shards, capsys):
    status, out, err = run(capsys, "index", shards, "--json", "-")
    (result,) = json.loads(out)["sources"]
    assert status == 0
    assert (result["type"], result["files"], result["examples"]) == ("webdataset", 2, 14)
    assert result["fields"] == {"jpg": 14, "json": 14, "txt": 13}
    assert result["left_out"] == {"no image": 1, "pickle": 1}
    assert result["named"]["no image"] == ["00001.tar/000010002"]
    assert "examples" in err  # the table


def test_several_sources_with_fields_for_all_of_them(shards, tmp_path, capsys):
    fields = ("--captions", "json.caption", "--workers", "1")
    words = ("index", shards, f"webdataset:{shards}/00000.tar", *fields, "--json", "-")
    results = json.loads(run(capsys, *words)[1])["sources"]
    assert [result["examples"] for result in results] == [14, 10]


def test_the_type_of_a_source_is_detected_from_its_files(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(jpeg())
    with open(tmp_path / "x.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], ["pictures/a.jpg", "a"]])
    words = ("index", f"{tmp_path}/pictures", f"{tmp_path}/x.csv", "builtin:test", "--json", "-")
    results = json.loads(run(capsys, *words)[1])["sources"]
    assert [result["type"] for result in results] == ["folder", "csv", "builtin"]
    assert [result["examples"] for result in results[:2]] == [1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("index", "--workers", "2"), "name a data set: vljax data index PATH"),
        (("index", "x", "--workers", "no"), "--workers: needs a number of 1 or more, got 'no'"),
        (("index", "tarr:x"), "unknown source 'tarr'"),
        (("index", "gone/{0..3}.tar"), "path: no such file or folder: gone/"),
        (("index", "gone"), "gone: cannot tell what kind of data set this is; write TYPE:gone"),
        (("indx",), "unknown command 'indx' of vljax data; did you mean 'index'?"),
    ],
)
def test_bad_input_is_a_one_line_error(capsys, words, message):
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_an_unknown_field_is_one_line(shards, capsys):
    status, _, err = run(capsys, "index", shards, "--caption", "txt")
    assert status == 2
    assert err == "error: unknown field 'caption'; did you mean 'captions'?\n"
    status, _, err = run(capsys, "index", shards, "--captions", "text")
    assert "data.source.captions: webdataset:set has no 'text'; did you mean 'txt'?" in err
    assert status == 2


@pytest.mark.parametrize("words", [(), ("index",)])
def test_help(capsys, words):
    with pytest.raises(SystemExit) as stop:
        run(capsys, *words, "--help")
    assert stop.value.code == 0
    assert "index" in capsys.readouterr().out


def test_the_command_starts_without_jax():
    program = (
        "import sys; from vljax.commands.main import main; "
        "status = main(['data', 'index', 'builtin:test', '--json', '-']); "
        "assert status == 0; assert 'jax' not in sys.modules, 'jax'"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
