"""`vljax compile` as a person runs it."""

import dataclasses
import importlib.util
import json

import pytest

from tests.commands.conftest import ROOT
from vljax.commands.main import main

COMPILE = ("-m", "vljax.commands.main", "compile")
TINY = "configs/quickstart.py:tiny"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((TINY,), f"add --topology, such as: vljax compile {TINY} --topology v5e:4x4"),
        ((TINY, "--topology"), "--topology needs a name, such as v5e:4x4 or h100:8"),
        ((TINY, "--topology", "v5:4x4"), "--topology: unknown accelerator 'v5'; did you mean"),
        (
            (TINY, "--topology", "v5e:4x4", "--global_batc", "8"),
            "unknown field 'global_batc'; did you mean 'global_batch'?",
        ),
    ],
)
def test_bad_arguments_are_an_error(refused, args, message):
    assert message in refused(*COMPILE, *args)


def test_help_needs_no_topology(call):
    status, out, _ = call(*COMPILE, TINY, "--help")
    assert status == 0
    assert "--global-batch" in out or "--global_batch" in out


@pytest.fixture(scope="module")
def compiled(call):
    """A small recipe for four chips of v5e."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    # Muon has products of its own, which are not the model's.
    adamw = ("--optim", "adamw")
    return call(*COMPILE, TINY, "--topology", "v5e:2x2", "--json", "-", *adamw)


def test_a_step_for_tpu(compiled):
    status, out, err = compiled
    assert status == 0, err
    (line,) = err.splitlines()
    assert line.startswith("compiling for v5e:2x2: 4 devices, data 4 x fsdp 1 x tensor 1")
    report = json.loads(out)
    keys = {
        *("topology", "devices", "compile_seconds", "model_flops", "program_flops"),
        *("predicted_cycles", "predicted_step_seconds", "predicted_mfu", "temp_bytes"),
        *("total_bytes", "device_memory_bytes", "fits", "collectives"),
    }
    assert keys <= report.keys()
    assert report["fits"]
    assert report["predicted_cycles"] > 0
    # All matrix products have predicted cycles, and their time is most of the step.
    assert report["uncosted_flops_share"] == 0
    counted = report["predicted_cycles"] / report["clock_hz"]
    assert 0.3 < counted / report["predicted_step_seconds"] < 1
    assert {row["kind"] for row in report["collectives"]} >= {"all-reduce"}
    assert all(row["axes"] == ["data"] for row in report["collectives"])
    assert 1 <= report["program_flops"] * 4 / report["model_flops"] < 1.3


def test_a_step_that_does_not_fit(monkeypatch, capsys):
    """Status 1. tests/analysis/test_compile.py checks that the compiler's refusal is understood."""
    from vljax.analysis.compile import Report

    values = {field.name: None for field in dataclasses.fields(Report)}
    values |= {"fits": False, "topology": "v5e:4x4", "proposals": [], "notes": []}
    report = Report(**values)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("vljax.analysis.topologies.quiet_environment", lambda _: None)
    monkeypatch.setattr("vljax.analysis.proposals.compile_or_propose", lambda *_: report)
    assert main(["compile", TINY, "--topology=v5e:4x4", "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)["fits"] is False
