"""`vljax check`: one line and exit status 2 for everything that a recipe can get wrong."""

import json

import pytest

QUICKSTART = "configs/quickstart.py:tiny"
CHECK = ("-m", "vljax.cli", "check")


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [
        # Counts of the released models: open_clip's ViT-B-16, timm's SigLIP models.
        ("clip_vit_b16", 149_620_737),
        ("siglip_vit_b16", 203_155_970),
        ("siglip_so400m14_384", 877_960_498),
    ],
)
def test_published_recipes_pass_with_their_data_unset(call, recipe, parameters):
    status, out, err = call(*CHECK, f"configs/{recipe}.py", "--json", "-")
    assert status == 0, err
    summary = json.loads(out)
    assert summary["parameters"]["total"] == parameters
    assert "data.source.path: unset" in summary["notes"]
    assert ("data.tokenizer.path: unset" in summary["notes"]) == recipe.startswith("siglip")
    left_over = [note for note in summary["notes"] if "6 pixels" in note]
    assert bool(left_over) == (recipe == "siglip_so400m14_384")


def test_a_table_for_people(call):
    status, out, _ = call(*CHECK, QUICKSTART)
    assert status == 0
    assert "configs/quickstart.py:tiny: can run" in out
    assert "parameters, total" in out


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
        (["--optim.learning_rate", "fast"], "could not convert string to float: 'fast'"),
        (["--optim.learning_rate", "0"], "optim.learning_rate: must be positive, not 0.0"),
        (["--steps", "1.5"], "invalid literal for int"),
        (["--steps", "0"], "steps: must be at least 1, not 0"),
        (
            ["--objectives.contrastive", "sigmod"],
            "unknown objective 'sigmod'; did you mean 'sigmoid'?",
        ),
        (
            ["--model.encoders.image.patch_size", "65"],
            "patch_size: a patch of 65 pixels is larger than the image (64 pixels)",
        ),
        (
            ["--model.encoders.text.heads", "5"],
            "heads: 5 heads do not divide the width 32; 4 would",
        ),
        (
            ["--model.encoders.image.image_size", "32"],
            "model.encoders.image: is made for (32, 32, 3), but the data gives (64, 64, 3)",
        ),
        (
            ["--model.encoders.text.context_length", "8"],
            "model.encoders.text: is made for (8,), but the data gives (16,)",
        ),
        (
            ["--model.encoders.text.vocab_size", "100"],
            "model.encoders.text.vocab_size: 100 is less than the tokenizer's 2048 ids",
        ),
        (["--mesh.data", "3"], "mesh: data 3 x fsdp 1 x tensor 1 does not fit 1 device(s)"),
        (
            ["--optim.decay_rules", ".*kernell", "1", ".*", "0"],
            "optim.decay_rules: '.*kernell' matches no parameter",
        ),
        (
            ["--optim.decay_rules", ".*kernel", "1"],
            "optim.decay_rules: no pattern covers",
        ),
        (
            ["--objectives.contrastive.trains", "imag/.*"],
            "objectives.contrastive.trains: 'imag/.*' matches no parameter",
        ),
        (
            ["--data.tokenizer.path", "/no/such"],
            "data.tokenizer.path: no such file or folder: /no/such",
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
        (["--json"], "--json needs a path, or - for standard output"),
        (["--json", "/no/such/folder/x.json"], "--json /no/such/folder/x.json: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_recipe_can_get_wrong(in_process, overrides, message):
    assert message in in_process("check", QUICKSTART, *overrides)


def test_a_batch_that_the_mesh_cannot_split(in_process):
    """The test process has eight devices."""
    said = in_process("check", QUICKSTART, "--global_batch", "60")
    assert "global_batch: the mesh (data 8 x fsdp 1) cannot split 60; 64 would do" in said
    said = in_process("check", QUICKSTART, "--evaluators.retrieval.batch_size", "12")
    assert "evaluators.retrieval.batch_size: the mesh (data 8 x fsdp 1) cannot split 12" in said


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("configs/quickstat.py", "no recipe file 'configs/quickstat.py'; did you mean"),
        ("train.py", "train.py defines no recipe()"),
        ("configs/quickstart.py:tny", "unknown variant 'tny'; did you mean 'tiny'?"),
    ],
)
def test_recipe_files(refused, recipe, message):
    assert message in refused(*CHECK, recipe)


@pytest.fixture
def in_process(capsys, monkeypatch):
    """A refused command in this process, which spares the start of an interpreter."""
    from tests.cli.conftest import ROOT
    from vljax.cli import main

    def run(*args):
        monkeypatch.chdir(ROOT)
        if "--mesh.data" in args:
            monkeypatch.setattr("jax.devices", lambda: __import__("jax").local_devices()[:1])
        assert main(args) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        return line

    return run
