"""Peak temporary memory of contrastive losses and their gradients, compared with dense losses.

python benchmarks/contrastive_memory.py [--global_batch 32768] [--devices 4 16] [--json PATH|-]

The programs are compiled for CPU devices and not run: float32, embeddings of width 768, gradients
of both embeddings and of the learned scalars. A figure is `temp_size_in_bytes` of the program that
each device runs on its shard of the batch: bytes per device, without arguments and results, which
every loss has. The dense loss computes the matrix of all logits, as in big_vision's SigLIP trainer
(trainers/proj/image_text/siglip.py) and in CLIP (Radford et al. 2021, fig. 3), and XLA splits it;
it gets normalised embeddings, whereas our losses normalise them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WIDTH = 768
LOSSES = ("softmax", "sigmoid")
TARGETS = {(32768, 4): 0.3, (32768, 16): 0.1}
"""(global batch, devices) -> upper limit for our losses, in GiB per device."""


def dense(kind: str) -> Callable[..., Any]:
    """The loss with a matrix of all logits."""
    import jax
    import jax.numpy as jnp

    def loss(image: Any, text: Any, log_scale: Any, bias: Any) -> Any:
        logits = jnp.dot(image, text.T) * jnp.exp(log_scale)
        if kind == "sigmoid":
            signs = 2 * jnp.eye(len(logits)) - 1
            terms = jax.nn.log_sigmoid(signs * (logits + bias))
            return -jnp.mean(jnp.sum(terms, axis=1))
        rows, columns = (jnp.diagonal(jax.nn.log_softmax(logits, axis)) for axis in (1, 0))
        return -jnp.mean(rows + columns) / 2

    return loss


def ours(kind: str, mesh: Any) -> Callable[..., Any]:
    """The loss of the objective."""
    import jax
    import jax.numpy as jnp

    from vljax.objectives.contrastive import SigmoidContrastive, SoftmaxContrastive
    from vljax.objectives.objective import Context

    objective = SigmoidContrastive() if kind == "sigmoid" else SoftmaxContrastive()

    def loss(image: Any, text: Any, log_scale: Any, bias: Any) -> Any:
        embeddings = {"image/embedding": image, "text/embedding": text}
        outputs = {**embeddings, "logit_scale": log_scale, "logit_bias": bias}
        batch = {"valid": jnp.ones(len(image), bool)}
        return objective(Context(lambda *_: outputs, batch, mesh), batch, jax.random.key(0)).loss

    return loss


def measure(global_batch: int, devices: int) -> dict[str, float]:
    """`KIND/ours` and `KIND/dense` -> temporary GiB per device; compiles in this process."""
    import jax
    import jax.numpy as jnp

    from vljax.parallel.mesh import MeshConfig, make_mesh
    from vljax.parallel.rules import batch_sharding, replicated

    mesh = make_mesh(MeshConfig(data=devices))
    split, whole = batch_sharding(mesh), replicated(mesh)
    shardings = (split, split, whole, whole)
    shapes = ((global_batch, WIDTH), (global_batch, WIDTH), (), ())
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for shape, sharding in zip(shapes, shardings, strict=True)
    ]
    result = {}
    for kind in LOSSES:
        for name, loss in (("ours", ours(kind, mesh)), ("dense", dense(kind))):
            function = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))
            program = (
                jax.jit(function, out_shardings=(whole, shardings)).lower(*arguments).compile()
            )
            result[f"{kind}/{name}"] = program.memory_analysis().temp_size_in_bytes / 2**30
    return result


def in_own_process(global_batch: int, devices: int) -> dict[str, float]:
    """`measure` in a process with that number of CPU devices."""
    code = (
        f"import jax; jax.config.update('jax_num_cpu_devices', {devices}); import json;"
        f"import contrastive_memory as m; print(json.dumps(m.measure({global_batch}, {devices})))"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def report(global_batch: int, devices: Sequence[int]) -> list[dict[str, Any]]:
    """Measures each number of devices and loss; prints and returns the rows."""
    print(f"global batch {global_batch}, width {WIDTH}, float32; GiB per device")
    print(f"{'devices':>7}  {'loss':8} {'ours':>7} {'dense':>7} {'ratio':>7} {'target':>7}")
    rows = []
    for count in devices:
        figures = in_own_process(global_batch, count)
        target = TARGETS.get((global_batch, count))
        for kind in LOSSES:
            mine, peer = figures[f"{kind}/ours"], figures[f"{kind}/dense"]
            rows.append(
                {"devices": count, "loss": kind, "ours": mine, "dense": peer, "target": target}
            )
            aim = "" if target is None else f"{target:.2f}"
            print(f"{count:7}  {kind:8} {mine:7.3f} {peer:7.3f} {mine / peer:7.3f} {aim:>7}")
    return rows


def main() -> None:
    """Prints a table; with `--json`, writes its numbers too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--global_batch", type=int, default=32768)
    parser.add_argument("--devices", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--json", metavar="PATH")
    args = parser.parse_args()
    rows = report(args.global_batch, args.devices)
    if args.json:
        text = json.dumps({"global_batch": args.global_batch, "width": WIDTH, "gib": rows})
        print(text) if args.json == "-" else Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
