"""The modules that each command imports at start-up."""

import pytest


def imported(call, code, *names):
    status, out, err = call("-c", f"import sys\n{code}\nprint(*(set({names}) & set(sys.modules)))")
    assert status == 0, err
    return set(out.split())


def test_import_vljax_imports_nothing_heavy(call):
    assert imported(call, "import vljax", "jax", "numpy", "flax", "tyro", "rich") == set()


def test_help_imports_nothing_heavy(call):
    code = "from vljax.commands.main import main\ntry: main(['--help'])\nexcept SystemExit: print()"
    names = {"jax", "flax", "orbax", "grain", "tyro", "rich", "numpy"}
    _, out, _ = call("-c", f"import sys\n{code}\nprint('MODULES', *({names} & set(sys.modules)))")
    assert "train" in out
    assert "check" in out
    assert out.splitlines()[-1].split() == ["MODULES"]


@pytest.mark.parametrize("args", [["--help"], ["check", "--help"], ["train", "--help"]])
def test_help(call, args):
    status, out, err = call("-m", "vljax.commands.main", *args)
    assert (status, err) == (0, "")
    assert "usage: vljax" in out


def test_help_of_a_recipe_lists_its_fields(call):
    status, out, _ = call("-m", "vljax.commands.main", "check", "configs/quickstart.py", "--help")
    assert status == 0
    for field in ("--optim.learning_rate", "--model.nodes.image.patch_size", "--mesh.fsdp"):
        assert field in out
    assert "Examples in a batch, over all devices and processes." in " ".join(out.split())
    (losses,) = (x for x in out.splitlines() if x.startswith("  --objectives.contrastive {"))
    assert {"attention_target", "classification", "sigmoid", "softmax"} <= set(
        losses.strip(" }").split("{")[1].split(", ")
    )
    (sources,) = (line for line in out.splitlines() if line.startswith("  --data.source {"))
    named = set(sources.strip(" }").split("{")[1].split(", "))
    assert {"array_record", "builtin", "webdataset"} <= named
    assert out.splitlines()[-1].startswith("--json PATH")


def test_version(call):
    import vljax

    assert call("-m", "vljax.commands.main", "--version")[1].strip() == f"vljax {vljax.__version__}"


def test_no_command_is_an_error(call):
    status, _, err = call("-m", "vljax.commands.main")
    assert status == 2
    assert "COMMAND" in err
