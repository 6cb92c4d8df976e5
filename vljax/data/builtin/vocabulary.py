"""Trains the built-in tokenizer: `python -m vljax.data.builtin.vocabulary --out DIR`.

A byte-level BPE over the captions, tags and class names of the training split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
FILE = HERE / "tokenizer.json"


def texts(items: Path) -> Iterator[str]:
    """What is written about the training examples, lower-cased as recipes clean it."""
    for line in items.read_text().splitlines():
        item = json.loads(line)
        if item["split"] == "train":
            yield from (text.lower() for text in (item["caption"], item["class"], *item["tags"]))


def train(items: Path, vocab_size: int) -> str:
    """The content of a `tokenizer.json` with `<pad>` as 0 and `</s>` as 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(items), trainer)
    content: str = tokenizer.to_str(pretty=True)
    return content + "\n"


def main() -> None:
    """Writes `tokenizer.json`."""
    parser = argparse.ArgumentParser(description="Trains the built-in tokenizer.")
    parser.add_argument("--items", type=Path, default=HERE / "items.jsonl", help="items.jsonl")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write tokenizer.json to")
    parser.add_argument("--vocab-size", type=int, default=2048, help="ids, special ones included")
    args = parser.parse_args()
    (args.out / FILE.name).write_text(train(args.items, args.vocab_size))


if __name__ == "__main__":
    main()
