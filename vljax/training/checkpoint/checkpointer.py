"""Saves the state of a run in the background and restores the newest intact checkpoint.

    WORKDIR/checkpoints/STEP/state/          arrays, by Orbax
    WORKDIR/checkpoints/STEP/recipe.json     and other files that make the folder self-sufficient
    WORKDIR/checkpoints/STEP/manifest.json   digests of all files, written last

Orbax writes and reads the arrays. vljax itself decides which checkpoints are complete and which are
kept. It does not use Orbax's `CheckpointManager` (0.12), for these reasons;
`test_checkpoint_faults.py` shows the first three:

- It keeps the newest N by their numbers. A damaged checkpoint counts, and pushes out the last
  intact one.
- It recognises a half-written step by the name of its folder, which needs an atomic rename of
  folders, or, on `gs://` only, by a commit file. On other storage a half-written step counts as the
  newest.
- It has no good moment to write digests: `post_finalization_callback` runs before Orbax rewrites
  `manifest.ocdbt` and `_CHECKPOINT_METADATA`, and anything later runs after old checkpoints are
  removed. Here they are removed only once the manifest of the new one is written.
- If an old checkpoint cannot be removed, the save fails, and the removal is not tried again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from etils import epath

from vljax.config import UserError
from vljax.parallel.processes.agreement import barrier, broadcast
from vljax.parallel.processes.start import is_first, process_index
from vljax.training.checkpoint import manifest, saved_state, storage

_TIMEOUT_SECONDS = 3600.0


class Restored(NamedTuple):
    """A state that was restored from a checkpoint."""

    step: int
    state: Any


class Checkpointer:
    """The checkpoints of one workdir. All processes of a run call the same methods in order.

    >>> import tempfile, jax, jax.numpy as jnp
    >>> workdir = tempfile.mkdtemp()
    >>> checkpointer = Checkpointer(workdir, keep=1)
    >>> for step in (1, 2):
    ...     checkpointer.save(step, {"w": jnp.full(3, float(step))}, {"recipe.json": b"{}"})
    >>> checkpointer.latest()
    2
    >>> checkpointer.restore({"w": jax.ShapeDtypeStruct((3,), jnp.float32)}).state["w"].tolist()
    [2.0, 2.0, 2.0]
    >>> checkpointer.close()
    """

    def __init__(
        self, workdir: str, *, keep: int = 3, report: Callable[[str], None] = logging.warning
    ) -> None:
        """Creates the folder and checks that it is writable.

        Args:
          workdir: local or remote (`gs://`); created if it does not exist.
          keep: number of intact checkpoints to keep, at least 1.
          report: called with one line for each damaged checkpoint that is skipped, and for each
            old one that cannot be removed.

        Raises:
          UserError: if the workdir cannot be written to, or for `keep` below 1.
        """
        import orbax.checkpoint as ocp  # see saved_state

        if keep < 1:
            raise UserError(f"keep: at least 1 checkpoint must stay, not {keep}")
        self._workdir = storage.absolute(workdir)
        storage.make_writable(self._workdir / "checkpoints", process_index())
        self._keep = keep
        self._report = report
        self._first = is_first()
        saved_state.silence_orbax()
        self._arrays = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._thread: threading.Thread | None = None
        self._failure: UserError | None = None
        self._damaged: set[int] = set()

    # --- Save -------------------------------------------------------------------------------------

    def save(self, step: int, state: Any, files: Mapping[str, bytes]) -> None:
        """Starts a save; returns once the arrays are copied to the host and may be donated.

        Waits for an earlier save. Does nothing if the step has an intact checkpoint; replaces a
        damaged or half-written one.

        Args:
          step: the number of finished steps.
          state: any pytree of arrays.
          files: relative name -> content, stored beside the arrays.

        Raises:
          UserError: if this or an earlier save failed; earlier checkpoints are untouched.
        """
        import orbax.checkpoint as ocp

        for name in files:
            _check_name(name)
        self.wait()
        folder = manifest.step_folder(self._workdir, step)
        if self._from_first(lambda: not manifest.verify(folder)):
            return
        arrays = ocp.args.StandardSave(saved_state.to_nested(state))
        try:
            if self._first:
                storage.remove(folder)
                folder.mkdir(parents=True)
            barrier("save", _TIMEOUT_SECONDS)  # the folder is empty for all processes
            self._arrays.save(folder / "state", args=arrays)
        except Exception as error:
            self._discard(folder)
            raise self._save_error(step, error) from error
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
            self._failure = self._save_error(step, error)
            self._failure.__cause__ = error
        else:
            self._damaged.discard(step)
            if self._first:
                self._remove_old(step)

    def _complete(self, folder: epath.Path, files: Mapping[str, bytes]) -> None:
        """Waits for the arrays of all processes, then writes the files and the manifest.

        An error of the first process is raised in all processes.
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
                raise  # this process reports it at its next save, which ends the run
        # Broadcast, do not look for the file: a shared file system may show the manifest late.
        message = broadcast(
            "checkpoint complete",
            lambda: "" if failure is None else storage.describe(failure),
            _TIMEOUT_SECONDS,
        )
        if failure is not None:
            raise failure
        if message:
            raise OSError(message)

    def _discard(self, folder: epath.Path) -> None:
        """Removes what a failed save left; without a manifest it would not count anyway."""
        if self._first:
            with contextlib.suppress(OSError):
                storage.remove(folder)

    def _save_error(self, step: int, error: Exception) -> UserError:
        parent = self._workdir / "checkpoints"
        if full := storage.disk_full_message(error):
            problem = f"no room in {parent} to save step {step} ({full})"
            remedy = "free some space there"
        else:
            problem = f"cannot save step {step} in {parent} ({storage.describe(error)})"
            remedy = "make the folder writable"
        newest = self._newest_intact()
        if newest is None:
            kept = "there is no earlier checkpoint"
        else:
            kept = f"earlier checkpoints are intact, the newest is of step {newest}"
        return UserError(f"{problem}; {kept}; {remedy} and run the same command again")

    def _remove_old(self, newest: int) -> None:
        """Removes older checkpoints that are not needed now that `newest` is complete.

        Keeps the newest intact ones and removes half-written ones. Damaged ones do not count and
        stay, so that a person can look at them. Later steps stay: a run that resumed at an earlier
        checkpoint may reach them again.
        """
        older = [step for step in manifest.all_steps(self._workdir) if step < newest]
        complete = set(manifest.complete_steps(self._workdir))
        folder = {step: manifest.step_folder(self._workdir, step) for step in older}
        intact = [s for s in older if s not in self._damaged and manifest.looks_intact(folder[s])]
        unneeded = intact[: max(0, len(intact) - (self._keep - 1))]
        for step in unneeded + [step for step in older if step not in complete]:
            try:
                # The manifest first, so that a half-removed checkpoint does not count as complete.
                (folder[step] / manifest.NAME).unlink(missing_ok=True)
                storage.remove(folder[step])
            except OSError as error:
                reason = storage.describe(error)
                self._report(f"cannot remove the old checkpoint {folder[step]} ({reason})")

    # --- Restore ----------------------------------------------------------------------------------

    def latest(self) -> int | None:
        """The newest step with an intact checkpoint, or None; reads all of its files."""
        self.wait()
        found = self._from_first(lambda: -1 if (step := self._newest_intact()) is None else step)
        return None if found < 0 else found

    def restore(self, target: Any, step: int | None = None) -> Restored | None:
        """The state of the newest intact checkpoint, or of a given step, on any mesh.

        Args:
          target: pytree of `jax.ShapeDtypeStruct` with shardings; the result has its structure.
          step: the step to restore. If None, the newest intact one; damaged ones are reported and
            skipped.

        Returns:
          None if no checkpoint was ever completed.

        Raises:
          UserError: if the given step is damaged or missing, if all checkpoints are damaged, or if
            names, shapes or dtypes differ from the target.
        """
        if step is None:
            step = self.latest()
            if step is None and (damaged := manifest.complete_steps(self._workdir)):
                raise UserError(
                    f"no checkpoint in {self._workdir / 'checkpoints'} is intact (damaged:"
                    f" {', '.join(map(str, damaged))}); restore them from a backup, or remove that"
                    " folder to start from the beginning"
                )
        else:
            self.wait()
            broadcast("checkpoint", lambda: self._check_step(step), _TIMEOUT_SECONDS)
        if step is None:
            return None
        folder = manifest.step_folder(self._workdir, step)
        return Restored(step, saved_state.read_state(folder, target))

    def files(self, step: int) -> dict[str, bytes]:
        """The files that were stored beside the arrays. Raises UserError if missing or damaged."""
        folder = manifest.step_folder(self._workdir, step)
        own = [name for name in manifest.file_names(folder) if not name.startswith("state/")]
        return {name: manifest.read_file(folder, name) for name in own}

    def _newest_intact(self) -> int | None:
        def skip(step: int, problem: str) -> None:
            self._damaged.add(step)
            folder = manifest.step_folder(self._workdir, step)
            self._report(f"checkpoint {folder} is skipped: {problem}")

        return manifest.newest_intact_step(self._workdir, skip)

    def _check_step(self, step: int) -> str:
        """Raises UserError unless the checkpoint of a step is intact."""
        folder = manifest.step_folder(self._workdir, step)
        known = manifest.all_steps(self._workdir)
        if step not in known:
            listed = ", ".join(map(str, known)) or "none"
            raise UserError(f"no checkpoint of step {step} in {folder.parent}; there are: {listed}")
        if problems := manifest.verify(folder):
            raise UserError(f"checkpoint {folder} is damaged: {problems[0]}; choose another step")
        return ""

    def _from_first(self, answer: Callable[[], int]) -> int:
        """The answer of the first process, in all processes.

        Only one looks at the folder: on a shared file system, processes may see different things.
        """
        return int(broadcast("checkpoint", lambda: str(int(answer())), _TIMEOUT_SECONDS))


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.parts[:1] == ("state",):
        raise ValueError(f"{name!r} cannot be the name of a file beside the arrays of a checkpoint")
    if name == manifest.NAME:
        raise ValueError(f"{name!r} is written by the checkpointer itself")
