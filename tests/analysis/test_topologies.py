"""Names of topologies, and their devices if the compilers are installed."""

import importlib.util
import subprocess
import sys
from importlib import resources

import pytest

from vljax.analysis.accelerators import ACCELERATORS
from vljax.analysis.topologies import Topology, devices, quiet_environment, topology
from vljax.config import UserError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v5e:4x4", ("tpu", "v5e", (4, 4), 1)),
        ("v5e:4x4*2", ("tpu", "v5e", (4, 4), 2)),
        ("v5p:8x8x16", ("tpu", "v5p", (8, 8, 16), 1)),
        ("tpu7x:4x4x4", ("tpu", "tpu7x", (4, 4, 4), 1)),
        ("h100:8", ("gpu", "h100", (1, 8), 1)),
        ("h100:2x8", ("gpu", "h100", (2, 8), 1)),
    ],
)
def test_topology_names(name, expected):
    assert topology(name) == Topology(name, *expected)
    assert topology(name).accelerator is ACCELERATORS[expected[1]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5:4x4", "unknown accelerator 'v5'; did you mean 'v5"),
        ("", "unknown accelerator ''; known: a100, b200, "),
        ("v5e:4x4x4", "write v5e:4x4 or v5e:4x4*2 (two slices), not 'v5e:4x4x4'"),
        ("v5p", "write v5p:4x4x4 or v5p:4x4x4*2 (two slices), not 'v5p'"),
        ("v5e:4x0", "write v5e:4x4"),
        ("v5e:4x4*0", "write v5e:4x4"),
        ("h100:8*2", "write h100:8 or h100:2x8 (nodes x GPUs), not 'h100:8*2'"),
        ("h100:2x2x8", "write h100:8 or h100:2x8"),
    ],
)
def test_malformed_names(name, message):
    with pytest.raises(UserError) as error:
        topology(name)
    assert str(error.value).startswith("--topology: ")
    assert message in str(error.value)


@pytest.mark.parametrize(("name", "extra"), [("v5e:4x4", "tpu-aot"), ("h100:8", "cuda")])
def test_a_missing_compiler_is_an_error(monkeypatch, name, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError) as error:
        devices(topology(name))
    wanted = f"needs the compiler of that platform: pip install 'vljax[{extra}]'"
    assert str(error.value) == f"--topology {name}: {wanted}"


def test_peaks_and_clocks_are_consistent():
    """Peak FLOP/s divided by FLOPs per cycle gives the known clocks: 1.5 GHz for v5e, and 1.75 GHz
    for v5p (jax-ml.github.io/scaling-book).
    """
    clocks = {name: a.clock for name, a in ACCELERATORS.items() if a.clock}
    assert clocks["v5e"] == pytest.approx(1.5e9, rel=0.01)
    assert clocks["v5p"] == pytest.approx(1.75e9, rel=0.01)
    assert set(clocks) == {"v4", "v5e", "v5p", "v6e", "tpu7x"}


@pytest.mark.parametrize("kind", ["a100", "h100", "h200", "b200"])
def test_gpu_descriptions_match_the_table(kind):
    text = (resources.files("vljax.analysis") / "gpu" / f"{kind}.txtpb").read_text()
    assert f"device_memory_size: {ACCELERATORS[kind].memory_bytes}\n" in text
    assert f"memory_bandwidth: {ACCELERATORS[kind].memory_bandwidth}\n" in text


DEVICES = """
import os
from vljax.analysis.topologies import devices, quiet_environment, topology
quiet_environment(os.environ)
found = devices(topology("{name}"))
where = "process_index" if found[0].platform == "gpu" else "slice_index"
print(found[0].platform, len(found), len({{getattr(d, where, 0) for d in found}}))
"""


@pytest.mark.parametrize(
    ("name", "platform", "count", "slices"),
    [
        # The topologies that the recipes' figures are for; v4 has one device a chip.
        ("v5e:16x16", "tpu", 256, 1),
        ("v4:2x2x2", "tpu", 8, 1),
        ("v5p:8x8x16", "tpu", 1024, 1),
        ("tpu7x:4x4x4", "tpu", 128, 1),
        ("v5e:4x4*2", "tpu", 32, 2),
        ("h100:2x8", "gpu", 16, 2),
    ],
)
def test_devices_of_a_topology(name, platform, count, slices):
    package = {"tpu": "libtpu", "gpu": "jax_cuda12_plugin"}[platform]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, "-c", DEVICES.format(name=name)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.stderr == ""
    assert run.stdout.split() == [platform, str(count), str(slices)]


def test_a_shape_that_the_compiler_rejects_is_an_error():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    code = DEVICES.format(name="v5e:3x5").replace("found =", "import vljax.config\nfound =")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "--topology v5e:3x5: " in run.stderr.splitlines()[-1]


def test_topologies_do_not_import_jax():
    environment = {}
    quiet_environment(environment)
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["TPU_SKIP_MDS_QUERY"] == "1"
    assert environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    code = "import sys, vljax.analysis.topologies; print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out == "False\n"
