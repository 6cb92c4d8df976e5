"""setup, preflight, launch and watch, with made-up answers of gcloud and the workers."""

import pytest

from tests.tpu_scripts.test_arguments import PLACE, RECIPE


def test_setup_waits_for_the_slices(standins):
    standins.says(states=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    status, _, errors = standins.run("setup.sh", *PLACE, "--every", "7")
    assert status == 0, errors
    assert standins.calls("sleep") == [["sleep", "7"]] * 2
    assert standins.verbs() == ["describe"] * 3 + ["scp", "ssh install"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", "MISSING"])
def test_setup_fails_if_the_resource_is_gone(standins, state):
    standins.says(states=[state])
    status, _, errors = standins.run("setup.sh", *PLACE)
    assert status == 1
    assert errors[-1] == f"error: big is {state}; create.sh or resume.sh makes a new one"
    assert standins.verbs() == ["describe"]


def test_a_failing_query_is_not_a_missing_resource(standins):
    standins.says(states=["OFFLINE"])
    status, _, errors = standins.run("setup.sh", *PLACE)
    assert status == 1
    assert errors[-1] == "ERROR: there is no network"
    assert standins.verbs() == ["describe"]


def test_setup_refuses_uncommitted_changes(standins):
    git = (standins.folder / "git").read_text()
    standins.program("git", git + 'case $1 in status) echo " M vljax/run.py" ;; esac\n')
    status, _, errors = standins.run("setup.sh", *PLACE)
    assert status == 1
    assert "uncommitted changes" in errors[-1]
    assert standins.verbs() == ["describe"]


def test_preflight_names_workers_that_differ(standins):
    versions = ["Linux noise", "worker a revision 1, jax 0.10.2", "worker b revision 1, jax 0.9"]
    standins.says(versions=versions)
    status, out, errors = standins.run("preflight.sh", *PLACE, "--devices", "8", *RECIPE)
    assert (status, out) == (1, [])
    assert errors[-3:-1] == ["a revision 1, jax 0.10.2", "b revision 1, jax 0.9"]
    assert errors[-1].startswith("error: the workers differ")
    assert len(standins.calls("gcloud")) == 1


def test_preflight_counts_the_workers(standins):
    standins.says(versions=["worker a revision 1", "worker b revision 1"])
    status, out, _ = standins.run("preflight.sh", *PLACE, "--devices", "8", *RECIPE)
    assert (status, out) == (0, ["2 workers: revision 1"])


def test_launch_refuses_if_a_run_is_under_way(standins):
    standins.says(workers=["worker a idle;worker b running"])
    status, _, errors = standins.run("launch.sh", *PLACE, *RECIPE)
    assert status == 1
    assert errors[-1] == "error: a run is under way on b; stop.sh ends it"
    assert standins.verbs() == ["ssh status"]


def test_watch_contacts_no_worker_of_a_missing_resource(standins):
    standins.says(states=["PROVISIONING"])
    status, out, _ = standins.run("watch.sh", *PLACE, "--workdir", "gs://b/r")
    assert (status, out) == (0, ["big: PROVISIONING"])
    assert standins.verbs() == ["describe"]
