"""The job and the installation on a worker, in a temporary home folder."""

import json
import signal
import sys
import time

import pytest

from tests.tpu_scripts.conftest import ROOT, git

PYTHON = """#!/usr/bin/env bash
echo "python $*"
trap 'exit 143' TERM
case $2 in
  finish) exit 0 ;;
  deaf) trap '' TERM ;;
esac
for ((i = 0; i < 1500; i++)); do sleep 0.02; done  # at most half a minute
"""


@pytest.fixture
def worker(home):
    """A worker whose Python only waits."""
    home.program("python", PYTHON)
    yield home
    home("job.sh", "stop", "0")


def state(worker):
    status, out, _ = worker("job.sh", "status")
    assert status == 0
    assert out.startswith("worker ")
    return out.split(maxsplit=2)[2]


def test_a_run_starts_once_and_stops(worker):
    assert state(worker) == "idle"
    status, out, _ = worker("job.sh", "start", "configs/x.py", "--text", "a b")
    assert (status, out.split()[2]) == (0, "started:")
    assert state(worker) == "running"
    status, out, err = worker("job.sh", "start", "configs/x.py")
    assert (status, out) == (1, "")
    assert err.startswith("error: a run is under way on ")
    assert worker("job.sh", "stop", "20")[1].endswith(" ended 143")
    assert state(worker) == "ended 143"
    log = worker.checkout / "runs" / "job" / "latest.log"
    assert log.read_text() == "python train.py configs/x.py --text a b\n"


def test_a_run_that_ignores_sigterm_is_killed(worker):
    worker("job.sh", "start", "deaf")
    time.sleep(0.2)  # until it ignores SIGTERM
    assert worker("job.sh", "stop", "0")[1].endswith(f" ended {128 + signal.SIGKILL}")


def test_after_a_finished_run_another_can_start(worker):
    worker("job.sh", "start", "finish")
    while state(worker) == "running":
        time.sleep(0.02)
    assert state(worker) == "ended 0"
    assert worker("job.sh", "start", "again")[0] == 0
    assert state(worker) == "running"


def test_the_report_ends_with_the_last_row(worker, tmp_path):
    worker.program("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (worker.checkout / "vljax").symlink_to(ROOT / "vljax")
    (worker.checkout / "runs" / "job").mkdir(parents=True)
    (worker.checkout / "runs" / "job" / "latest.log").write_text("the log\n")
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, err = worker("job.sh", "report", str(tmp_path))
    assert status == 0, err
    assert out.splitlines() == ["idle", "the log", '{"step": 2, "loss": 1.5}']


def test_install_checks_out_the_revision(standins, tmp_path):
    home, source = tmp_path / "home", tmp_path / "source"
    home.mkdir()
    source.mkdir()
    git(source, "init", "-q")
    (standins.folder / "git").unlink()
    python = 'case "$*" in *venv*) mkdir -p .venv/bin; cp "$STANDINS/pip" .venv/bin/pip ;; esac\n'
    record = (standins.folder / "sleep").read_text()
    standins.program("pip", record)
    standins.program("python3", record + python)
    for number in ("1", "2"):
        (source / "file").write_text(number)
        git(source, "add", "file")
        git(source, "commit", "-q", "-m", number)
        git(source, "bundle", "create", "--quiet", str(home / "vljax.bundle"), "HEAD")
        status, out, errors = standins.run(
            "worker/install.sh", "vljax.bundle", "HEAD", cwd=str(home)
        )
        assert status == 0, errors
        assert out[-1].endswith(f" installed {git(source, 'rev-parse', '--short', 'HEAD')}")
        assert (home / "vljax" / "file").read_text() == number
    pip = ["pip", "install", "-q", "-c", "constraints.txt", "-e", ".[tpu]", "gcsfs"]
    assert standins.calls("pip") == [pip, pip]
    # The environment is made once.
    assert len(standins.calls("python3")) == 2
