"""Measures the peak memory of `vljax import` and `vljax export`.

    python benchmarks/interop_memory.py [--gigabytes 5] [--folder DIR] [--json PATH]

A CLIP of transformers with random weights in float32, as wide as open_clip's ViT-bigG/14 and as
deep as the size requires, is imported and exported again. Then the same model is exported from a
checkpoint with scanned stacks, where all layers are one array. Each command runs in its own
process, and its peak resident memory includes mapped files. The peak should be less than 1.5 times
the largest safetensors file. Needs twice the size of the model on disk, and removes it again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT / "tests/parity/data/interop/transformers_clip_a.zip"
LIMIT = 1.5
"""The largest allowed peak, relative to the largest file."""

_VISION = {"hidden_size": 1664, "num_attention_heads": 16, "intermediate_size": 8192}
_TEXT = {
    "hidden_size": 1280,
    "num_attention_heads": 20,
    "intermediate_size": 5120,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}


def configuration(folder: Path, gigabytes: float) -> dict[str, Any]:
    """A `config.json` for a model of about this size in float32."""
    content = json.loads((folder / "config.json").read_text())
    text = content["text_config"] | _TEXT
    layer, rest = _weights(_VISION), 12 * _weights(_TEXT) + 49408 * 1280
    depth = max(1, round((gigabytes * 1e9 / 4 - rest) / layer))
    vision = content["vision_config"] | _VISION | {"image_size": 224, "patch_size": 14}
    vision["num_hidden_layers"] = depth
    return content | {"text_config": text, "vision_config": vision, "projection_dim": 1280}


def _weights(tower: dict[str, int]) -> int:
    width, mlp = tower["hidden_size"], tower["intermediate_size"]
    return 4 * width * width + 2 * width * mlp


def make_foreign(folder: Path, gigabytes: float) -> None:
    """Writes a folder of transformers, one array at a time."""
    from vljax.interop.files.safetensors import SHARD_BYTES, write_folder
    from vljax.interop.mapping import pair
    from vljax.interop.transformers.clip import read
    from vljax.models.parameters import unrolled_shapes
    from vljax.run import prepare

    with zipfile.ZipFile(TOKENIZER) as archive:
        archive.extractall(folder)
    (folder / "model.safetensors").unlink()
    (folder / "outputs.npz").unlink()
    content = configuration(folder, gigabytes)
    (folder / "config.json").write_text(json.dumps(content))
    processor = json.loads((folder / "processor_config.json").read_text())
    sides = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    processor["image_processor"] |= sides
    (folder / "processor_config.json").write_text(json.dumps(processor))
    foreign = read(folder, content, {})
    shapes = unrolled_shapes(prepare(foreign.run).shapes.params)
    tensors = {
        one.foreign: _random(one.foreign_shape) for one in pair(foreign.rules, shapes, "CLIP")
    }
    write_folder(folder, "model", tensors, lambda done: None, SHARD_BYTES)


def _random(shape: tuple[int, ...]) -> Any:
    import numpy as np

    from vljax.interop.files.tensors import Lazy

    rng = np.random.default_rng(shape)

    def make() -> Any:
        return rng.standard_normal(shape, np.float32)

    return Lazy(shape, np.dtype(np.float32), make)


def make_scanned(workdir: Path, unrolled: Path) -> None:
    """Writes a workdir like `unrolled` with scanned stacks."""
    import jax
    from etils import epath

    from vljax.config import encode
    from vljax.interop.checkpoints import write_parameters
    from vljax.models.parameters import leaves
    from vljax.run import prepare
    from vljax.training.checkpoint import manifest
    from vljax.workdir import decode_recipe

    old, new = (folder / "checkpoints" / "0" for folder in (unrolled, workdir))
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("state", "manifest.json"))
    run = decode_recipe(json.loads((new / "recipe.json").read_text()), "recipe.json")
    encoders = {name: replace(one, scan=True) for name, one in run.model.encoders.items()}
    run = replace(run, model=replace(run.model, nodes={**run.model.nodes, **encoders}))
    (new / "recipe.json").write_text(json.dumps(encode(run)))
    shapes = prepare(run, jax.devices()[:1]).shapes.params
    arrays = {"/".join(keys): _random(tuple(leaf.shape)) for keys, leaf in leaves(shapes)}
    write_parameters(new, arrays, lambda done: None)
    manifest.write(epath.Path(new))


def in_own_process(code: str) -> None:
    """Runs a line of code in another process, so that its memory is freed."""
    # From the root, where Python finds the package `benchmarks`.
    begin = "from pathlib import Path; import benchmarks.interop_memory as m"
    command = [sys.executable, "-c", f"{begin}; {code}"]
    subprocess.run(command, env=_environment(), cwd=ROOT, check=True)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def peak(*arguments: str | Path) -> tuple[int, float]:
    """The peak of resident memory in bytes, and the seconds, of a `vljax` command."""
    command = [sys.executable, "-m", "vljax.commands.main", *map(str, arguments)]
    began = time.monotonic()
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024, time.monotonic() - began


def largest(folder: Path) -> int:
    """The size of the largest file of weights in bytes."""
    return max(file.stat().st_size for file in folder.glob("*.safetensors"))


def measure(folder: Path, gigabytes: float) -> Iterator[dict[str, Any]]:
    """Measures each case; yields a row for each."""
    foreign, workdir, out, scanned = (folder / name for name in ("src", "run", "out", "scanned"))
    in_own_process(f"m.make_foreign(Path({str(foreign)!r}), {gigabytes})")
    shard = largest(foreign)
    yield _row("import", shard, *peak("import", foreign, workdir))
    shutil.rmtree(foreign)
    yield _row("export", *_export(workdir, out))
    in_own_process(f"m.make_scanned(Path({str(scanned)!r}), Path({str(workdir)!r}))")
    shutil.rmtree(workdir)
    yield _row("export of a scanned model", *_export(scanned, out))


def _export(workdir: Path, out: Path) -> tuple[int, int, float]:
    bytes_, seconds = peak("export", workdir, out, "--format", "transformers")
    shard = largest(out)
    shutil.rmtree(out)
    return shard, bytes_, seconds


def _row(case: str, shard: int, bytes_: int, seconds: float) -> dict[str, Any]:
    ratio = bytes_ / shard
    print(
        f"{case:26} {bytes_ / 1e9:8.2f} {shard / 1e9:8.2f} {ratio:7.2f} {seconds:8.0f}", flush=True
    )
    return {"case": case, "peak": bytes_, "shard": shard, "ratio": ratio, "seconds": seconds}


def main() -> int:
    """Prints a table, and writes JSON if asked to. The status is 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", help="a folder with enough room; by default a temporary one")
    parser.add_argument("--json", metavar="PATH")
    args = parser.parse_args()
    print(f"CLIP of {args.gigabytes:g} GB in float32; GB, limit {LIMIT} times the largest file")
    print(f"{'':26} {'peak':>8} {'file':>8} {'ratio':>7} {'seconds':>8}")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = list(measure(Path(folder), args.gigabytes))
    if args.json:
        text = json.dumps({"gigabytes": args.gigabytes, "rows": rows})
        print(text) if args.json == "-" else Path(args.json).write_text(text + "\n")
    return 1 if any(row["ratio"] >= LIMIT for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
