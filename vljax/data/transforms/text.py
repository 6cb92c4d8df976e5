"""The text that goes with an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vljax.config import UserError, suggest
from vljax.data.records import ExampleError
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data.transforms.base import Arrays, Context, Example, Transform, check_probability


@dataclass(frozen=True)
class ChooseText(Transform, name="choose_text"):
    """Choose the `text` of an example from its captions and tags; blank ones are never chosen.

    >>> from vljax.data.records import Record
    >>> record = Record(captions=("a cat", "a sleeping cat"), image=b"", tags=("pet", "grey"))
    >>> ChooseText("longest")({"record": record}, np.random.default_rng(0))["text"]
    'a sleeping cat'
    >>> ChooseText(tags=1.0)({"record": record}, np.random.default_rng(1))["text"]
    'pet, grey'
    """

    choice: Literal["first", "random", "longest", "all"] = "first"
    """The "first" caption (for evaluation), a "random" one, the "longest" in characters (the first
    of equals), or "all" of them in order, as one text."""
    tags: float = 0.0
    """Probability that random tags replace the caption; above 0, they also do so whenever there is
    no caption."""
    caption_and_tags: float = 0.0
    """Probability that random tags follow the caption."""
    separator: str = ", "
    """Text between tags, and between captions."""

    def reads(self) -> tuple[str, ...]:
        return ("record",)

    def makes(self) -> tuple[str, ...]:
        return ("text",)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_probability("tags", self.tags)
        yield from check_probability("caption_and_tags", self.caption_and_tags)
        if self.tags + self.caption_and_tags > 1:
            yield "caption_and_tags", "must not exceed 1 together with tags"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        record = example["record"]
        captions = [caption for caption in record.captions if caption.strip()]
        tags = [tag for tag in record.tags if tag.strip()]
        if not captions:
            if not tags or self.tags == 0:
                raise ExampleError("no caption", kind="no_caption")
            return {**example, "text": self._some(tags, rng)}
        text = self._caption(captions, rng)
        draw = rng.random()
        if tags and draw < self.tags:
            text = self._some(tags, rng)
        elif tags and draw < self.tags + self.caption_and_tags:
            text += self.separator + self._some(tags, rng)
        return {**example, "text": text}

    def _caption(self, captions: list[str], rng: np.random.Generator) -> str:
        match self.choice:
            case "first":
                return captions[0]
            case "random":
                return captions[int(rng.integers(len(captions)))]
            case "longest":
                return max(captions, key=len)
            case "all":
                return self.separator.join(captions)

    def _some(self, tags: list[str], rng: np.random.Generator) -> str:
        count = int(rng.integers(1, len(tags) + 1))
        return self.separator.join(tags[i] for i in rng.permutation(len(tags))[:count])


@dataclass(frozen=True)
class Prompt(Transform, name="prompt"):
    """Put the text into a template, for class names and tags that are not sentences.

    >>> Prompt(("a photo of {}",))({"text": "a cat"}, np.random.default_rng(0))["text"]
    'a photo of a cat'
    """

    templates: tuple[str, ...] = ("a photo of {}",)
    """Sentences with `{}` where the text goes; one is drawn for each example. For evaluation, give
    one."""
    probability: float = 1.0
    """Probability of using a template; otherwise the text stays as it is."""

    def reads(self) -> tuple[str, ...]:
        return ("text",)

    def makes(self) -> tuple[str, ...]:
        return ("text",)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_probability("probability", self.probability)
        if not self.templates:
            yield "templates", "must hold at least one sentence with '{}'"
        for i, template in enumerate(self.templates):
            if template.count("{}") != 1:
                yield (
                    f"templates.{i}",
                    f"must hold '{{}}' once, where the text goes, got {template!r}",
                )

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        template = self.templates[int(rng.integers(len(self.templates)))]
        return {**example, "text": template.replace("{}", example["text"])}


@dataclass(frozen=True)
class Tokenize(Transform, name="tokenize"):
    """Turn a text into token ids and their mask.

    It makes `FIELD`, int32[length], and `FIELD_mask`, bool[length], which is False for padding. An
    entry that is a tuple of K texts gives int32[K, length] and bool[K, length]. In training, an
    example whose text is empty after cleaning is rejected.

    >>> from vljax.data.tokenizers import Clip
    >>> tokenizers = {"text": Clip(context_length=6).load()}
    >>> example = {"text": "a cat", "tokenizers": tokenizers}
    >>> tokenized = Tokenize()(example, np.random.default_rng(0))
    >>> tokenized["text"].tolist(), int(tokenized["text_mask"].sum())
    ([49406, 320, 2368, 49407, 0, 0], 4)
    """

    field: str = "text"
    """Entry with the text or texts."""
    tokenizer: str = "text"
    """Name of the tokenizer in `data.tokenizers`."""
    array: str | None = None
    """Name of the array; None means that of the field, which it then replaces."""

    def reads(self) -> tuple[str, ...]:
        return (self.field,)

    def makes(self) -> tuple[str, ...]:
        name = self.array or self.field
        return name, f"{name}_mask"

    def arrays(self, context: Context) -> Arrays:
        if self.tokenizer not in context.tokenizers:
            near = suggest(self.tokenizer, context.tokenizers)
            raise UserError(f"tokenize: no tokenizer {self.tokenizer!r} in data.tokenizers{near}")
        length = context.tokenizers[self.tokenizer].context_length
        count = context.counts.get(self.field)
        shape = (length,) if count is None else (count, length)
        ids, mask = self.makes()
        return {ids: (shape, np.dtype(np.int32)), mask: (shape, np.dtype(bool))}

    def blank(
        self, arrays: Arrays, tokenizers: Mapping[str, LoadedTokenizer]
    ) -> dict[str, np.ndarray]:
        # Begin and end tokens are left: attention over no token at all would divide by zero.
        ids, mask = tokenizers[self.tokenizer]([""])
        values = dict(zip(self.makes(), (ids[0], mask[0]), strict=True))
        return {
            name: np.broadcast_to(values[name], shape).copy() for name, (shape, _) in arrays.items()
        }

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        tokenizer: LoadedTokenizer = example["tokenizers"][self.tokenizer]
        value = example[self.field]
        if isinstance(value, str):
            ids, mask = (array[0] for array in tokenizer([value]))
            if "step" in example and not tokenizer.clean(value):
                raise ExampleError(f"text {value!r} is empty after cleaning", kind="no_caption")
        else:
            ids, mask = tokenizer(value)
        return {**example, **dict(zip(self.makes(), (ids, mask), strict=True))}
