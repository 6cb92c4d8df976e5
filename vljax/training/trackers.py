"""Copies of a run's metrics in TensorBoard and Weights & Biases, beside `metrics.jsonl`."""

from __future__ import annotations

import importlib
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from vljax.config import UserError
from vljax.training.metrics import Writer

TrackerName = Literal["tensorboard", "wandb"]

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


@runtime_checkable
class _Tracker(Protocol):
    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class TrackedWriter:
    """Writes each row of metrics to a writer, and then to trackers.

    Values that are not finite are left out of the copies: neither draws them.
    """

    def __init__(self, writer: Writer, trackers: Sequence[_Tracker]) -> None:
        self._writer, self._trackers = writer, trackers

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row."""
        self._writer.write(step, values)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for tracker in self._trackers:
            tracker.write(step, finite)

    def flush(self) -> None:
        """Makes all rows durable, those of `metrics.jsonl` first."""
        self._writer.flush()
        for tracker in self._trackers:
            tracker.flush()

    def close(self) -> None:
        """Makes all rows durable, and ends the trackers."""
        self._writer.close()
        for tracker in self._trackers:
            tracker.close()


def check_trackers(names: Sequence[TrackerName], workdir: str) -> None:
    """Raises UserError if a tracker cannot be used: its package or its folder is missing."""
    for name in names:
        try:
            importlib.import_module(_PACKAGES[name])
        except ImportError as error:
            raise UserError(
                f"trackers: {name} needs the package {_PACKAGES[name]}: pip install 'vljax[{name}]'"
            ) from error
        if "://" in workdir:
            raise UserError(
                f"trackers: {name} writes to a local folder, and workdir is {workdir}; leave"
                " trackers out, or use a local workdir"
            )


def tracked(
    writer: Writer,
    names: Sequence[TrackerName],
    workdir: str,
    start: int,
    recipe: Callable[[], Any],
) -> TrackedWriter:
    """A writer that also fills trackers, of a run that starts or resumes at a step.

    Args:
      writer: the writer of `metrics.jsonl`.
      names: of the trackers; `check_trackers` has passed.
      workdir: a local folder; TensorBoard's files are in its subfolder `tensorboard`.
      start: the step. What an interrupted attempt wrote past it is superseded.
      recipe: makes the recipe as plain data, which Weights & Biases shows.
    """
    made: list[_Tracker] = []
    for name in names:
        if name == "tensorboard":
            made.append(_TensorBoard(workdir, start))
        else:
            made.append(_WeightsAndBiases(workdir, recipe()))
    return TrackedWriter(writer, made)


class _TensorBoard:
    """Event files, as `tensorboard --logdir` reads them."""

    def __init__(self, workdir: str, start: int) -> None:
        from tensorboardX import SummaryWriter

        # TensorBoard hides what earlier files have from the step `purge_step` on. Names of files
        # have the time in seconds, in which a run may end and resume.
        self._events = SummaryWriter(
            f"{workdir}/tensorboard",
            purge_step=start + 1 if start else None,
            filename_suffix=f".from{start}",
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class _WeightsAndBiases:
    """A run of Weights & Biases; its own environment variables (`WANDB_PROJECT`, `WANDB_MODE`, ...)
    say where it goes. A resumed run goes on with the same page.
    """

    def __init__(self, workdir: str, recipe: Any) -> None:
        import wandb

        # Its page is named in the workdir, so that a resumed run finds it again.
        known = Path(workdir) / "wandb_id"
        if not known.exists():
            known.write_text(secrets.token_hex(8))
        self._run = wandb.init(
            dir=workdir,
            id=known.read_text(),
            name=workdir.rstrip("/").rpartition("/")[2],
            resume="allow",
            config=recipe,
        )
        # Rows come with their own step, since a resumed run may be behind the last row.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def flush(self) -> None:
        """Weights & Biases sends in the background."""

    def close(self) -> None:
        self._run.finish()
