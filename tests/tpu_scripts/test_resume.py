"""The action of resume.sh for each state of the resource and of the workers."""

import pytest

from tests.tpu_scripts.test_arguments import PLACE, RECIPE, TYPE

IDLE = "worker a idle;worker b idle"
ABSENT = "worker a absent;worker b absent"
RUNNING = "worker a running;worker b running"
FINISHED = "worker a ended 0;worker b ended 0"
BROKEN = "worker a ended 1;worker b running"

ANEW = ["delete", "create"]
SETUP = ["describe", "scp", "ssh install"]
LAUNCH = ["ssh status", "ssh start"]
LOOK = ["describe", "ssh status"]


def resume(standins, *arguments):
    return standins.run("resume.sh", *PLACE, *TYPE, *arguments, *RECIPE)


@pytest.mark.parametrize("gone", ["SUSPENDED", "PREEMPTED", "FAILED"])
def test_resume_recreates_a_lost_resource_and_runs_the_same_command(standins, gone):
    standins.says(
        states=[gone, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
        workers=[ABSENT, IDLE, RUNNING, FINISHED],
    )
    status, _, errors = resume(standins, "--spot")
    assert status == 0, errors
    steps = ["describe", *ANEW, "describe", "describe", *LOOK, *SETUP, *LAUNCH, *LOOK, *LOOK]
    assert standins.verbs() == steps
    calls = standins.calls("gcloud")
    assert "--spot" in next(call for call in calls if "create" in call)
    start = next(word for call in calls for word in call if "job.sh start" in word)
    assert start.endswith("job.sh start configs/x.py --workdir gs://b/r")


def test_resume_creates_a_resource_that_does_not_exist(standins):
    standins.says(states=["MISSING", "ACTIVE"], workers=[FINISHED])
    assert resume(standins)[0] == 0
    assert standins.verbs() == ["describe", "create", *LOOK]


def test_resume_leaves_a_running_run_alone(standins):
    standins.says(workers=[RUNNING, RUNNING, FINISHED])
    assert resume(standins, "--every", "9")[0] == 0
    assert standins.verbs() == LOOK * 3
    assert standins.calls("sleep") == [["sleep", "9"]] * 2


def test_a_broken_run_is_stopped_everywhere_before_it_starts_again(standins):
    standins.says(workers=[BROKEN, IDLE, FINISHED])
    assert resume(standins)[0] == 0
    assert standins.verbs() == [*LOOK, "ssh stop", *SETUP, *LAUNCH, *LOOK]


def test_an_unknown_state_changes_nothing(standins):
    standins.says(states=["OFFLINE", "ACTIVE"], workers=[FINISHED])
    assert resume(standins)[0] == 0
    assert standins.verbs() == ["describe", *LOOK]


def test_resume_backs_off_and_gives_up(standins):
    standins.says(states=["FAILED"])
    status, _, errors = resume(standins, "--attempts", "8")
    assert status == 1
    assert errors[-1].startswith("error: gave up after 8 failures in a row; the last: the request")
    pauses = [int(call[1]) for call in standins.calls("sleep")]
    assert pauses == [120, 240, 480, 960, 1800, 1800, 1800]
    # The last failure ends it before it asks for anything more.
    assert standins.verbs() == ["describe", *ANEW] * 7 + ["describe"]


def test_a_rejected_request_counts_as_a_failure(standins):
    standins.says(states=["MISSING"], create=["1"])
    status, _, errors = resume(standins, "--attempts", "2")
    assert status == 1
    assert "the last: big could not be created" in errors[-1]
    assert standins.verbs() == ["describe", "create"] * 2
