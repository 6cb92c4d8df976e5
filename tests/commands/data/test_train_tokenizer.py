import io

import pytest
from rich.console import Console

from tests.data.samples import write_jsonl
from vljax.commands.data import train_tokenizer
from vljax.config import UserError, validate
from vljax.data.tokenizers import HuggingFace, load_tokenizer


@pytest.fixture
def source(tmp_path):
    rows = [{"captions": [f"A Photo of {i} dogs", "Two cats"]} for i in range(20)]
    return write_jsonl(tmp_path, rows)


def command(*argv):
    out = io.StringIO()
    console = Console(file=out, width=1000)
    return train_tokenizer.run(list(argv), "vljax data train-tokenizer", console), out.getvalue()


def test_the_printed_options_use_the_written_tokenizer(source, tmp_path):
    path = tmp_path / "made" / "tokenizer.json"
    result, output = command(source, "--out", str(path), "--vocab-size", "300")
    assert result["captions"] == 40
    assert result["cleaning"] == "lower"
    assert result["tokens"]["longest"] >= result["tokens"]["95%"] >= result["tokens"]["mean"] - 1
    assert f"--data.tokenizers.text.path {path} --data.tokenizers.text.cleaning lower" in output
    assert f"--model.nodes.text.vocab_size {result['vocab_size']}" in output

    tokenizer = validate(HuggingFace(str(path), context_length=8, cleaning="lower")).load()
    assert tokenizer.vocab_size == result["vocab_size"] <= 300
    saved = tmp_path / "checkpoint"
    saved.mkdir()
    for name, content in tokenizer.files().items():
        (saved / name).write_bytes(content)
    path.unlink()  # the checkpoint holds a copy
    assert (
        load_tokenizer(str(saved))(["Two CATS"])[0].tolist() == tokenizer(["two cats"])[0].tolist()
    )


def test_the_captions_of_several_data_sets(source, tmp_path):
    out = str(tmp_path / "tokenizer.json")
    result, _ = command(source, source, "--out", out, "--max-examples", "5")
    assert result["captions"] == 20


def test_errors_say_what_to_do(source, tmp_path):
    with pytest.raises(UserError, match=r"name the file to write: .* --out tokenizer\.json"):
        command(source)
    (tmp_path / "there.json").write_text("mine")
    with pytest.raises(UserError, match=r"there\.json: is there already; remove it"):
        command(source, "--out", str(tmp_path / "there.json"))
    assert (tmp_path / "there.json").read_text() == "mine"
    with pytest.raises(UserError, match="vocab_size: must be at least 258"):
        command(source, "--out", str(tmp_path / "new.json"), "--vocab-size", "10")
    with pytest.raises(UserError, match="--max-examples: needs a number of 1 or more, got '0'"):
        command(source, "--out", str(tmp_path / "new.json"), "--max-examples", "0")
    (tmp_path / "bare").mkdir()
    bare = write_jsonl(tmp_path / "bare", [{"captions": []}])
    with pytest.raises(UserError, match="no captions or tags to train on; check which field"):
        command(bare, "--out", str(tmp_path / "new.json"))
    assert not (tmp_path / "new.json").exists()
    with pytest.raises(UserError, match=r"--out .*new\.json: "):
        command(source, "--out", str(tmp_path / "there.json" / "new.json"))


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit):
        command()
    assert "--vocab-size" in capsys.readouterr().out
