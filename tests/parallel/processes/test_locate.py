"""The position of a process in its cluster: from flags, from SLURM, from a TPU, or alone."""

import contextlib
import http.server
import threading
import time

import jax
import pytest
from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster, cluster

from vljax.config import UserError
from vljax.parallel.processes.start import ClusterInfo, DistributedConfig, locate

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
    assert locate(config) == ClusterInfo("a:1234", 4, 3)


def test_explicit_goes_before_slurm(slurm):
    config = DistributedConfig(coordinator="a:1", processes=4, process=3)
    assert locate(config) == ClusterInfo("a:1", 4, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
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
def test_bad_settings(fields, message):
    with pytest.raises(UserError) as error:
        locate(DistributedConfig(**fields))
    assert str(error.value).startswith(f"distributed.{message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["auto", "slurm"])
def test_slurm_with_one_task_per_node_uses_all_its_devices(slurm, kind):
    # The port is JAX's, made of the job: 5000 % 4096 + 61440.
    assert locate(DistributedConfig(kind)) == ClusterInfo("node07:62344", 2, 1)


def test_slurm_with_one_task_per_device(slurm):
    slurm.setenv("SLURM_STEP_TASKS_PER_NODE", "2")
    slurm.setenv("SLURM_LOCALID", "1")
    assert locate(DistributedConfig()) == ClusterInfo("node07:62344", 2, 1, (1,))


def test_a_batch_script_without_srun_is_alone(slurm):
    slurm.delenv("SLURM_STEP_NODELIST")
    assert locate(DistributedConfig()) is None


def test_none_goes_before_slurm(slurm):
    assert locate(DistributedConfig("none")) is None


def detected_by_jax(method):
    """The result of the detection in `jax.distributed.initialize`."""
    coordinator, count, index, devices = cluster.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, method, 1
    )
    if coordinator is None:
        return None
    return ClusterInfo(coordinator, count, index, None if devices is None else tuple(devices))


@pytest.mark.parametrize("nodes", ["node07", "node07,a12", "node[07-08],a", "node[07,09-12],a"])
def test_slurm_is_detected_as_jax_does(slurm, nodes):
    slurm.setenv("SLURM_STEP_NODELIST", nodes)
    slurm.setenv("SLURM_STEP_TASKS_PER_NODE", "2")
    assert locate(DistributedConfig()) == detected_by_jax("slurm")


@contextlib.contextmanager
def platforms(names):
    """Sets JAX's platforms; no devices are initialized."""
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", names)
    try:
        yield
    finally:
        jax.config.update("jax_platforms", before)


@pytest.fixture
def pod(monkeypatch):
    """The environment that GKE gives the second of two TPU workers."""
    for module in (cloud_tpu_init, cloud_tpu_cluster, cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)  # for JAX's own detection
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server here
    for name in ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,other")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    return monkeypatch


def test_tpu_workers_on_gke(pod):
    with platforms("tpu"):
        found = locate(DistributedConfig())
        assert found == ClusterInfo("localhost:8482", 2, 1) == detected_by_jax("gketpu")
        pod.setenv("TPU_WORKER_HOSTNAMES", "localhost")
        pod.setenv("TPU_WORKER_ID", "0")
        assert locate(DistributedConfig()) is None


def test_tpu_slices_on_gke(pod):
    pod.setenv("TPU_PROCESS_ADDRESSES", "localhost:8471,other:8471")
    pod.setenv("MEGASCALE_COORDINATOR_ADDRESS", "127.0.0.1:8080")
    pod.setenv("MEGASCALE_NUM_SLICES", "3")
    pod.setenv("MEGASCALE_SLICE_ID", "2")
    with platforms("tpu"):
        found = locate(DistributedConfig("tpu"))
        assert found == ClusterInfo("127.0.0.1:8482", 6, 5) == detected_by_jax("gketpu")


@pytest.fixture
def metadata(monkeypatch):
    """The attributes of a TPU VM, served as Google's metadata server does."""
    attributes = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = name in attributes and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes[name].encode() if known else b"not found")

        def log_message(self, *_):
            pass

    for module in (cloud_tpu_init, cloud_tpu_cluster, cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    for name in ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        yield attributes
        server.shutdown()


@pytest.mark.parametrize("workers", ["127.0.0.1,10.0.0.2", "a:b:127.0.0.1,c:d:10.0.0.2"])
@pytest.mark.parametrize(
    ("tpu_env", "expected"),
    [
        ("ZONE: 'z'", ClusterInfo("127.0.0.1:8482", 2, 1)),
        (
            "MEGASCALE_COORDINATOR_ADDRESS: '127.0.0.1:9'\nMEGASCALE_NUM_SLICES: '2'\n"
            "MEGASCALE_SLICE_ID: '1'",
            ClusterInfo("127.0.0.1:8482", 4, 3),
        ),
    ],
)
def test_tpu_vms_are_detected_as_jax_does(metadata, workers, tpu_env, expected):
    pytest.importorskip("requests")  # JAX reads the metadata with it
    metadata |= {"agent-worker-number": "1", "worker-network-endpoints": workers}
    metadata["tpu-env"] = tpu_env
    with platforms("tpu,cpu"):
        assert locate(DistributedConfig()) == expected == detected_by_jax("gcetpu")


def test_a_machine_with_a_tpu_that_is_not_a_tpu_vm_is_alone(metadata):
    with platforms("tpu,cpu"):
        assert locate(DistributedConfig()) is None


def test_unusable_metadata_is_an_error(metadata):
    metadata |= {"agent-worker-number": "one", "worker-network-endpoints": "a,b"}
    with platforms("tpu,cpu"), pytest.raises(UserError) as error:
        locate(DistributedConfig())
    assert str(error.value).startswith("distributed.kind: cannot find the other processes (")
    assert "set coordinator, processes and process, or kind none" in str(error.value)


def test_a_tpu_that_jax_does_not_use_is_ignored(pod):
    with platforms("cpu"):
        assert locate(DistributedConfig()) is None
