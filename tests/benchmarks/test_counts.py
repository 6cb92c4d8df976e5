"""The guard of compiled counts: the comparison, and the counts of the current steps."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import counts
from benchmarks.guard import compare
from benchmarks.guard.cases import CASES

ROOT = Path(__file__).parents[2]

# The files that determine the compiled steps.
SUBJECT = [
    "benchmarks/counts.py",
    "benchmarks/guard",
    "configs",
    "constraints.txt",
    "vljax/analysis",
    "vljax/models",
    "vljax/objectives",
    "vljax/optim",
    "vljax/parallel",
    "vljax/programs.py",
    "vljax/run.py",
    "vljax/training/step.py",
    "vljax/training/state.py",
]
NAME = "siglip_b16_v5e"
VERSIONS = {"jax": "1", "jaxlib": "1", "libtpu": "1"}
BEFORE = {"program_flops": 1_000_000, "temp_bytes": 500, "transposes": 0}


@pytest.fixture
def guard(monkeypatch, tmp_path, capsys):
    """Runs the command on one case; returns its status and what it says on standard error."""
    path = tmp_path / "stored.json"
    compare.save(compare.Stored(VERSIONS, {NAME: BEFORE}), path)
    monkeypatch.setattr(compare, "installed", lambda: VERSIONS)

    def run(now, *args):
        monkeypatch.setattr(counts, "counts", lambda name: now)
        status = counts.main(["--only", NAME, *args], path)
        lines = capsys.readouterr().err.splitlines()
        return status, [line for line in lines if "compiling" not in line]

    run.path = path
    return run


def test_equal_counts_pass(guard):
    assert guard(BEFORE) == (0, [])


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("program_flops", 1_020_000, "program_flops 1.020e6, stored 1.000e6 (+2.0 %)"),
        ("temp_bytes", 510, "temp_bytes 510, stored 500 (+2.0 %)"),
        ("transposes", 1, "transposes 1, stored 0 (+inf %)"),
    ],
)
def test_a_worse_count_is_named(guard, name, value, line):
    assert guard({**BEFORE, name: value}) == (1, [f"siglip_vit_b16 on v5e:2x2: {line}"])


def test_a_difference_of_one_per_cent_passes(guard):
    assert guard({**BEFORE, "program_flops": 1_010_000}) == (0, [])
    assert guard({**BEFORE, "program_flops": 1_010_001})[0] == 1
    assert guard({**BEFORE, "program_flops": 990_000}) == (0, [])


def test_a_better_count_passes_and_asks_for_an_update(guard):
    """It does not make up for a worse one."""
    status, (line,) = guard({**BEFORE, "program_flops": 980_000})
    assert status == 0
    assert line.startswith(
        "better: siglip_vit_b16 on v5e:2x2: program_flops 980000, stored 1.000e6"
    )
    assert line.endswith(f"(-2.0 %); keep it: {compare.UPDATE} --only {NAME}")
    status, lines = guard({"program_flops": 980_000, "temp_bytes": 510, "transposes": 0})
    assert (status, len(lines)) == (1, 2)


def test_counts_that_cannot_be_compared_are_named(guard):
    """A new count, one that is no longer counted, a case without stored values."""
    status, (line,) = guard({**BEFORE, "copies": 3})
    assert (status, line) == (
        1,
        f"siglip_vit_b16 on v5e:2x2: copies is not stored; run {compare.UPDATE}",
    )
    less = {name: value for name, value in BEFORE.items() if name != "transposes"}
    status, (line,) = guard(less)
    assert status == 1
    assert "transposes is stored and not counted" in line
    compare.save(compare.Stored(VERSIONS, {}), guard.path)
    status, (line,) = guard(BEFORE)
    assert status == 1
    assert "nothing is stored" in line
    gone = compare.Stored(VERSIONS, {"old": {}})
    assert compare.forgotten(CASES, gone) == [f"old: stored, but no case; run {compare.UPDATE}"]


def test_other_versions_are_named_before_anything_is_compiled(guard, monkeypatch):
    monkeypatch.setattr(compare, "installed", lambda: {**VERSIONS, "libtpu": "2"})
    status, lines = guard(None)
    assert status == 1
    assert lines[0] == "libtpu is 2, stored 1"
    assert lines[1].endswith(compare.UPDATE)
    # For CPU, libtpu compiles nothing.
    assert compare.other_versions({"jax": "1", "jaxlib": "1"}, VERSIONS, on_tpu=False) == []
    assert compare.other_versions({"jax": "1"}, VERSIONS, on_tpu=False) == [
        "jaxlib is missing, stored 1"
    ]


def test_a_missing_tpu_compiler_is_named(guard, monkeypatch):
    monkeypatch.setattr(compare, "installed", lambda: {"jax": "1", "jaxlib": "1"})
    assert guard(None) == (1, ["libtpu is not installed: pip install 'vljax[tpu-aot]'"])


def test_update_of_one_case(guard, monkeypatch):
    """It keeps the other cases, and is refused if these were counted with other versions."""
    both = {NAME: BEFORE, "quickstart_cpu": BEFORE}
    compare.save(compare.Stored(VERSIONS, both), guard.path)
    worse = {**BEFORE, "temp_bytes": 1000}
    assert guard(worse, "--update") == (0, [])
    assert guard(worse) == (0, [])
    assert compare.load(guard.path).counts == {NAME: worse, "quickstart_cpu": BEFORE}
    monkeypatch.setattr(compare, "installed", lambda: {**VERSIONS, "jaxlib": "2"})
    status, lines = guard(BEFORE, "--update")
    assert status == 1
    assert "without --only" in lines[-1]
    assert json.loads(guard.path.read_text())["versions"] == VERSIONS


def test_an_unknown_case_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        counts.main(["--only", "siglip"])
    assert "unknown: siglip" in capsys.readouterr().err


@pytest.mark.slow(subject=SUBJECT)
@pytest.mark.parametrize("name", CASES)
def test_no_step_takes_more_than_stored(name):
    """`counts` removes the compiler options that `tests/conftest.py` sets."""
    if platform.machine() != "x86_64":
        pytest.skip("the stored counts are those of an x86-64 host")
    if CASES[name].needs_libtpu and importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install 'vljax[tpu-aot]', or [dev]")
    command = [sys.executable, "benchmarks/counts.py", "--only", name]
    run = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
