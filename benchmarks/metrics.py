"""Caption metrics beside pycocoevalcap, on the same captions in the same run.

    apt-get install default-jre-headless
    pip install -e '.[captions-meteor]' pycocotools
    python benchmarks/metrics.py [--images 5000] [--references 5] [--only bleu rouge_l cider_d]

Captions are composed from those of the built-in data set, with few special words, as captions of
photographs have. Prints, for the tokenizer and each metric, the largest difference, and the seconds
of both with their ratio: on the clock, and of CPU time, with that of the Java programs, which other
programs disturb less. Both sides read texts at the start: neither has seen the captions before.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

METRICS = ("bleu", "rouge_l", "cider_d", "meteor")


def timed(call: Callable[[], Any]) -> tuple[Any, np.ndarray]:
    """The result of a call, and the seconds it took: on the clock, and of CPU time."""
    begin = seconds()
    result = call()
    return result, seconds() - begin


def seconds() -> np.ndarray:
    """Now, and the CPU time of this process and of those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=METRICS, default=METRICS)
    args = parser.parse_args()
    if importlib.util.find_spec("pycocoevalcap") is None:
        sys.exit("pycocoevalcap is not installed: pip install -e '.[captions-meteor]' pycocotools")
    if shutil.which("java") is None:
        sys.exit(
            "Java is not installed; pycocoevalcap needs it: apt-get install default-jre-headless"
        )

    from tests.parity import official_captions as official
    from tests.parity.caption_texts import corpus
    from vljax.evaluation.metrics import captions as ours
    from vljax.evaluation.metrics.meteor import meteor

    texts = corpus(0, args.images, args.references, special=0.005)
    flat = [text for row in texts["references"] for text in row]

    def official_tokens() -> tuple[list[str], list[list[str]]]:
        left = iter(official.tokenize(flat))
        return official.tokenize(texts["candidates"]), [
            [next(left) for _ in row] for row in texts["references"]
        ]

    rows = []
    captions, own = timed(lambda: ours.tokenize_captions(**texts))
    tokens, theirs = timed(official_tokens)
    mine = (
        [" ".join(t) for t in captions.candidates],
        [[" ".join(t) for t in row] for row in captions.references],
    )
    equal = mine == tokens
    rows.append(("tokenizer", 0.0 if equal else 1.0, own, theirs))
    calls = {"bleu": ours.bleu, "rouge_l": ours.rouge_l, "cider_d": ours.cider_d, "meteor": meteor}
    for name in args.only:
        result, own = timed(lambda n=name: calls[n](captions.candidates, captions.references))
        expected, theirs = timed(lambda n=name: official.scores(*tokens, only=n))
        scores = result if isinstance(result, tuple) else (result,)
        difference = max(
            max(
                abs(score.corpus - expected[score.name][0]),
                float(np.max(np.abs(score.examples - expected[score.name][1]))),
            )
            for score in scores
        )
        for score in scores:
            print(f"{score.name:10} {score.corpus:.6f}   official {expected[score.name][0]:.6f}")
        if name == "meteor":
            off = np.mean(np.abs(scores[0].examples - expected["METEOR"][1]) > 1e-4)
            print(f"METEOR differs by more than 1e-4 on {off:.2%} of the examples")
        rows.append((name, difference, own, theirs))
    print(f"\n{args.images} candidates, {len(flat)} references; tokens equal: {equal}")
    print(f"{'':12}{'':12}{'seconds':>28}{'seconds of CPU':>28}")
    print(f"{'':12}{'difference':>12}" + f"{'vljax':>10}{'official':>10}{'ratio':>8}" * 2)
    rows.append(("all", max(r[1] for r in rows), sum(r[2] for r in rows), sum(r[3] for r in rows)))
    for name, difference, own, theirs in rows:
        times = zip(own, theirs, theirs / own, strict=True)
        cells = "".join(f"{a:10.2f}{b:10.2f}{c:8.1f}" for a, b, c in times)
        print(f"{name:12}{difference:12.1e}{cells}")


if __name__ == "__main__":
    main()
