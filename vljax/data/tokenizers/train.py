"""Training a byte-pair encoding on a data set's own captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vljax.config import UserError
from vljax.data.records import Records
from vljax.data.tokenizers.cleaning import Cleaning, clean

SPECIAL_TOKENS = ("<pad>", "</s>")
"""The first ids: what `HuggingFace` pads and ends texts with by default."""

SMALLEST = 256 + len(SPECIAL_TOKENS)
"""Ids that any vocabulary has: the bytes, so that no text is unknown, and the special tokens."""


def train_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int = 2) -> str:
    """A byte-level BPE, the same for the same texts in any order.

    Args:
      texts: cleaned as the tokenizer will clean.
      vocab_size: ids at most; fewer come out where no pair of tokens is frequent enough.
      min_frequency: how often a pair must occur to become a token.

    Returns:
      The content of a `tokenizer.json` with `<pad>` as 0 and `</s>` as 1.

    Raises:
      UserError: if the vocabulary has no room for all bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST:
        raise UserError(
            f"vocab_size: must be at least {SMALLEST} (256 bytes and {len(SPECIAL_TOKENS)} special "
            f"tokens), got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    content: str = tokenizer.to_str(pretty=True)
    return content + "\n"


def captions(records: Records, cleaning: Cleaning, most: int | None = None) -> Iterator[list[str]]:
    """The cleaned captions of each example, without reading an image.

    Args:
      records: the opened data set.
      cleaning: see `vljax.data.tokenizers.cleaning`.
      most: examples at most, evenly spaced over the data set; None for all.
    """
    count = len(records) if most is None else min(most, len(records))
    for number in range(count):
        written = records.annotation(number * len(records) // count).captions
        yield [text for text in (clean(caption, cleaning) for caption in written) if text]
