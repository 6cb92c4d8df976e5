"""The workdir of a run: whose it is, and what produced it (`run.json`)."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from etils import epath

from vljax import config
from vljax.config import UserError
from vljax.run import Prepared, Run
from vljax.training import storage


def claim(workdir: str, prepared: Prepared) -> None:
    """Writes `run.json`. Raises UserError if the workdir belongs to a run of another recipe."""
    file = epath.Path(workdir) / "run.json"
    if file.exists():
        _compare(_saved_recipe(file), prepared.run, workdir)
    if jax.process_index() == 0:
        storage.write(file, (json.dumps(_description(prepared), indent=2) + "\n").encode())


def _saved_recipe(file: epath.Path) -> Run:
    try:
        return config.decode(Run, json.loads(file.read_text())["recipe"])
    except (ValueError, KeyError, UserError) as error:
        raise UserError(
            f"{file}: no recipe of this version ({error}); use another workdir"
        ) from None


def _compare(saved: Run, wanted: Run, workdir: str) -> None:
    different = config.differences(saved, wanted)
    if different:
        shown = "; ".join(
            f"{k} is {there!r} there, {here!r} here" for k, there, here in different[:3]
        )
        more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"{workdir} holds a run of another recipe ({shown}{more}); use another --workdir"
        )


def _description(prepared: Prepared) -> dict[str, Any]:
    packages = ("vljax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    devices = prepared.mesh.devices.flatten()
    return {
        "recipe": config.encode(prepared.run),
        "resolved": {
            "platform": prepared.platform,
            "precision": prepared.run.precision.resolve(prepared.platform).compute,
            "mesh": dict(prepared.mesh.shape),
            "processes": jax.process_count(),
        },
        "devices": {"kind": devices[0].device_kind, "count": len(devices)},
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": sys.version.split()[0],
        "revision": _revision(),
    }


def _revision() -> str | None:
    """The git revision of the source tree, with `+` where it has changes; None outside of one."""
    folder = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return run.stdout.strip() or None
