"""Compiles recipes for TPU slices and GPU nodes you do not have: memory and predicted time.

python benchmarks/topologies.py [--only NAME,...] [--json PATH]

Each row is one `vljax compile` (minutes on a few CPU cores); standard error shows it. Times are
those of a cost model (docs/compile.md), not measurements. Exit status 1 if a recipe does not fit.
TPU rows need libtpu (`pip install 'vljax[tpu-aot]'`), GPU rows the CUDA plugin (`vljax[cuda]`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FULL = "--model.nodes.image.remat full --model.nodes.text.remat full"
SAVE = "--model.nodes.image.remat save --model.nodes.text.remat save"
BATCH = "--global_batch 32768"

RECIPES = {
    "b16_v5e_16": f"configs/siglip_vit_b16.py --topology v5e:4x4 {BATCH} --accumulate 32",
    "l16_v5e_256": (
        f"configs/siglip_vit_l16_256.py --topology v5e:16x16 {BATCH} --accumulate 4 {FULL}"
    ),
    "so400m_v5p_64": (
        f"configs/siglip_so400m14_384.py --topology v5p:4x4x4 {BATCH} --accumulate 8 {SAVE}"
    ),
    "so400m_v6e_256": (
        f"configs/siglip_so400m14_384.py --topology v6e:16x16 {BATCH} --accumulate 8 {SAVE}"
    ),
    "g14_v5p_1024": f"configs/clip_vit_g14.py --topology v5p:8x8x16 {BATCH} {SAVE}",
    "g14_h100_8": (f"configs/clip_vit_g14.py --topology h100:8 {BATCH} --accumulate 64 {SAVE}"),
}


def compiled(command: str) -> dict[str, Any]:
    """The report of one `vljax compile`."""
    arguments = [sys.executable, "-m", "vljax.commands.main", "compile", *shlex.split(command)]
    run = subprocess.run([*arguments, "--json", "-"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if run.returncode not in (0, 1):
        sys.exit(f"vljax compile {command}: status {run.returncode}")
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def row(name: str, report: dict[str, Any]) -> str:
    """One line of the table."""
    gib = 2**30
    total, memory = report["total_bytes"], report["device_memory_bytes"]
    used = "?" if total is None else f"{total / gib:.1f}"
    step, mfu = report["predicted_step_seconds"], report["predicted_mfu"]
    speed = "" if step is None else f"{step:9.2f} s {mfu:7.1%}"
    fits = "fits" if report["fits"] else "does not fit"
    memory_text = f"{used:>6} of {memory / gib:5.1f} GiB"
    return f"{name:16} {report['devices']:5} {fits:12} {memory_text} {speed}"


def main() -> int:
    """Prints a row for each recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help=f"names, separated by commas: {', '.join(RECIPES)}")
    parser.add_argument("--json", metavar="PATH", help="write all reports, too")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(RECIPES)
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"unknown: {', '.join(unknown)}")
    print(f"{'':16} {'devs':>5} {'':12} {'memory a device':>19} {'step':>11} {'MFU':>7}")
    reports = {}
    for name in names:
        print(f"vljax compile {RECIPES[name]}", file=sys.stderr, flush=True)
        reports[name] = compiled(RECIPES[name])
        print(row(name, reports[name]), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(reports, indent=2) + "\n")
    return 0 if all(report["fits"] for report in reports.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
