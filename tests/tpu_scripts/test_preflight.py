"""The checks of a worker before a run, with the real `vljax check` and real processes."""

import os
import subprocess
import sys

import portpicker
import pytest

from tests.tpu_scripts.conftest import ROOT, git


def test_versions_differ_by_revision_and_packages(home):
    home.program("python", "#!/bin/sh\necho Python 3.11.9\n")
    git(home.checkout, "init", "-q")
    git(home.checkout, "add", "tpu_scripts")
    git(home.checkout, "commit", "-q", "-m", "one")
    answers = []
    for packages in ("jax==0.10.2\nnumpy==2.4.6", "jax==0.10.2\nnumpy==2.4.5"):
        home.program("pip", f"#!/bin/sh\necho '{packages}'\n")
        status, out, err = home("preflight.sh", "versions")
        assert status == 0, err
        answers.append(out.split(maxsplit=2)[2])
    revision = git(home.checkout, "describe", "--always")
    start = f"revision {revision}, Python 3.11.9, jax 0.10.2, packages "
    assert all(answer.startswith(start) for answer in answers)
    assert answers[0] != answers[1]


@pytest.fixture
def installed(home):
    """A home with the real vljax."""
    for name in ("vljax", "configs"):
        (home.checkout / name).symlink_to(ROOT / name)
    home.program("vljax", f'#!/bin/sh\nexec {sys.executable} -m vljax.commands.main "$@"\n')
    home.program("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    return home


def test_a_recipe_is_checked_for_the_number_of_devices(installed):
    quickstart = ("recipe", "16", "configs/quickstart.py:tiny")
    status, out, err = installed("preflight.sh", *quickstart)
    assert status == 0, err
    assert out.endswith(" recipe is valid on 16 devices")
    status, out, err = installed("preflight.sh", *quickstart, "--global_batch", "24")
    assert (status, out) == (2, "")
    assert err.startswith("error: global_batch")


def test_a_recipe_without_data_is_refused(installed):
    status, out, err = installed("preflight.sh", "recipe", "16", "configs/clip_vit_b16.py")
    assert (status, out) == (2, "")
    assert err == "error: configs/clip_vit_b16.py needs --data.source.path to train"


def start(number, port, *arguments):
    """Process `number` of 2, with two CPU devices."""
    return subprocess.Popen(
        [
            *(sys.executable, "tpu_scripts/worker/preflight.py", *arguments),
            *("--distributed.coordinator", f"127.0.0.1:{port}"),
            *("--distributed.processes", "2", "--distributed.process", str(number)),
        ],
        cwd=ROOT,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))},
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "2",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(processes):
    """Exit statuses, last lines of output, errors."""
    ends = [process.communicate(timeout=100) for process in processes]
    statuses = [process.returncode for process in processes]
    return statuses, [out.splitlines()[-1:] for out, _ in ends], [err for _, err in ends]


@pytest.mark.parametrize("devices", [4, 8])
def test_the_devices_of_all_processes_are_counted(devices, tmp_path):
    workdir, port = tmp_path / "run", portpicker.pick_unused_port()
    arguments = ("--devices", str(devices), "--workdir", str(workdir))
    statuses, said, errors = end([start(i, port, *arguments) for i in (0, 1)])
    if devices == 4:
        assert statuses == [0, 0], errors
        assert said == [["4 devices of 2 processes: cpu"]] * 2
        assert list(workdir.iterdir()) == []
    else:
        assert statuses == [2, 2], errors
        refusal = "error: --devices 8: there are 4, 2 on this worker, 2 processes"
        assert any(refusal in error for error in errors)


def test_processes_with_different_workdirs_are_refused(tmp_path):
    port = portpicker.pick_unused_port()
    folders = (tmp_path / "a", tmp_path / "b")
    arguments = [("--devices", "4", "--workdir", str(folder)) for folder in folders]
    statuses, _, errors = end([start(i, port, *arguments[i]) for i in (0, 1)])
    assert statuses == [2, 2]
    assert all("workdir" in error for error in errors)
