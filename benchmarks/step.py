"""Times a CLIP training step of vljax, of open_clip and of plain JAX on this machine.

    pip install -e '.[bench]'
    python benchmarks/step.py [--runs 7] [--json PATH]

Each peer runs in its own process. Peers run one at a time and alternate, so that other load on the
machine affects all of them alike. Figures are medians. The limit is the fastest product of large
matrices by any of the libraries (XLA, PyTorch, NumPy) in the same run. FLOPs are the model's matrix
products, bidirectional attention in full, forward and backward
(`vljax.analysis.compile.model_flops`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.peers import gemm  # noqa: E402
from benchmarks.peers.worker import Spec, Worker  # noqa: E402

PEERS = {"vljax": "vljax_step", "open_clip": "open_clip_step", "plain_jax": "plain_jax_step"}
MODELS = {"b32": (32, 16), "b16": (16, 8)}
COMPUTED = ("step", "forward", "image tower", "text tower", "encode images")
CHECKPOINT = ("save checkpoint", "restore checkpoint")
COMPILED = ("compile unrolled", "compile scanned")

Seconds = dict[str, dict[str, float]]
"""Median seconds by workload and peer."""


def measure(workers: dict[str, Worker], workloads: list[str], runs: int) -> Seconds:
    """Median seconds of each workload and peer; peers take turns, and a first run is dropped."""
    result: Seconds = {}
    for workload in workloads:
        able = {name: w for name, w in workers.items() if workload in w.workloads}
        warm_up = 0 if workload in COMPILED else 1
        times: dict[str, list[float]] = {name: [] for name in able}
        for turn in range(warm_up + (1 if workload in COMPILED else runs)):
            for name, worker in able.items():
                seconds = worker.seconds(workload)
                times[name] += seconds if turn >= warm_up else []
        result[workload] = {name: statistics.median(values) for name, values in times.items()}
        shown = "  ".join(f"{name} {value:.3f} s" for name, value in result[workload].items())
        print(f"{workload}: {shown}", file=sys.stderr, flush=True)
    return result


def facts(spec: Spec) -> dict[str, float]:
    """FLOPs of a step and bytes of a checkpoint, from which rates are computed."""
    import jax

    from benchmarks.peers.vljax_step import recipe
    from vljax.analysis.compile import model_flops
    from vljax.run import prepare

    prepared = prepare(recipe(spec))
    state = jax.tree.leaves(prepared.shapes)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in state)
    return {"model_flops": model_flops(prepared), "checkpoint_bytes": size}


def summary(spec: Spec, seconds: Seconds) -> dict[str, Any]:
    """The figures of a model, from the medians."""
    known = facts(spec)
    rates = {
        name: gemm.flops(gemm.shape_of(name)) / value
        for name, by_peer in seconds.items()
        if name.startswith("gemm ")
        for value in by_peer.values()
    }
    limit = max(rates.values(), default=None)
    figures: dict[str, Any] = {**known, "gemm_limit_flops_per_second": limit, "gemm": rates}
    for workload, by_peer in seconds.items():
        if workload.startswith("gemm "):
            continue
        entry: dict[str, Any] = {"seconds": by_peer}
        own = by_peer["vljax"]
        entry |= {f"ratio_vs_{peer}": t / own for peer, t in by_peer.items() if peer != "vljax"}
        if workload in CHECKPOINT:
            rate = {peer: known["checkpoint_bytes"] / t / 1e6 for peer, t in by_peer.items()}
            entry["megabytes_per_second"] = rate
        if workload == "encode images":
            entry["images_per_second"] = {peer: spec.batch / t for peer, t in by_peer.items()}
        if workload == "step" and limit:
            rate = {peer: known["model_flops"] / t / limit for peer, t in by_peer.items()}
            entry["fraction_of_gemm_limit"] = rate
        figures[workload] = entry
    return figures


def show(name: str, figures: dict[str, Any]) -> None:
    """Prints the table of a model."""
    limit = figures["gemm_limit_flops_per_second"]
    print(f"\n{name}: {figures['model_flops'] / 1e9:.1f} GFLOP a step")
    if limit:
        print(f"fastest product of matrices: {limit / 1e9:.0f} GFLOP/s")
    print(f"{'':20} {'vljax':>9} {'open_clip':>9} {'plain JAX':>9}   vljax is faster by")
    for workload, entry in figures.items():
        if not isinstance(entry, dict) or "seconds" not in entry:
            continue
        times = entry["seconds"]
        cells = " ".join(f"{times[p]:7.3f} s" if p in times else " " * 9 for p in PEERS)
        ratios = [f"{entry[f'ratio_vs_{p}']:.2f} ({p})" for p in PEERS if f"ratio_vs_{p}" in entry]
        extra = ""
        if "fraction_of_gemm_limit" in entry:
            shares = entry["fraction_of_gemm_limit"]
            extra = "  of the limit: " + ", ".join(f"{p} {v:.0%}" for p, v in shares.items())
        for unit in ("images_per_second", "megabytes_per_second"):
            if unit in entry:
                rates = ", ".join(f"{p} {v:.0f}" for p, v in entry[unit].items())
                extra = f"  {unit.replace('_', ' ')}: {rates}"
        print(f"{workload:20} {cells}   {', '.join(ratios)}{extra}")


def compare(spec: Spec, options: argparse.Namespace) -> dict[str, Any]:
    """Starts the peers, measures, and ends them."""
    workers = {name: Worker(PEERS[name], spec) for name in options.peers}
    try:
        workloads = [w for w in workers["vljax"].workloads if not w.startswith("gemm ")]
        workloads = [w for w in options.only or workloads if w in workloads]
        products = [w for worker in workers.values() for w in worker.workloads if "gemm " in w]
        return summary(spec, measure(workers, [*products, *workloads], options.runs))
    finally:
        for worker in workers.values():
            worker.close()


def main() -> None:
    """Prints a table for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--activation", choices=("gelu", "quick_gelu"), default="gelu")
    parser.add_argument("--only", nargs="+", choices=(*COMPUTED, *CHECKPOINT, *COMPILED))
    parser.add_argument("--runs", type=int, default=7, help="runs of each workload")
    parser.add_argument("--json", metavar="PATH", help="write the figures; - for standard output")
    options = parser.parse_args()
    options.peers = list(dict.fromkeys(["vljax", *options.peers]))
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {p: version(p) for p in ("jax", "torch", "open_clip_torch")},
    }
    for name in options.models:
        patch, batch = MODELS[name]
        spec = Spec(patch, batch, options.activation)
        report[name] = compare(spec, options)
        if options.json != "-":
            show(spec.name, report[name])
    if options.json == "-":
        print(json.dumps(report, indent=2))
    elif options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
