"""The commands of each script, in a dry run and in a run."""

import pytest

from tests.tpu_scripts.conftest import words

PLACE = ("--name", "big", "--zone", "us-east5-b")
TYPE = ("--accelerator-type", "v6e-256", "--runtime-version", "v2-alpha-tpuv6e")
RECIPE = ("--", "configs/clip_vit_b16.py", "--steps", "20", "--workdir", "gs://b/run")

GCLOUD = "gcloud compute tpus queued-resources"
ALL = "--node=all --worker=all --batch-size=all"
JOB = "vljax/tpu_scripts/worker/job.sh"
STATE = f"{GCLOUD} describe big '--format=value(state.state)' --zone=us-east5-b"
CREATE = (
    f"{GCLOUD} create big --accelerator-type=v6e-256 --runtime-version=v2-alpha-tpuv6e"
    " --node-id=big --zone=us-east5-b"
)
SETUP = [
    STATE,
    "mkdir -p build",
    "git bundle create --quiet build/vljax.bundle HEAD",
    f"{GCLOUD} scp build/vljax.bundle tpu_scripts/worker/install.sh big: {ALL} --zone=us-east5-b",
    f"{GCLOUD} ssh big {ALL} '--command=bash install.sh vljax.bundle HEAD' --zone=us-east5-b",
]
STATUS = (
    f"{GCLOUD} ssh big {ALL} '--command=bash {JOB} status 2>/dev/null"
    " || echo worker $(hostname) absent' --zone=us-east5-b"
)
LAUNCH = [
    STATUS,
    f"{GCLOUD} ssh big {ALL} '--command=bash {JOB} start configs/clip_vit_b16.py --steps 20"
    " --workdir gs://b/run' --zone=us-east5-b",
]
DELETE = f"{GCLOUD} delete big --force --quiet --zone=us-east5-b"
ON_WORKER = "bash vljax/tpu_scripts/worker/preflight.sh"
PREFLIGHT = [
    f"{GCLOUD} ssh big {ALL} '--command={ON_WORKER} {what}' --zone=us-east5-b"
    for what in (
        "versions",
        "recipe 512 configs/clip_vit_b16.py --steps 20 --workdir gs://b/run",
        "devices 512 gs://b/run",
    )
]

CASES = {
    "one slice": ("create.sh", (*PLACE, *TYPE), [CREATE]),
    "two slices": (
        "create.sh",
        (*PLACE, "--project=p", *TYPE, "--slices", "2", "--spot", "--network", "n"),
        [
            f"{GCLOUD} create big --accelerator-type=v6e-256 --runtime-version=v2-alpha-tpuv6e"
            " --node-count=2 --node-prefix=big --spot --network=n --zone=us-east5-b --project=p"
        ],
    ),
    "reserved": (
        "create.sh",
        (*PLACE, *TYPE, "--reserved", "--service-account=me@p.iam"),
        [CREATE.replace(" --zone", " --reserved --service-account=me@p.iam --zone")],
    ),
    "setup": ("setup.sh", PLACE, SETUP),
    "setup from a server": (
        "setup.sh",
        (*PLACE, "--git", "https://host/vljax.git", "--revision", "v1"),
        [
            STATE,
            f"{GCLOUD} scp tpu_scripts/worker/install.sh big: {ALL} --zone=us-east5-b",
            f"{GCLOUD} ssh big {ALL} '--command=bash install.sh https://host/vljax.git v1'"
            " --zone=us-east5-b",
        ],
    ),
    "preflight": ("preflight.sh", (*PLACE, "--devices", "512", *RECIPE), PREFLIGHT),
    "launch": ("launch.sh", (*PLACE, *RECIPE), LAUNCH),
    "stop": (
        "stop.sh",
        PLACE,
        [f"{GCLOUD} ssh big {ALL} '--command=bash {JOB} stop 300' --zone=us-east5-b"],
    ),
    "watch": (
        "watch.sh",
        (*PLACE, "--workdir", "gs://b/run"),
        [
            STATE,
            f"{GCLOUD} ssh big --node=0 --worker=0 '--command=bash {JOB} report gs://b/run'"
            " --zone=us-east5-b",
        ],
    ),
    "delete": ("delete.sh", (*PLACE, "--yes"), [DELETE]),
}


@pytest.mark.parametrize(("script", "arguments", "expected"), CASES.values(), ids=CASES)
def test_a_dry_run_prints_the_commands_of_a_run(standins, script, arguments, expected):
    assert standins.dry(script, *arguments) == expected
    standins.says(versions=["worker a revision 1", "worker b revision 1"])
    status, _, errors = standins.run(script, *arguments)
    assert status == 0, errors
    # `mkdir` has no stand-in. Dry runs do not ask git for uncommitted changes.
    ran = [call for call in standins.calls() if call != ["git", "status", "--porcelain"]]
    assert ran == words(line for line in expected if not line.startswith("mkdir "))


def test_a_dry_run_of_resume_shows_a_preempted_resource(standins):
    lines = standins.dry("resume.sh", *PLACE, *TYPE, *RECIPE)
    assert lines == [STATE, DELETE, CREATE, STATE, STATUS, *SETUP, *LAUNCH]


def test_fields_reach_the_worker_unchanged(standins):
    field = 'it\'s $HOME; "a b" *\\'
    line = standins.dry("launch.sh", *PLACE, *RECIPE, "--text", field)[-1]
    command = next(word for word in words([line])[0] if word.startswith("--command="))
    assert words([command.removeprefix("--command=")])[0][-2:] == ["--text", field]
