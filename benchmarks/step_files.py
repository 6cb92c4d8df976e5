"""Lists the files of vljax that one training step calls: what a reader opens to follow it.

    python benchmarks/step_files.py

Makes a batch and traces the training step (model, objectives, gradient, update) of a recipe, and
lists every file in which a function was called meanwhile: its lines, and the lines of the functions
that were called. The loop, which calls
both, is added by name. Compiling and computing are left out: they call no other file.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from vljax import config, programs
from vljax.overrides import override
from vljax.run import Run, prepare

ROOT = Path(config.__file__).parent
DEFAULT = "configs/clip_vit_b16.py"
OVERRIDES = (
    "--data.source builtin --global_batch 4 --model.nodes.image.depth 1 --model.nodes.text.depth 1"
)
LOOP = "training/loop.py"


def called(work: Callable[[], Any]) -> dict[str, set[int]]:
    """By file below vljax/, the lines of the functions that were called in it, in any thread."""
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            codes.add(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    lines: dict[str, set[int]] = {}
    for code in codes:
        path = Path(code.co_filename)
        if path.is_relative_to(ROOT) and code.co_name != "<module>":
            last = max(line for *_, line in code.co_lines() if line is not None)
            span = range(code.co_firstlineno, last + 1)
            lines.setdefault(str(path.relative_to(ROOT)), set()).update(span)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default=DEFAULT, help="a recipe file")
    parser.add_argument("--overrides", default=OVERRIDES, help="fields of it, in one string")
    args = parser.parse_args()
    run = override(config.load(args.recipe, Run), args.overrides.split(), "step_files")
    prepared = prepare(run)

    def step() -> None:
        batches = programs.device_batches(prepared, 0)
        next(batches)
        batches.close()
        programs.trace_step(prepared)

    spans = called(step)
    spans.setdefault(LOOP, set()).update(range(len((ROOT / LOOP).read_text().splitlines())))
    totals = [0, 0]
    for file in sorted(spans):
        row = (len((ROOT / file).read_text().splitlines()), len(spans[file]))
        totals = [total + lines for total, lines in zip(totals, row, strict=True)]
        print(f"{row[0]:6,} {row[1]:6,}  vljax/{file}")
    print(f"{totals[0]:6,} {totals[1]:6,}  lines in {len(spans)} files: all, of called functions")


if __name__ == "__main__":
    main()
