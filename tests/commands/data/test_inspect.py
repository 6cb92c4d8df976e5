"""`vljax data inspect`, run in the test process."""

import csv
import json

import numpy as np
import pytest

from tests.data.samples import encoded, picture, write_jsonl
from vljax.commands.main import main
from vljax.data.sources import Folder
from vljax.data.transforms import ChooseText
from vljax.files import filesystem


@pytest.fixture
def table(tmp_path):
    same, truncated = encoded(picture(60, 90, seed=50), "JPEG"), encoded(picture(60, 90), "JPEG")
    files = {
        **{f"{i}.png": encoded(picture(40, 80, seed=i + 1)) for i in range(4)},
        "same1.jpg": same,
        "same2.jpg": same,
        "like.jpg": encoded(picture(60, 90, seed=50), "JPEG", quality=50),
        "alpha.png": encoded(picture(40, 30, 4, seed=60)),
        "truncated.jpg": truncated[: len(truncated) // 2],
        "page.jpg": b"<html>",
        "large.png": encoded(picture(100, 200, seed=70)),
    }
    captions = {
        "0.png": "A  dog",
        "1.png": "a dog",
        "2.png": " ",
        "3.png": "<script>x</script> собака собака собака",
    }
    rows = [["image", "caption"]]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        rows.append([name, captions.get(name, f"one of {name}")])
    rows.append(["gone.png", "not there"])
    with open(tmp_path / "set.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "set.csv"


def run(capsys, *argv):
    status = main(["data", "inspect", *map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def found(capsys, *argv):
    status, out, _ = run(capsys, *argv, "--json", "-")
    assert status == 0
    return json.loads(out)["sources"][0]


def test_names_between_colons_are_not_emoji(tmp_path, capsys):
    (tmp_path / "0.png").write_bytes(encoded(picture(8, 8)))
    (tmp_path / "set.csv").write_text("image,caption,kind\n0.png,a dog,:dog:\n")
    status, out, _ = run(capsys, tmp_path / "set.csv", "--label", "kind")
    assert status == 0
    assert ":dog:" in out


def test_all_statistics_of_a_small_set(table, capsys):
    result = found(capsys, table, "--max-pixels", 10_000)
    assert (result["examples"], result["examined"], result["seed"]) == (12, 12, None)
    kinds = {kind: about["count"] for kind, about in result["unusable"]["kinds"].items()}
    assert kinds == dict.fromkeys(
        ("truncated", "not_an_image", "too_many_pixels", "no_caption", "unreadable"), 1
    )
    assert result["unusable"]["kinds"]["truncated"]["first"][0]["example"] == 8
    images, captions = result["images"], result["captions"]
    assert images["formats"] == {"PNG": 6, "JPEG": 4}
    assert (images["number"], images["alpha"], images["width"]["largest"]) == (10, 1, 200)
    assert (captions["number"], captions["blank"]) == (10, 1)
    assert captions["scripts"] == {"Latin": 9, "Cyrillic": 1}
    assert captions["repeated"]["most_frequent"] == [{"caption": "A  dog", "count": 2}]
    duplicates = result["duplicates"]
    assert duplicates["exact"]["largest"] == [{"size": 2, "examples": [4, 5]}]
    assert duplicates["near"]["largest"] == [{"size": 2, "examples": [4, 6]}]


def test_headers_only(table, capsys):
    result = found(capsys, table, "--headers-only")
    assert "truncated" not in result["unusable"]["kinds"]
    assert result["duplicates"]["near"] is None
    assert result["duplicates"]["exact"]["groups"] == 1


def test_a_sample_is_described(capsys):
    status, out, _ = run(capsys, "builtin:test", "--sample", 20, "--sample-seed", 3)
    assert status == 0
    text = " ".join(out.split())
    assert (
        "20 of 424 examples were looked at, drawn at random without replacement with seed 3" in text
    )


def test_tokens_are_counted_with_the_chosen_tokenizer(table, capsys):
    words = ("--tokenizer", "clip", "--tokenizer.context_length", 4)
    tokens = found(capsys, table, *words)["captions"]["tokens"]
    assert (tokens["tokenizer"], tokens["context_length"]) == ("clip", 4)
    assert tokens["cut"] == tokens["number"] - 2  # "a dog" needs four
    assert "tokens" not in found(capsys, table, "--tokenizer", "none")["captions"]


def test_a_recipe_gives_its_sources_and_tokenizer(capsys):
    words = ("configs/quickstart.py", "--data.source.split", "test", "--sample", 8)
    result = found(capsys, *words)
    assert (result["source"], result["captions"]["tokens"]["context_length"]) == (
        "builtin:test",
        16,
    )


def test_tokenizer_fields_override_those_of_the_recipe(capsys):
    words = ("configs/quickstart.py", "--data.source.split", "test", "--sample", 8)
    own = found(capsys, *words)["captions"]["tokens"]
    short = found(capsys, *words, "--tokenizer.context_length", 5)["captions"]["tokens"]
    assert short["context_length"] == 5
    for name in ("tokenizer", "number", "smallest", "mean", "largest"):
        assert short[name] == own[name]


def test_a_folder_named_like_a_tokenizer_is_ignored(table, tmp_path, capsys, monkeypatch):
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path)
    assert found(capsys, table)["captions"]["tokens"]["tokenizer"] == "clip"


def test_scenes_need_no_path(capsys):
    result = found(capsys, "scenes", "--examples", 3, "--size", 64, "--objects.split", "test")
    assert (result["examples"], result["images"]["formats"]) == (3, {"BMP": 3})


def test_the_page_holds_pictures_and_no_markup_of_captions(table, tmp_path, capsys):
    status, _, _ = run(capsys, table, "--html", tmp_path / "pages" / "set.html")
    page = (tmp_path / "pages" / "set.html").read_text()
    assert status == 0
    assert page.count("<img") >= 8
    assert "<script" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert 'src="http' not in page


def test_the_page_may_be_written_to_a_url(table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(
        capsys, table, "--headers-only", "--html", "memory://pages/set.html", "--json", "-"
    )
    assert json.loads(result[1])["html"] == "memory://pages/set.html"
    system, path = filesystem("memory://pages/set.html")
    assert system.cat_file(path).startswith(b"<!doctype html>")
    assert not (tmp_path / "memory:").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sample", "3"), "name a data set: vljax data inspect PATH"),
        (("builtin:test", "--sample", "0"), "--sample: needs a number of 1 or more, got '0'"),
        (("builtin:test", "--sample-seed", "-1"), "--sample-seed: must be 0 or more, got -1"),
        (("builtin:test", "--html", "."), "--html .: is a folder; name a file in it"),
        (("builtin:test", "--html", "gss://b/x.html"), "gss://b/x.html: unknown kind of address"),
        (("builtin:test", "--tokenizer", "clpi"), "--tokenizer: unknown tokenizer 'clpi'"),
        (("builtin:test", "--tokenizer", "none", "--tokenizer.cleaning", "lower"),
         "--tokenizer.cleaning: --tokenizer is none"),
        (("builtin:test", "--tokenizer.cleening", "lower"), "unknown field 'cleening'"),
        (("scenes:x",), "scenes:x: scenes is not made from a path"),
        (("gone",), "gone: cannot tell what kind of data set this is"),
        (("configs/gone.py",), "no recipe file 'configs/gone.py'"),
    ],
)  # fmt: skip
def test_bad_input_is_a_one_line_error(capsys, words, message):
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        run(capsys, "--help")
    assert stop.value.code == 0
    assert "--sample-seed" in capsys.readouterr().out


def test_half_characters_are_shown_as_unknown_ones(tmp_path, capsys):
    rows = [{"caption": "a smile \ud83d", "class": "half \ud83d"}, {"caption": "b", "class": "c"}]
    page = tmp_path / "page.html"
    assert run(capsys, write_jsonl(tmp_path, rows), "--html", page)[0] == 0
    assert "a smile \ufffd" in page.read_text(encoding="utf-8")


def test_a_set_without_examples_is_an_error(tmp_path, capsys):
    (tmp_path / "x.csv").write_text("image,caption\n")
    assert run(capsys, tmp_path / "x.csv") == (2, "", "error: csv:x.csv: no examples\n")


def test_control_characters_of_a_set_do_not_reach_the_terminal(tmp_path, capsys):
    (tmp_path / "0.png").write_bytes(encoded(picture(8, 8)))
    rows = "0.png,a cat,\x1b[31mred\n0.png,a cat,\x1b[2J\n\x1b[31m.png,a dog,blue\n"
    (tmp_path / "x.csv").write_text("image,caption,kind\n" + rows)
    status, out, _ = run(capsys, tmp_path / "x.csv", "--label", "kind")
    assert status == 0
    assert "\\x1b[31mred" in out
    assert "\x1b[2J" not in out
    assert "\x1b[31m" not in out
    status, _, err = run(capsys, tmp_path / "x.csv", "--label", "kind\x1b[31m")
    assert (status, "\x1b" in err) == (2, False)


def test_a_folder_by_class_is_as_usable_as_in_training(tmp_path, capsys):
    for i, name in enumerate(["cat/0.png", "cat/1.png", "dog/2.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture(8, 8, seed=i)))
    result = found(capsys, f"folder:{tmp_path}")
    assert (result["unusable"]["usable"], result["captions"]["only_tags"]) == (3, 3)
    records, rng = Folder(str(tmp_path)).open(), np.random.default_rng(0)
    chosen = [ChooseText(tags=0.5)({"record": records[i]}, rng)["text"] for i in range(3)]
    assert chosen == ["cat", "cat", "dog"]
    _, out, _ = run(capsys, f"folder:{tmp_path}")
    assert "only tags, no caption" in out
    (tmp_path / "3.png").write_bytes(encoded(picture(8, 8, seed=3)))  # in no class
    assert found(capsys, f"folder:{tmp_path}")["unusable"]["kinds"]["no_caption"]["count"] == 1
    tokenizer = tmp_path / "tokenizer.json"
    train = ["data", "train-tokenizer", f"folder:{tmp_path}", "--out", str(tokenizer)]
    assert main([*train, "--vocab-size", "300", "--min-frequency", "1"]) == 0
    assert "Ġdog" in json.loads(tokenizer.read_text())["model"]["vocab"]
