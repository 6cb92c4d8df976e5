"""Options of `vljax export`: --accept, --tokenizer and --dtype."""

import dataclasses
import itertools
import json

import instant_clip_tokenizer
import ml_dtypes
import numpy as np
import pytest

from tests.interop.conftest import unzip
from tests.interop.test_folders import quiet, weights
from tests.interop.test_traps import read
from vljax.commands.main import main
from vljax.config import UserError
from vljax.data.tokenizers import Clip
from vljax.data.tokenizers.clip_bpe import ClipBpe
from vljax.interop.checkpoints import read_trained
from vljax.interop.convert import import_model
from vljax.interop.export_plan import ExportIssues
from vljax.interop.formats import ACCEPTABLE, FORMATS, find_format
from vljax.training import checkpoint


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A CLIP that open_clip wrote, with the built-in vocabulary, as a checkpoint."""
    folder = tmp_path_factory.mktemp("home")
    source = unzip("open_clip_clip_a", folder / "foreign")
    import_model(str(source), str(folder / "w"), overwrite=False, report=quiet)
    return folder


def trained(home, *, vocabulary=None, cleaning="clip", resize=None, decode=None):
    """The checkpoint with other cleaning and image transforms."""
    newest = checkpoint.find_intact(str(home / "w"))
    file = None if vocabulary is None else str(vocabulary)
    found, _ = read_trained(newest, vocabulary=file)
    tokenizer = dataclasses.replace(found.tokenizer.config, cleaning=cleaning).load()
    first, second, *others = found.run.data.eval_transforms
    first = dataclasses.replace(first, **(decode or {}))
    second = dataclasses.replace(second, **(resize or {}))
    data = dataclasses.replace(found.run.data, eval_transforms=(first, second, *others))
    run = dataclasses.replace(found.run, data=data)
    return dataclasses.replace(found, run=run, tokenizer=tokenizer)


class _ClipBpe(ClipBpe):
    """Keeps the ids that `from_decode` reads."""

    def __init__(self, ids):
        super().__init__(ids)
        self.ids = ids


@pytest.fixture(scope="module")
def vocabulary(home):
    """A `tokenizer.json` as transformers writes one, with the vocabulary of all CLIPs.

    The two tokens that a token is merged from are the result of all earlier merges on its bytes.
    """
    ids = _ClipBpe.from_decode(instant_clip_tokenizer.Tokenizer().decode).ids
    ranks = sorted(ids, key=ids.get)
    letters = {byte[0]: chr(c) for byte, c in zip(ranks[:256], _letters(), strict=True)}

    def written(token):
        end = token.endswith(b" ")
        return "".join(letters[b] for b in token.removesuffix(b" ")) + "</w>" * end

    merges = [tuple(map(written, _halves(token, ids))) for token in ranks[512:]]
    content = json.loads((unzip("transformers_clip_b", home / "b") / "tokenizer.json").read_text())
    special = {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    content["model"]["vocab"] = {written(token): ids[token] for token in ranks} | special
    content["model"]["merges"] = merges
    for token in content["added_tokens"]:
        token["id"] = special[token["content"]]
    content["post_processor"] = None
    file = home / "tokenizer.json"
    file.write_text(json.dumps(content))
    return file


def _letters():
    """The letters that stand for bytes in such files, in the order of CLIP's first ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*printable, *range(0x100, 0x100 + 256 - len(printable))]


def _halves(token, ids):
    end = token.endswith(b" ")
    parts = [bytes([byte]) for byte in token.removesuffix(b" ")]
    parts[-1] += b" " * end
    while len(parts) > 2:
        ranks = [ids.get(a + b, len(ids)) for a, b in itertools.pairwise(parts)]
        i = ranks.index(min(ranks))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def test_transformers_needs_the_vocabulary_of_clip_as_a_file(home, vocabulary, tmp_path, capsys):
    out, asked = tmp_path / "out", ["--format", "transformers", "--accept", "resize"]
    command = ["export", str(home / "w"), str(out), *asked]
    assert main(command) == 2
    ftfy, built_in, flags = capsys.readouterr().err.splitlines()
    assert "which repairs characters and HTML (ftfy); --accept text-cleaning exports it" in ftfy
    assert "built in and cannot be written as a file, which transformers clip needs" in built_in
    assert flags == "error: to export it anyway, add --accept text-cleaning --tokenizer FILE"
    command += ["--tokenizer", str(vocabulary)]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == ftfy
    assert not out.exists()
    command += ["--accept", "text-cleaning", "--json", str(tmp_path / "done.json")]
    assert main(command) == 0
    notes = json.loads((tmp_path / "done.json").read_text())["notes"]
    assert sum(ACCEPTABLE["text-cleaning"] in note for note in notes) == 1
    config = json.loads((out / "config.json").read_text())["text_config"]
    assert (config["bos_token_id"], config["eos_token_id"]) == (49406, 49407)
    texts = ["a photo of a cat", "  Two DOGS!", "naïve CRÈME"]
    theirs, ours = read(out).tokenizer(texts), Clip(context_length=12).load()(texts)
    for mask, a, b in zip(ours[1], theirs[0], ours[0], strict=True):
        np.testing.assert_array_equal(a[mask], b[mask])


@pytest.mark.parametrize("kind", ["open_clip", "safetensors"])
def test_an_unused_vocabulary_is_an_error(kind, home, tmp_path, capsys):
    command = ["export", str(home / "w"), str(tmp_path / "out"), "--format", kind]
    assert main([*command, "--tokenizer", "tokenizer.json"]) == 2
    assert f"--tokenizer: {kind} does not use it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.json", None, "missing.json: No such file or directory"),
        ("broken.json", b"{", "not a tokenizer.json"),
        ("other.json", "transformers_clip_b", "would get other ids"),
        ("bert.json", "bert_a", r"has no token '<\|(end|start)oftext\|>'"),
    ],
)
def test_a_file_with_another_vocabulary_is_an_error(name, content, message, home, tmp_path):
    file = tmp_path / name
    if isinstance(content, str):
        content = (unzip(content, tmp_path / "other") / "tokenizer.json").read_bytes()
    if content is not None:
        file.write_bytes(content)
    issues = ExportIssues("transformers", tuple(ACCEPTABLE))
    with pytest.raises(UserError, match=message):
        find_format("transformers").write(trained(home, vocabulary=file), issues)


@pytest.mark.parametrize(
    ("kind", "issue", "changes", "message"),
    [
        ("open_clip", "text-cleaning", {"cleaning": "whitespace"}, "without ftfy before it"),
        ("open_clip", "resize", {"resize": {"antialias": False}}, "without antialiasing"),
        ("open_clip", "resize", {"decode": {"scaled": True}}, "no finer than needed"),
        ("open_clip", "resize", {"resize": {"interpolation": "area"}}, "interpolation by area"),
        ("open_clip", "resize", {"resize": {"centre": "floor"}}, "rounded down rather than"),
        ("transformers", "resize", {"resize": {"centre": "round"}}, "rounded to even pixels"),
        ("transformers", "resize", {"resize": {"antialias": False}}, "without antialiasing"),
        ("stablehlo", "resize", {"decode": {"scaled": True}}, "no finer than needed"),
    ],
)
def test_an_export_issue_is_named_and_may_be_accepted(kind, issue, changes, message, home, request):
    if kind == "transformers":
        floor = {"centre": "floor"} if "antialias" in changes["resize"] else {}
        changes = {"resize": {**floor, **changes["resize"]}}
        changes["vocabulary"] = request.getfixturevalue("vocabulary")
    other = trained(home, **changes)
    others = [name for name in ACCEPTABLE if name != issue]
    fmt = find_format(kind)
    with pytest.raises(UserError, match=f"cannot express .*{message}.*--accept {issue} exports"):
        fmt.write(other, ExportIssues(kind, others))
    issues = ExportIssues(kind, tuple(ACCEPTABLE))
    fmt.write(other, issues)
    assert any(message in note and ACCEPTABLE[issue] in note for note in issues.notes)


def test_accepting_an_unknown_issue_is_an_error(home, tmp_path, capsys):
    asked = ["--format", "open_clip", "--accept", "resizing"]
    assert main(["export", str(home / "w"), str(tmp_path / "out"), *asked]) == 2
    expected = "error: --accept: unknown issue 'resizing'; did you mean 'resize'?"
    assert capsys.readouterr().err.strip() == expected


@pytest.mark.parametrize("kind", ["open_clip", "transformers"])
def test_bfloat16_weights_round_trip(kind, foreign, tmp_path):
    """Import and export do not round values a second time."""
    name = "transformers_siglip_b" if kind == "transformers" else "open_clip_siglip_b"
    paths = [str(tmp_path / name) for name in ("w", "half", "again", "whole")]
    assert main(["import", str(foreign(name)), paths[0]]) == 0
    asked = ["--format", kind]
    assert main(["export", paths[0], paths[1], *asked, "--dtype", "bfloat16"]) == 0
    half = weights(tmp_path / "half")
    assert {array.dtype for array in half.values()} == {np.dtype(ml_dtypes.bfloat16)}
    if kind == "transformers":
        assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    assert main(["import", paths[1], paths[2]]) == 0
    assert main(["export", paths[2], paths[3], *asked]) == 0
    for key, array in weights(tmp_path / "whole").items():
        np.testing.assert_array_equal(array, half[key].astype(np.float32), strict=True)


def test_help_has_a_line_for_each_format(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert all([name, *entry.help.split()] in lines for name, entry in FORMATS.items())
