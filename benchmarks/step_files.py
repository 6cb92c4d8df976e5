"""Lists the files of vljax that one training step calls: what a reader opens to follow it.

    python benchmarks/step_files.py

Makes a batch and traces the training step (model, objectives, gradient, update) of a recipe, and
lists every file in which a function was called meanwhile, with its lines. The loop, which calls
both, is added by name. Compiling and computing are left out: they call no other file.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from vljax import config, programs
from vljax.overrides import override
from vljax.run import Run, prepare

ROOT = Path(config.__file__).parent
DEFAULT = "configs/clip_vit_b16.py"
OVERRIDES = (
    "--data.source builtin --global_batch 4"
    " --model.encoders.image.depth 1 --model.encoders.text.depth 1"
)
LOOP = "training/loop.py"


def called_files(work: Callable[[], Any]) -> set[str]:
    """The files below vljax/ in which functions were called, in any thread."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and not frame.f_code.co_name.startswith("<module"):
            found.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    paths = (Path(file) for file in found)
    return {str(path.relative_to(ROOT)) for path in paths if path.is_relative_to(ROOT)}


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

    files = sorted(called_files(step) | {LOOP})
    lines = {file: len((ROOT / file).read_text().splitlines()) for file in files}
    for file in files:
        print(f"{lines[file]:6,}  vljax/{file}")
    print(f"{sum(lines.values()):6,}  lines in {len(files)} files")


if __name__ == "__main__":
    main()
