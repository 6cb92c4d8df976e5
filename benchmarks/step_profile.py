"""Where the time of a training step on CPU goes, and how long its matrix products take alone.

    pip install -e '.[bench]'
    python benchmarks/step_profile.py [--models b32 b16] [--runs 5] [--json PATH]

The first table divides the wall time of a step of `benchmarks/step.py` among kinds of operations,
by XLA's own profiler. The second adds up all matrix products of the compiled step, each run alone
by the library (XLA, PyTorch, NumPy) that is fastest for its shape. A step that computes its
products with these libraries cannot take less time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from vljax.host_process import keep_freed_memory  # noqa: E402

keep_freed_memory()  # as the command does, before NumPy and JAX start threads

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.peers import inputs, products, thunks  # noqa: E402
from benchmarks.peers.worker import Spec  # noqa: E402
from benchmarks.step import MODELS  # noqa: E402
from vljax.analysis.compile import model_flops  # noqa: E402
from vljax.analysis.hlo import parse  # noqa: E402
from vljax.parallel.rules import batch_sharding  # noqa: E402
from vljax.programs import compile_step, hyper, initial_state  # noqa: E402
from vljax.run import prepare  # noqa: E402


def profile(spec: Spec, runs: int) -> dict[str, Any]:
    """Seconds of a step, by kind of operation, and of its products alone."""
    from benchmarks.peers.vljax_step import recipe

    prepared = prepare(recipe(spec))
    arrays = inputs.batch(spec)
    arrays["example_id"] = np.zeros((spec.batch, 2), np.uint32)
    arrays["valid"] = np.ones(spec.batch, bool)
    batch = jax.device_put(arrays, batch_sharding(prepared.mesh))
    state, values = initial_state(prepared), hyper(prepared)
    step = compile_step(prepared).lower(state, batch, values).compile()
    module = parse(step.as_text())

    def train() -> None:
        nonlocal state
        state, _ = step(state, batch, values)
        jax.block_until_ready(state)

    for _ in range(2):
        train()
    traces = [thunks.seconds_by_kind(module, train) for _ in range(runs)]
    kinds = sorted({kind for trace in traces for kind in trace})
    by_kind = {k: statistics.median(trace.get(k, 0.0) for trace in traces) for k in kinds}
    alone = products.measure(products.of(module), runs)
    return {
        "model_flops": model_flops(prepared),
        "step_seconds": statistics.median(sum(trace.values()) for trace in traces),
        "seconds_by_kind": dict(sorted(by_kind.items(), key=lambda item: -item[1])),
        "product_flops": sum(p["flops"] * p["times"] for p in alone),
        "products_alone_seconds": sum(p["seconds"] * p["times"] for p in alone),
        "fastest_flops_per_second": max(p["flops"] / p["seconds"] for p in alone),
        "products": alone,
    }


def show(name: str, figures: dict[str, Any]) -> None:
    """Prints both tables of a model."""
    step, limit = figures["step_seconds"], figures["fastest_flops_per_second"]
    print(f"\n{name}: {figures['model_flops'] / 1e9:.0f} GFLOP, {step:.2f} s under the profiler")
    for kind, seconds in figures["seconds_by_kind"].items():
        print(f"  {kind:34} {seconds:7.3f} s {seconds / step:6.1%}")
    alone = figures["products_alone_seconds"]
    print(f"Its {figures['product_flops'] / 1e9:.0f} GFLOP of products, each alone: {alone:.2f} s")
    print(f"  fastest of them: {limit / 1e9:.0f} GFLOP/s")
    print(f"  all of them: {figures['product_flops'] / alone / limit:.0%} of that")
    for p in sorted(figures["products"], key=lambda p: -p["seconds"] * p["times"])[:12]:
        rate, total = p["flops"] / p["seconds"] / 1e9, p["seconds"] * p["times"]
        print(
            f"  {total:6.3f} s {p['times']:4} x {p['shape']:36} {rate:6.1f} GFLOP/s {p['library']}"
        )


def main() -> None:
    """Prints two tables for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--activation", choices=("gelu", "quick_gelu"), default="gelu")
    parser.add_argument("--runs", type=int, default=5, help="runs of the step and of each product")
    parser.add_argument("--json", metavar="PATH", help="write the figures; - for standard output")
    options = parser.parse_args()
    report = {}
    for name in options.models:
        spec = Spec(*MODELS[name], options.activation)
        report[name] = profile(spec, options.runs)
        if options.json != "-":
            show(spec.name, report[name])
    if options.json == "-":
        print(json.dumps(report, indent=2))
    elif options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
