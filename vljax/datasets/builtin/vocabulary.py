"""Train the built-in tokenizer: `python -m vljax.datasets.builtin.vocabulary --out DIR`.

It is a byte-level BPE over the captions, tags and class names of the training split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from vljax.data.tokenizers.train import train_bpe

HERE = Path(__file__).parent
FILE = HERE / "tokenizer.json"


def texts(items: Path) -> Iterator[str]:
    """Captions, classes and tags of the training split, lower-cased as the recipes clean them."""
    for line in items.read_text().splitlines():
        item = json.loads(line)
        if item["split"] == "train":
            yield from (text.lower() for text in (item["caption"], item["class"], *item["tags"]))


def train(items: Path, vocab_size: int) -> str:
    """The content of a `tokenizer.json` with `<pad>` as 0 and `</s>` as 1."""
    return train_bpe(texts(items), vocab_size)


def main() -> None:
    """Write `tokenizer.json`."""
    parser = argparse.ArgumentParser(description="Trains the built-in tokenizer.")
    parser.add_argument("--items", type=Path, default=HERE / "items.jsonl", help="items.jsonl")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write tokenizer.json to")
    parser.add_argument("--vocab-size", type=int, default=2048, help="ids, special ones included")
    args = parser.parse_args()
    (args.out / FILE.name).write_text(train(args.items, args.vocab_size))


if __name__ == "__main__":
    main()
