"""`vljax data train-tokenizer`: trains a BPE tokenizer on the captions of data sets."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vljax.commands.data.arguments import SourceParser, count
from vljax.config import UserError
from vljax.data.records import Records
from vljax.data.tokenizers.cleaning import Cleaning
from vljax.data.tokenizers.train import cleaned_captions, train_bpe
from vljax.data_tools.source_arguments import parse_sources

if TYPE_CHECKING:
    from rich.console import Console

_DESCRIPTION = """\
Trains a byte-level BPE on the captions of data sets and writes a tokenizer.json. Where an example
has no caption, its tags are taken, such as the class of an image in a folder. Recipes name the
file in data.tokenizers.text.path, and checkpoints include it."""

_MEASURED = 10_000  # number of captions whose lengths are measured


def run(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    """Trains on the captions of all sources, and prints how to use the result.

    Args:
      argv: sources with their fields, and the options below.
      prog: the command, for messages.
      console: where to print the summary.

    Returns:
      `path`, `vocab_size`, `captions`, `cleaning`, and `tokens` of captions (mean, 95 %, longest).

    Raises:
      UserError: if a data set cannot be opened or has no captions, or the file cannot be written.
      SystemExit: after `--help`.
    """
    args, rest = _parser(prog).split(argv)
    sources = parse_sources(rest, prog)
    if args.out is None:
        raise UserError(f"name the file to write: {prog} ... --out tokenizer.json")
    out = Path(os.path.expanduser(args.out))
    if out.exists():
        raise UserError(f"--out {args.out}: is there already; remove it or name another file")
    opened, kept = [source.open() for source in sources], list[str]()
    total = sum(len(records) for records in opened)
    counted = _CountedCaptions(_read(opened, args), kept)
    content = train_bpe(_with_progress(counted, total), args.vocab_size, args.min_frequency)
    if not counted.captions:
        names = ", ".join(source.full_name for source in sources)
        raise UserError(f"{names}: no captions or tags to train on; check which field holds them")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(content)
    except OSError as error:
        raise UserError(f"--out {args.out}: {error.strerror}") from None
    result = {
        "path": str(args.out),
        "cleaning": args.cleaning,
        "captions": counted.captions,
        **_measured(content, kept),
    }
    _print(console, result)
    return result


def _parser(prog: str) -> SourceParser:
    usage = "SOURCE... --out PATH [--vocab-size N] [--cleaning NAME] [--FIELD VALUE ...]"
    parser = SourceParser(prog, usage, _DESCRIPTION)
    parser.add_argument("--out", metavar="PATH", help="the tokenizer.json to write")
    parser.add_argument(
        "--vocab-size",
        type=count,
        default=32_768,
        metavar="N",
        help="most ids to use (%(default)s)",
    )
    parser.add_argument(
        "--min-frequency",
        type=count,
        default=2,
        metavar="N",
        help="how often a pair must occur to become a token (%(default)s)",
    )
    parser.add_argument(
        "--cleaning",
        choices=get_args(Cleaning),
        default="lower",
        help="cleaning of captions; set data.tokenizers.text.cleaning to the same (%(default)s)",
    )
    parser.add_argument(
        "--max-examples",
        type=count,
        metavar="N",
        help="examples of each data set at most, evenly spaced; all by default",
    )
    return parser


def _read(opened: list[Records], args: argparse.Namespace) -> Iterator[list[str]]:
    for records in opened:
        yield from cleaned_captions(records, args.cleaning, args.max_examples)


class _CountedCaptions:
    """Iterates over captions, counts them, and keeps the first ones to measure their lengths."""

    def __init__(self, examples: Iterator[list[str]], kept: list[str]):
        self._examples, self._kept, self.captions = examples, kept, 0

    def __iter__(self) -> Iterator[list[str]]:
        for texts in self._examples:
            self.captions += len(texts)
            self._kept.extend(texts[: _MEASURED - len(self._kept)])
            yield texts


def _with_progress(examples: _CountedCaptions, total: int) -> Iterator[str]:
    """The captions of all examples, one by one, with a progress display."""
    from vljax.progress import shown

    with shown("captions", "read those of {:,} of {:,} examples") as progress:
        for done, texts in enumerate(examples, 1):
            yield from texts
            progress(done, total)


def _measured(content: str, texts: list[str]) -> dict[str, Any]:
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content)
    lengths = np.array([len(encoded.ids) for encoded in tokenizer.encode_batch(texts)])
    tokens = {
        "mean": float(lengths.mean()),
        "95%": int(np.quantile(lengths, 0.95, method="higher")),
        "longest": int(lengths.max()),
    }
    return {"vocab_size": tokenizer.get_vocab_size(), "tokens": tokens}


def _print(console: Console, result: dict[str, Any]) -> None:
    tokens, size = result["tokens"], result["vocab_size"]
    console.print(
        f"{result['path']}: {size:,} ids from {result['captions']:,} captions; tokens of a "
        f"caption: mean {tokens['mean']:.1f}, 95 % up to {tokens['95%']}, longest "
        f"{tokens['longest']}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        "To train with it: --data.tokenizers.text huggingface "
        f"--data.tokenizers.text.path {result['path']} "
        f"--data.tokenizers.text.cleaning {result['cleaning']} "
        f"--model.nodes.text.vocab_size {size}",
        highlight=False,
        soft_wrap=True,
    )
