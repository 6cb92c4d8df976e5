"""Strings per second of vljax's tokenizers and of open_clip's, in the same run.

    pip install 'vljax[bench]'
    python benchmarks/tokenizer_speed.py [--strings N] [--json PATH]

Cleaning is included on both sides. The texts are the captions of the built-in data set, and the
10,000 strings of tests/parity/strings.py, whose words are not in any cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.parity.strings import strings  # noqa: E402
from vljax.data.tokenizers import Clip, HuggingFace  # noqa: E402
from vljax.datasets.builtin.vocabulary import FILE, HERE  # noqa: E402

Encode = Callable[[list[str]], Any]


def captions() -> list[str]:
    """The captions of the built-in data set."""
    return [json.loads(line)["caption"] for line in (HERE / "items.jsonl").open()]


def contestants() -> dict[str, Encode]:
    """Name -> function from texts to ids of length 77; the first is the reference."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from open_clip.tokenizer import SimpleTokenizer

    return {
        "open_clip SimpleTokenizer": SimpleTokenizer(),
        "vljax clip": Clip().load(),
        "vljax huggingface (built-in BPE)": HuggingFace(
            str(FILE), context_length=77, cleaning="lower"
        ).load(),
    }


def speed(encode: Encode, texts: list[str], repeats: int) -> float:
    """Strings per second: the median of several passes after a first one."""
    encode(texts)
    rates = []
    for _ in range(repeats):
        begin = time.perf_counter()
        encode(texts)
        rates.append(len(texts) / (time.perf_counter() - begin))
    return statistics.median(rates)


def main() -> None:
    """Prints a row for each tokenizer and kind of text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--strings", type=int, default=2000, help="number of strings of each kind")
    parser.add_argument("--repeats", type=int, default=3, help="passes")
    parser.add_argument("--json", metavar="PATH", help="write the numbers as JSON too")
    args = parser.parse_args()
    hard = strings()
    step = max(1, len(hard) // args.strings)
    kinds = {"captions": captions()[: args.strings], "strings of all scripts": hard[::step]}
    result: dict[str, dict[str, float]] = {}
    for kind, texts in kinds.items():
        print(f"{kind}: {len(texts)} texts of {statistics.mean(map(len, texts)):.0f} characters")
        rates = {n: speed(e, texts, args.repeats) for n, e in contestants().items()}
        peer = next(iter(rates.values()))
        for name, rate in rates.items():
            print(f"  {name:40} {rate:10,.0f} strings/s {rate / peer:8.2f} times")
        result[kind] = rates
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
