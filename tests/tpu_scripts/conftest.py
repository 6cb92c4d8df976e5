"""Runs the scripts with stand-ins for the programs that they call."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tpu_scripts"

# Every stand-in appends its arguments to `calls`. gcloud answers `describe` and the workers'
# `status` with the next line of a file each, whose last line stays.
RECORD = r"""#!/usr/bin/env bash
printf -v call '%s\x1f' "${0##*/}" "$@"
printf '%s\n' "$call" >>"$STANDINS/calls"  # in one write, since several may record at a time
"""
GCLOUD = (
    RECORD
    + r"""
next() {
  head -n 1 "$STANDINS/$1"
  if (($(wc -l <"$STANDINS/$1") > 1)); then sed -i 1d "$STANDINS/$1"; fi
}
echo "Using ssh batch size of 2." >&2
case "$*" in
  *" describe "*)
    state=$(next states)
    case $state in
      MISSING) echo "ERROR: NOT_FOUND: Resource was not found" >&2; exit 1 ;;
      OFFLINE) echo "ERROR: there is no network" >&2; exit 1 ;;
      *) echo "$state" ;;
    esac ;;
  *"job.sh status"*) next workers | tr ';' '\n' ;;
  *"preflight.sh versions"*) cat "$STANDINS/versions" ;;
  *" create "*) exit "$(next create)" ;;
esac
"""
)


class Standins:
    """Programs that record what they are called with."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "STANDINS": str(folder),
        }
        for name in ("git", "sleep"):
            self.program(name, RECORD)
        self.program("gcloud", GCLOUD)
        self.says(states=["ACTIVE"], workers=["worker a idle;worker b idle"], create=["0"])

    def program(self, name, text):
        file = self.folder / name
        file.write_text(text)
        file.chmod(0o755)

    def says(self, **answers):
        for name, lines in answers.items():
            (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def calls(self, program=None):
        """The calls of all programs, or of one, as lists of words."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        calls = [line.split("\x1f")[:-1] for line in lines]
        return [call for call in calls if program in (None, call[0])]

    def verbs(self):
        """What gcloud was asked for, shortened: `create`, `ssh start`, ..."""
        verbs = []
        for call in self.calls("gcloud"):
            verb, last = call[4], next((w for w in call if w.startswith("--command=")), "")
            words = last.split()
            job = words[2] if "job.sh" in last else "install" if "install.sh" in last else ""
            verbs.append(f"{verb} {job}".strip())
        return verbs

    def run(self, script, *arguments, **options):
        """Exit status, lines of stdout, lines of stderr without the record of commands."""
        done = subprocess.run(
            ["bash", str(SCRIPTS / script), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )
        errors = [line for line in done.stderr.splitlines() if not line.startswith("+ ")]
        return done.returncode, done.stdout.splitlines(), errors

    def dry(self, script, *arguments):
        """The commands of a dry run, which must call nothing."""
        before = self.calls()
        status, out, errors = self.run(script, "--dry-run", *arguments)
        assert (status, errors) == (0, []), errors
        assert self.calls() == before
        return out


@pytest.fixture
def standins(tmp_path):
    folder = tmp_path / "standins"
    folder.mkdir()
    return Standins(folder)


def words(lines):
    """Lines for a shell as lists of words."""
    return [shlex.split(line) for line in lines]


class Home:
    """A worker's home: `vljax/` with the scripts, and programs in its virtual environment."""

    def __init__(self, folder):
        self.folder, self.checkout = folder, folder / "vljax"
        shutil.copytree(SCRIPTS, self.checkout / "tpu_scripts")
        (self.checkout / ".venv" / "bin").mkdir(parents=True)

    def program(self, name, text):
        file = self.checkout / ".venv" / "bin" / name
        file.write_text(text)
        file.chmod(0o755)

    def __call__(self, script, *arguments):
        """Exit status, stdout, stderr of `tpu_scripts/worker/SCRIPT ARGUMENTS`."""
        done = subprocess.run(
            ["bash", f"vljax/tpu_scripts/worker/{script}", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def git(folder, *arguments):
    settings = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()
