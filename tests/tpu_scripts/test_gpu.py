"""SLURM and a single node, with stand-ins for Python and for SLURM."""

import signal
import subprocess
import time

import pytest

from tests.tpu_scripts.conftest import RECORD, ROOT, SCRIPTS, words

RECIPE = ("--", "configs/x.py", "--workdir", "dir")
TRAIN = "python train.py configs/x.py --workdir dir"
EXPLICIT = "--distributed.kind explicit --distributed.coordinator 127.0.0.1:8476"

# Exits with the status in the file of its process index; without that file, waits for SIGTERM.
PYTHON = (
    RECORD
    + """
echo "$JAX_LOCAL_DEVICE_IDS" >>"$STANDINS/devices"
trap 'exit 143' TERM
end="$STANDINS/end${!#}"
[[ ! -e $end ]] || exit "$(cat "$end")"
for ((i = 0; i < 1500; i++)); do sleep 0.02; done  # at most half a minute
"""
)
SRUN = (
    RECORD
    + """
trap 'exit 143' TERM
echo $$ >"$STANDINS/pid"
for ((i = 0; i < 1500; i++)); do sleep 0.02; done  # at most half a minute
"""
)


@pytest.fixture
def node(standins):
    standins.program("python", PYTHON)
    (standins.folder / "sleep").unlink()
    return standins


def start(standins, script, *arguments, **environment):
    return subprocess.Popen(
        # Bash cannot trap a signal that was ignored at its start, as SIGINT is in background jobs.
        ["env", "--default-signal=INT", "bash", str(SCRIPTS / script), *arguments],
        cwd=ROOT,
        env=standins.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_process_uses_all_gpus_by_default(standins):
    assert standins.dry("gpu/single_node.sh", *RECIPE) == [TRAIN]


def test_each_of_several_processes_uses_one_gpu(standins):
    assert standins.dry("gpu/single_node.sh", "--processes", "2", *RECIPE) == [
        f"env JAX_LOCAL_DEVICE_IDS={i} {TRAIN} {EXPLICIT} --distributed.processes 2"
        f" --distributed.process {i}"
        for i in (0, 1)
    ]


def test_a_run_executes_the_printed_commands(node):
    node.says(end0=["0"], end1=["0"])
    lines = node.dry("gpu/single_node.sh", "--processes", "2", *RECIPE)
    status, _, errors = node.run("gpu/single_node.sh", "--processes", "2", *RECIPE)
    assert (status, errors) == (0, [])
    assert sorted(node.calls("python")) == [line[2:] for line in words(lines)]
    assert sorted((node.folder / "devices").read_text().split()) == ["0", "1"]


def test_a_process_that_fails_ends_the_others(node):
    node.says(end1=["3"])
    status, _, errors = node.run("gpu/single_node.sh", "--processes", "3", *RECIPE)
    # `run` read the output of all processes to its end, so none is left.
    assert (status, errors) == (3, [])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_all_processes_as_sigterm(node, number, status):
    process = start(node, "gpu/single_node.sh", "--processes", "2", *RECIPE)
    wait_for(lambda: len(node.calls("python")) == 2)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == status


def slurm(standins, script):
    (standins.folder / "sleep").unlink()
    standins.program("srun", script)
    standins.program("scancel", RECORD + 'kill -TERM "$(cat "$STANDINS/pid")"')
    standins.program("scontrol", RECORD)
    job = {"SLURM_JOB_ID": "77", "SLURM_SUBMIT_DIR": str(ROOT)}
    return start(standins, "gpu/slurm.sh", *RECIPE, **job)


def test_slurm_starts_a_process_for_each_task(standins):
    step = f"srun --kill-on-bad-exit=1 {TRAIN} --distributed.kind slurm"
    assert standins.dry("gpu/slurm.sh", *RECIPE) == [step]
    process = slurm(standins, RECORD + "exit 5")
    process.communicate(timeout=20)
    assert process.returncode == 5
    assert standins.calls() == words([step])


def test_before_the_time_limit_the_run_saves_and_the_job_requeues(standins):
    process = slurm(standins, SRUN)
    wait_for((standins.folder / "pid").exists)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert standins.calls("scancel") == [["scancel", "--signal=TERM", "77"]]
    assert standins.calls("scontrol") == [["scontrol", "requeue", "77"]]


def test_a_run_that_finishes_in_the_last_minutes_does_not_requeue(standins):
    process = slurm(standins, SRUN.replace("exit 143", "exit 0"))
    wait_for((standins.folder / "pid").exists)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert standins.calls("scontrol") == []
