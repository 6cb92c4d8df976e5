"""Train the tokenizer of scenes: `python -m vljax.datasets.scenes.vocabulary --out DIR`.

It is a byte-level BPE over the questions and captions of scenes of the built-in training split, so
that most of their words are one token. The built-in tokenizer has never seen "how many" or "is
there", and spells them out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from vljax.data.tokenizers.train import train_bpe
from vljax.datasets.builtin.source import Builtin
from vljax.datasets.scenes.source import Scenes

HERE = Path(__file__).parent
FILE = HERE / "tokenizer.json"


def texts(scenes: int) -> Iterator[str]:
    """Questions and captions of scenes, lower-cased as the recipes clean them.

    Questions about pairs of objects are more frequent where there are few objects.
    """
    for most in (3, 5):
        records = Scenes(Builtin("train"), max_objects=most).open()
        for index in range(scenes):
            about = records.annotation(index)
            for text in (*about.captions, *(question.text for question in about.questions)):
                yield text.lower()


def train(scenes: int = 2500, vocab_size: int = 2048) -> str:
    """The content of a `tokenizer.json` with `<pad>` as 0 and `</s>` as 1."""
    return train_bpe(texts(scenes), vocab_size)


def main() -> None:
    """Write `tokenizer.json`."""
    parser = argparse.ArgumentParser(description="Trains the tokenizer of scenes.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write tokenizer.json to")
    args = parser.parse_args()
    (args.out / FILE.name).write_text(train())


if __name__ == "__main__":
    main()
