"""Where a process stands: from the recipe, SLURM's environment, or nowhere."""

import contextlib

import jax
import pytest
from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster, cluster

from vljax.config import UserError
from vljax.parallel.processes.cluster import DistributedConfig, Place, locate

# As srun sets it for the second of two tasks, one on each of two nodes.
SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_process_is_alone_unless_told_otherwise():
    assert locate(DistributedConfig()) is None
    assert locate(DistributedConfig("none")) is None
    assert locate(DistributedConfig(coordinator="a:1", processes=1, process=0)) is None


@pytest.mark.parametrize("kind", ["auto", "explicit"])
def test_explicit(kind):
    config = DistributedConfig(kind, "a:1234", processes=4, process=3)
    assert locate(config) == Place("a:1234", 4, 3)


def test_explicit_goes_before_slurm(slurm):
    config = DistributedConfig(coordinator="a:1", processes=4, process=3)
    assert locate(config) == Place("a:1", 4, 3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"coordinator": "a", "processes": 2, "process": 0}, "coordinator: must be HOST:PORT, not"),
        ({"coordinator": "a:b", "processes": 2, "process": 0}, "coordinator: must be HOST:PORT"),
        ({"coordinator": "a:70000", "processes": 2, "process": 0}, "coordinator: must be HOST"),
        (
            {"coordinator": "a:1", "processes": 2, "process": 2},
            "process: must be at least 0 and below processes (2), not 2",
        ),
        ({"coordinator": "a:1", "processes": 0, "process": 0}, "processes: must be at least 1"),
        (
            {"coordinator": "a:1", "processes": 2},
            "process: unset; --distributed.process is needed where processes are explicit",
        ),
        ({"kind": "explicit", "processes": 2, "process": 0}, "coordinator: unset"),
        ({"processes": 2, "process": 0}, "coordinator: unset"),
        ({"kind": "slurm", "processes": 2}, "processes: kind slurm finds this out itself"),
        ({"timeout_seconds": 0}, "timeout_seconds: must be at least 1, not 0"),
        ({"kind": "slurm"}, "kind: slurm, but SLURM_JOB_ID is unset; start with srun"),
        ({"kind": "tpu"}, "kind: tpu, but this machine has no TPU; leave it at auto"),
    ],
)
def test_bad_settings(fields, said):
    with pytest.raises(UserError) as error:
        locate(DistributedConfig(**fields))
    assert str(error.value).startswith(f"distributed.{said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["auto", "slurm"])
def test_slurm_with_a_task_a_node_uses_all_its_devices(slurm, kind):
    # The port is JAX's, made of the job: 5000 % 4096 + 61440.
    assert locate(DistributedConfig(kind)) == Place("node07:62344", 2, 1)


def test_slurm_with_a_task_a_device(slurm):
    slurm.setenv("SLURM_STEP_TASKS_PER_NODE", "2")
    slurm.setenv("SLURM_LOCALID", "1")
    assert locate(DistributedConfig()) == Place("node07:62344", 2, 1, (1,))


def test_a_batch_script_without_srun_is_alone(slurm):
    slurm.delenv("SLURM_STEP_NODELIST")
    assert locate(DistributedConfig()) is None


def test_none_goes_before_slurm(slurm):
    assert locate(DistributedConfig("none")) is None


@pytest.fixture
def pod(monkeypatch):
    """A TPU machine as JAX sees it, one of two workers."""
    for module in (cloud_tpu_init, cloud_tpu_cluster, cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # the metadata server is not there
    for name in ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,other")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    return monkeypatch


@contextlib.contextmanager
def platforms(names):
    """JAX told to use some platforms; none is asked for devices."""
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", names)
    try:
        yield
    finally:
        jax.config.update("jax_platforms", before)


def test_workers_of_a_tpu(pod):
    with platforms("tpu"):
        assert locate(DistributedConfig()) == Place("localhost:8482", 2, 1)
        pod.setenv("TPU_WORKER_HOSTNAMES", "localhost")
        pod.setenv("TPU_WORKER_ID", "0")
        assert locate(DistributedConfig()) is None


def test_a_tpu_that_jax_is_told_to_leave_alone(pod):
    with platforms("cpu"):
        assert locate(DistributedConfig()) is None
