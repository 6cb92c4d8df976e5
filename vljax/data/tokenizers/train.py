"""Train a byte-pair encoding on the captions of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vljax.config import UserError
from vljax.data.records import Annotation, ExampleError, Records
from vljax.data.tokenizers.cleaning import Cleaning, clean

SPECIAL_TOKENS = ("<pad>", "</s>")
"""The tokens of ids 0 and 1: the defaults of `HuggingFace` for padding and end."""

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
"""Number of ids for the special tokens and all bytes, which can encode every text."""


def train_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int = 2) -> str:
    """Train a byte-level BPE; the order of the texts does not matter.

    >>> import json
    >>> vocabulary = json.loads(train_bpe(["a cat", "a cat and a dog"], vocab_size=260))
    >>> len(vocabulary["model"]["vocab"]), vocabulary["model"]["merges"]
    (260, [['Ġ', 'a'], ['a', 't']])

    Args:
      texts: texts, cleaned as the tokenizer will clean them.
      vocab_size: most ids; there are fewer if no pair of tokens is frequent enough.
      min_frequency: how often a pair must occur to become a token.

    Returns:
      The content of a `tokenizer.json` with `<pad>` as 0 and `</s>` as 1.

    Raises:
      UserError: if the vocabulary has no room for all bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            f"vocab_size: must be at least {SMALLEST_VOCABULARY} (256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens), got {vocab_size}"
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


def cleaned_captions(
    records: Records, cleaning: Cleaning, most: int | None = None
) -> Iterator[list[str]]:
    """The cleaned captions of each example; without one, its tags as one text. No image is read.

    Tags, such as the class of an image in a folder, are what training takes in place of a caption.

    Args:
      records: the opened data set.
      cleaning: see `vljax.data.tokenizers.cleaning.clean`.
      most: most examples, evenly spaced over the data set; None for all.
    """
    count = len(records) if most is None else min(most, len(records))
    for number in range(count):
        try:
            annotation = records.annotation(number * len(records) // count)
        except ExampleError:  # a rejected example
            annotation = Annotation(())
        captions = annotation.captions
        if not any(caption.strip() for caption in captions):
            captions = (", ".join(annotation.tags),)
        yield [text for text in (clean(caption, cleaning) for caption in captions) if text]
