"""The Python API on CPU: seconds until the first embedding, and many files against raw JAX.

    python benchmarks/inference.py [--recipe configs/clip_vit_b16.py] [--files 1000] [--runs 3]
        [--format FORMAT ...] [--RECIPE_FIELD VALUE ...]

A model with random weights is written as a checkpoint, and exported to each FORMAT. A new process
then imports vljax, loads it, and encodes one JPEG file: without compiled programs, and with those
of the process before. After that, one process encodes FILES files by `encode_image`, and by what it
is made of: a loop that reads and preprocesses each file, and the jitted function on batches of 256.
Both alternate. The ratio is the time of `encode_image` divided by the sum of the two loops. The
peak of resident memory is printed after a quarter of the files and after all of them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
ROWS = 256
_FIRST = """
import json, sys, time
begin = time.perf_counter()
import vljax
model = vljax.load(sys.argv[1])
loaded = time.perf_counter()
assert model.encode_image(sys.argv[2]).shape[0] == 1
print(json.dumps([loaded - begin, time.perf_counter() - loaded]))
"""


def write_model(recipe: str, fields: list[str], folder: Path) -> None:
    """Writes a workdir with one checkpoint of random weights."""
    from etils import epath

    from vljax import config
    from vljax.interop.checkpoints import write_parameters
    from vljax.interop.files.tensors import Lazy
    from vljax.models.parameters import leaves
    from vljax.overrides import override
    from vljax.parallel.mesh import find_devices
    from vljax.programs import initial_state
    from vljax.run import Run, prepare, recipe_tokenizers
    from vljax.training.checkpoint import manifest
    from vljax.workdir import model_files

    run = override(config.load(recipe, Run), [*fields, "--mesh.fsdp", "1"], recipe)
    prepared = prepare(run, find_devices()[:1])
    step = folder / "checkpoints" / "0"
    step.mkdir(parents=True)
    arrays = {
        "/".join(keys): Lazy(leaf.shape, np.dtype(leaf.dtype), lambda leaf=leaf: np.asarray(leaf))
        for keys, leaf in leaves(initial_state(prepared).params)
    }
    write_parameters(step, arrays, lambda nbytes: None)
    for name, content in model_files(prepared, recipe_tokenizers(run)).items():
        (step / name).parent.mkdir(parents=True, exist_ok=True)
        (step / name).write_bytes(content)
    manifest.write(epath.Path(step))


def write_images(folder: Path, count: int) -> list[str]:
    """Writes JPEG files of 640 x 480 pixels, of 16 different pictures."""
    from PIL import Image

    rng, contents, paths = np.random.default_rng(0), list[bytes](), list[str]()
    folder.mkdir()
    for _ in range(16):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    for i in range(count):
        path = folder / f"{i}.jpg"
        path.write_bytes(contents[i % 16])
        paths.append(str(path))
    return paths


def first_embedding(model: Path, image: str, cache: str | None) -> tuple[float, float]:
    """Seconds to import and load, and to encode one file, in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Without bytecode files, every process would compile vljax anew; an installed package has them.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if cache is None:
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "0"
    else:
        environment["XDG_CACHE_HOME"] = cache
    command = [sys.executable, "-c", _FIRST, str(model), image]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    load, encode = json.loads(done.stdout)
    return load, encode


def print_first(models: dict[str, Path], image: str, runs: int) -> None:
    """Prints medians for each model, without and with compiled programs."""
    print(f"{'to the first embedding, s':34} {'load':>7} {'encode':>7} {'sum':>7}")
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as cache:
            first_embedding(model, image, cache)
            for kind, home in (("nothing compiled", None), ("compiled before", cache)):
                taken = [first_embedding(model, image, home) for _ in range(runs)]
                load, encode = (statistics.median(each) for each in zip(*taken, strict=True))
                total = statistics.median(map(sum, taken))
                print(f"{name + ', ' + kind:34} {load:7.2f} {encode:7.2f} {total:7.2f}")


def peak_gib() -> float:
    """The largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def raw(model: Any, program: Any, paths: list[str]) -> tuple[float, float]:
    """Seconds to read and preprocess the files, and to compute their embeddings."""
    decoding = computing = 0.0
    for start in range(0, len(paths), ROWS):
        begin = time.perf_counter()
        made = [model.images(Path(path).read_bytes()) for path in paths[start : start + ROWS]]
        batch = {name: np.stack([each[name] for each in made]) for name in made[0]}
        decoded = time.perf_counter()
        np.asarray(program(model.variables, batch))
        decoding += decoded - begin
        computing += time.perf_counter() - decoded
    return decoding, computing


def print_many(folder: Path, paths: list[str], runs: int) -> None:
    """Prints the times of all files, the ratio, and the peak of memory."""
    import jax

    import vljax

    model = vljax.load(folder, devices=jax.local_devices()[:1])

    def forward(variables: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return model.model.apply(variables, batch, want=("image/embedding",))[0]["image/embedding"]

    program = jax.jit(forward)
    model.encode_image(paths[: max(1, len(paths) // 4)])
    quarter = peak_gib()
    wanted = model.encode_image(paths)  # compiles the last sizes
    all_files = peak_gib()
    raw(model, program, paths)
    loops, encodes, ratios = [], [], []
    for _ in range(runs):
        loops.append(raw(model, program, paths))
        begin = time.perf_counter()
        made = model.encode_image(paths)
        encodes.append(time.perf_counter() - begin)
        ratios.append(encodes[-1] / sum(loops[-1]))
        np.testing.assert_array_equal(made, wanted)
    decoding, computing = (statistics.median(each) for each in zip(*loops, strict=True))
    print(f"\n{len(paths):,} files, median of {runs}")
    print(f"{'read and preprocess, a loop':34} {decoding:7.2f} s")
    print(f"{'jitted function':34} {computing:7.2f} s")
    print(f"{'encode_image':34} {statistics.median(encodes):7.2f} s")
    low, high = min(ratios), max(ratios)
    print(f"{'ratio':34} {statistics.median(ratios):7.3f}   ({low:.3f} to {high:.3f})")
    print(f"{'peak after a quarter of the files':34} {quarter:7.2f} GiB")
    print(f"{'peak after all files':34} {all_files:7.2f} GiB")


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", default="configs/clip_vit_b16.py", metavar="RECIPE")
    parser.add_argument("--files", type=int, default=1000, metavar="N")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--format", nargs="*", default=["open_clip"], metavar="FORMAT")
    args, fields = parser.parse_known_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as home:
        from vljax.interop.convert import export_model

        models = {"checkpoint": Path(home) / "w"}
        write_model(args.recipe, fields, models["checkpoint"])
        for name in args.format:
            models[name] = Path(home) / name
            export_model(
                str(models["checkpoint"]),
                str(models[name]),
                name,
                accept=["text-cleaning", "resize"],
                report=lambda done, total: None,
            )
        paths = write_images(Path(home) / "images", args.files)
        print_first(models, paths[0], args.runs)
        print_many(models["checkpoint"], paths, args.runs)


if __name__ == "__main__":
    main()
