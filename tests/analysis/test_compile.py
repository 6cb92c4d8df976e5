"""Reports of compiled steps, with eight CPU devices in place of a topology."""

import dataclasses
import json
import math

import jax
import pytest

from vljax import config
from vljax.analysis import compile as compiling
from vljax.analysis import proposals
from vljax.analysis.compile import compile_report, model_flops, needed_bytes
from vljax.analysis.topologies import Topology
from vljax.commands.compile import print_compiled
from vljax.optim import AdamW
from vljax.run import Run, prepare

EIGHT = Topology("v5e:2x4", "tpu", "v5e", (2, 4))


@pytest.fixture(scope="module")
def run():
    """A recipe with AdamW: the products of Muon are not those of the model."""
    run = config.load("configs/quickstart.py:tiny", Run)
    return dataclasses.replace(run, optim=AdamW(learning_rate=1e-3))


@pytest.fixture(scope="module")
def report(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "devices", lambda _: jax.devices()[:8])
        return compile_report(run, EIGHT, lambda line: None)


def by_hand(run):
    """Products of the two towers and of the embeddings, for the whole batch."""
    image, text = (run.model.encoders[name] for name in ("image", "text"))
    tokens = (image.image_size // image.patch_size) ** 2
    patch = 2 * tokens * 3 * image.patch_size**2 * image.width
    blocks = 0
    for tower, length in ((image, tokens), (text, text.context_length)):
        block = 4 * tower.width**2 + 2 * tower.width * tower.mlp_dim
        attention = 2 * length * tower.width
        blocks += tower.depth * 2 * length * (block + attention)
    return run.global_batch, patch, blocks


def test_model_flops_by_hand(run):
    """Three times the forward pass, but twice for patches: pixels need no gradient.

    The rest are the projections of the embeddings, which are linear in the widths.
    """
    counted = model_flops(prepare(run))
    batch, patch, blocks = by_hand(run)
    heads = counted - batch * (2 * patch + 3 * blocks)
    assert 0 <= heads < 0.05 * counted
    twice = dataclasses.replace(run, global_batch=2 * run.global_batch)
    assert model_flops(prepare(twice)) == 2 * counted


def test_nodes_that_no_objective_reads_do_not_count(run):
    spare = dataclasses.replace(run.model.nodes["image"], entry="image")
    model = dataclasses.replace(run.model, nodes={**run.model.nodes, "spare": spare})
    assert model_flops(prepare(dataclasses.replace(run, model=model))) == model_flops(prepare(run))


def test_the_numbers_of_a_report_are_consistent(run, report):
    assert report.devices == math.prod(report.mesh.values()) == 8
    assert report.fits
    assert report.total_bytes == (
        report.argument_bytes + report.output_bytes + report.temp_bytes - report.alias_bytes
    )
    # The program computes the model and the loss.
    assert 1 <= report.program_flops * 8 / report.model_flops < 1.3
    seconds = report.predicted_step_seconds
    assert report.predicted_mfu == pytest.approx(report.model_flops / 8 / 197e12 / seconds)
    # The CPU compiler gives no cycle estimates: all instructions take their roofline time.
    assert report.predicted_cycles == 0
    assert report.uncosted_flops_share == 1
    parts = report.uncosted_seconds + report.exposed_collective_seconds
    assert seconds == pytest.approx(parts + report.exposed_copy_seconds)
    reductions = [row for row in report.collectives if row["kind"] == "all-reduce"]
    assert [row["axes"] for row in reductions] == [["data"]]
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(prepare(run).shapes.params))
    assert reductions[0]["bytes"] >= 4 * parameters


def test_the_printed_table(monkeypatch, capsys, report):
    monkeypatch.setenv("COLUMNS", "80")
    print_compiled("configs/x.py", report)
    out = capsys.readouterr().out
    assert out.startswith("configs/x.py on v5e:2x4 (TPU v5e): fits\n")
    for wanted in ("predicted step", "predicted MFU", "on each device, in all", "all-reduce over"):
        assert wanted in out
    assert out.endswith("Predictions are estimates of a cost model, not measurements.\n")
    assert max(map(len, out.splitlines()[1:-1])) <= 80
    json.dumps(report.as_dict())


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # The two forms of libtpu 0.0.42.
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 18.77G of 15.75G hbm. Exceeded hbm capacity by 3.02G.",
            int(18.77 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (512.00G) exceeds available HBM (15.75G).",
            512 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: Attempting to allocate something else", None),
        ("INTERNAL: Used 1.00G of 2.00G", None),
    ],
)
def test_needed_bytes_of_a_rejected_program(message, expected):
    assert needed_bytes(message) == expected


@pytest.fixture
def overflow(report):
    """Twice the memory of the device."""
    needed = 2 * report.device_memory_bytes
    return dataclasses.replace(report, fits=False, total_bytes=needed, predicted_step_seconds=None)


def test_candidates(run, overflow):
    remat = ["--model.nodes.image.remat", "full", "--model.nodes.text.remat", "full"]
    fsdp = ["--mesh.data", "-1", "--mesh.fsdp", "8"]
    accumulate = ["--accumulate", "4"]
    wanted = [remat, accumulate, fsdp, [*remat, *accumulate, *fsdp]]
    assert proposals.candidates(run, overflow) == wanted
    split = dataclasses.replace(overflow, mesh={"data": 1, "fsdp": 8, "tensor": 1})
    assert fsdp not in proposals.candidates(run, split)


def test_proposals_are_compiled(monkeypatch, capsys, run, report, overflow):
    """Here only rematerialisation helps, and an impossible mesh is skipped."""
    tried = []

    def compile_report(changed, topology, say):
        tried.append(changed)
        if changed.mesh.fsdp > 1:
            raise config.UserError("mesh: no")
        both = {encoder.remat for encoder in changed.model.encoders.values()}
        return report if both == {"full"} else overflow

    monkeypatch.setattr(proposals, "compile_report", compile_report)
    said = []
    result = proposals.compile_or_propose(run, EIGHT, said.append)
    assert len(tried) == 5
    assert [row["fits"] for row in result.proposals] == [True, False]
    assert "not possible: mesh: no" in said
    print_compiled("x.py", result)
    out = capsys.readouterr().out
    assert "x.py on v5e:2x4 (TPU v5e): does not fit" in out
    assert "fits with: --model.nodes.image.remat full --model.nodes.text.remat full (" in out
    assert "tried: --accumulate 4: does not fit either (31.5 GiB)" in out
