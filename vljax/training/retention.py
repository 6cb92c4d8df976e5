"""Which checkpoints stay."""

from __future__ import annotations

from collections.abc import Callable, Collection

from etils import epath

from vljax.training import manifest, storage


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
