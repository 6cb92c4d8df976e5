"""Saves the state of a run in the background and restores the newest intact checkpoint.

WORKDIR/checkpoints/STEP/state/          arrays, by Orbax
WORKDIR/checkpoints/STEP/recipe.json     and whatever else makes the folder self-sufficient
WORKDIR/checkpoints/STEP/manifest.json   written last: without it the folder does not count
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import orbax.checkpoint as ocp
from etils import epath

from vljax.config import UserError
from vljax.parallel.processes.agreement import barrier, broadcast
from vljax.parallel.processes.start import is_first, process_index
from vljax.training.checkpoint import manifest, saved_state, storage
from vljax.training.checkpoint import saved_state as orbax_noise
from vljax.training.checkpoint.manifest import newest, read_file, step_folder, steps, verify
from vljax.training.checkpoint.saved_state import read_state
from vljax.training.checkpoint.storage import check_space, required_bytes

__all__ = [
    "Checkpointer",
    "Restored",
    "check_space",
    "newest",
    "read_file",
    "read_state",
    "required_bytes",
    "step_folder",
    "steps",
    "verify",
]

_TIMEOUT_SECONDS = 3600.0


class Restored(NamedTuple):
    """A state that came back from a checkpoint."""

    step: int
    state: Any


class Checkpointer:
    """The checkpoints of one workdir. All processes of a run call the same methods in order."""

    def __init__(
        self, workdir: str, *, keep: int = 3, report: Callable[[str], None] = logging.warning
    ) -> None:
        """Makes sure that checkpoints can be written.

        Args:
          workdir: local or remote (`gs://`); made if it is not there.
          keep: how many intact checkpoints stay, at least 1.
          report: is told in one line of each checkpoint that had to be passed over.

        Raises:
          UserError: if the workdir cannot be written to, or for `keep` below 1.
        """
        if keep < 1:
            raise UserError(f"keep: at least 1 checkpoint must stay, not {keep}")
        self._workdir = storage.absolute(workdir)
        storage.make_writable(self._workdir / "checkpoints", process_index())
        self._keep = keep
        self._report = report
        self._first = is_first()
        orbax_noise.silence()
        self._arrays = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._thread: threading.Thread | None = None
        self._failure: UserError | None = None
        self._damaged: set[int] = set()

    def save(self, step: int, state: Any, files: Mapping[str, bytes]) -> None:
        """Starts to save; returns once the arrays are on the host and may be donated.

        Waits for an earlier save. Does nothing if the step has an intact checkpoint; a damaged or
        half-written one is replaced.

        Args:
          step: the number of finished steps.
          state: any pytree of arrays.
          files: relative name -> content, stored beside the arrays.

        Raises:
          UserError: if this or an earlier save failed; earlier checkpoints are untouched.
        """
        for name in files:
            _check_name(name)
        self.wait()
        folder = step_folder(self._workdir, step)
        if self._agreed(lambda: not verify(folder)):
            return
        arrays = ocp.args.StandardSave(saved_state.to_nested(state))
        try:
            if self._first:
                storage.remove(folder)
                folder.mkdir(parents=True)
            barrier("save", _TIMEOUT_SECONDS)  # in the folder that is empty now
            self._arrays.save(folder / "state", args=arrays)
        except Exception as error:
            self._discard(folder)
            raise self._explain(step, error) from error
        self._thread = threading.Thread(
            target=self._finish, args=(step, folder, dict(files)), name=f"checkpoint-{step}"
        )
        self._thread.start()

    def wait(self) -> None:
        """Returns once all saves are durable. Raises UserError if one failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def latest(self) -> int | None:
        """The newest step whose checkpoint is intact; reads all of it to know."""
        self.wait()
        found = self._agreed(lambda: -1 if (step := self._newest()) is None else step)
        return None if found < 0 else found

    def restore(self, target: Any, step: int | None = None) -> Restored | None:
        """The state of the newest intact checkpoint, or of a given step, on any mesh.

        Args:
          target: pytree of `jax.ShapeDtypeStruct` with shardings; the result has its structure.
          step: if None, damaged checkpoints are reported and passed over.

        Returns:
          None if no checkpoint was ever completed.

        Raises:
          UserError: if the given step is damaged or missing, no checkpoint is intact although
            there were some, or names, shapes or dtypes differ from the target.
        """
        if step is None:
            step = self.latest()
            if step is None and (lost := steps(self._workdir)):
                raise UserError(
                    f"no checkpoint in {self._workdir / 'checkpoints'} is intact (damaged:"
                    f" {', '.join(map(str, lost))}); restore them from a backup, or remove that"
                    " folder to start from the beginning"
                )
        else:
            self.wait()
            broadcast("checkpoint", lambda: self._require(step), _TIMEOUT_SECONDS)
        if step is None:
            return None
        return Restored(step, read_state(step_folder(self._workdir, step), target))

    def files(self, step: int) -> dict[str, bytes]:
        """What was stored beside the arrays. Raises UserError if missing or damaged."""
        folder = step_folder(self._workdir, step)
        own = [name for name in manifest.names(folder) if not name.startswith("state/")]
        return {name: read_file(folder, name) for name in own}

    def close(self) -> None:
        """Waits for all saves and releases threads. Raises UserError if a save failed."""
        try:
            self.wait()
        finally:
            self._arrays.close()

    def _finish(self, step: int, folder: epath.Path, files: dict[str, bytes]) -> None:
        """The part of a save that runs in the background."""
        try:
            self._complete(folder, files)
        except Exception as error:
            self._discard(folder)
            self._failure = self._explain(step, error)
            self._failure.__cause__ = error
        else:
            self._damaged.discard(step)
            if self._first:
                prune(self._workdir, step, self._keep, self._damaged, self._report)

    def _complete(self, folder: epath.Path, files: Mapping[str, bytes]) -> None:
        """Once the arrays of all processes are written, writes what makes them a checkpoint.

        Raises the same as in the first process, whatever its kind there, in all.
        """
        failure: Exception | None = None
        try:
            self._arrays.wait_until_finished()
            if self._first:
                for name, content in files.items():
                    storage.write(folder / name, content)
                manifest.write(folder)
        except Exception as error:
            failure = error
            if not self._first:
                raise  # which ends the run at the next save
        # Through the processes, since a shared file system may show the manifest late.
        said = broadcast(
            "checkpoint complete",
            lambda: "" if failure is None else storage.reason(failure),
            _TIMEOUT_SECONDS,
        )
        if failure is not None:
            raise failure
        if said:
            raise OSError(said)

    def _discard(self, folder: epath.Path) -> None:
        """Removes what a failed save left; without a manifest it would not count anyway."""
        if self._first:
            with contextlib.suppress(OSError):
                storage.remove(folder)

    def _explain(self, step: int, error: Exception) -> UserError:
        parent = self._workdir / "checkpoints"
        if full := storage.no_room(error):
            what, remedy = (
                f"no room in {parent} to save step {step} ({full})",
                "free some space there",
            )
        else:
            what = f"cannot save step {step} in {parent} ({storage.reason(error)})"
            remedy = "see to it that it can be written"
        newest = self._newest()
        if newest is None:
            kept = "there is no earlier checkpoint"
        else:
            kept = f"earlier checkpoints are intact, the newest is of step {newest}"
        return UserError(f"{what}; {kept}; {remedy} and run the same command again")

    def _newest(self) -> int | None:
        def passed_over(step: int, problem: str) -> None:
            self._damaged.add(step)
            folder = step_folder(self._workdir, step)
            self._report(f"checkpoint {folder} is passed over: {problem}")

        return manifest.newest_intact(self._workdir, passed_over)

    def _require(self, step: int) -> str:
        folder = step_folder(self._workdir, step)
        known = manifest.folders(self._workdir)
        if step not in known:
            listed = ", ".join(map(str, known)) or "none"
            raise UserError(f"no checkpoint of step {step} in {folder.parent}; there are: {listed}")
        if problems := verify(folder):
            raise UserError(f"checkpoint {folder} is damaged: {problems[0]}; choose another step")
        return ""

    def _agreed(self, answer: Callable[[], int]) -> int:
        """The first process looks, all go by what it saw."""
        return int(broadcast("checkpoint", lambda: str(int(answer())), _TIMEOUT_SECONDS))


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.parts[:1] == ("state",):
        raise ValueError(f"{name!r} is no name for a file beside the arrays of a checkpoint")
    if name == manifest.NAME:
        raise ValueError(f"{name!r} is written by the checkpointer itself")


# --- Which checkpoints stay -----------------------------------------------------------------------


def prune(
    workdir: epath.PathLike,
    newest: int,
    keep: int,
    damaged: Collection[int],
    report: Callable[[str], None],
) -> None:
    """Removes what a new checkpoint makes superfluous; nothing of a later step.

    Args:
      workdir: its checkpoints are meant.
      newest: step of the checkpoint that was just completed.
      keep: so many intact ones stay, `newest` among them; half-written ones go.
      damaged: steps known to be damaged; they neither count nor go, a person may want to look.
      report: is told what could not be removed.
    """
    older = [step for step in manifest.folders(workdir) if step < newest]
    complete = set(manifest.steps(workdir))
    intact = [
        step
        for step in older
        if step not in damaged and manifest.looks_intact(manifest.step_folder(workdir, step))
    ]
    superfluous = intact[: max(0, len(intact) - (keep - 1))]
    for step in superfluous + [step for step in older if step not in complete]:
        folder = manifest.step_folder(workdir, step)
        try:
            # First what makes it count, so that a half-removed one is never taken for intact.
            (folder / manifest.NAME).unlink(missing_ok=True)
            storage.remove(folder)
        except OSError as error:
            report(f"cannot remove the old checkpoint {folder} ({storage.reason(error)})")
