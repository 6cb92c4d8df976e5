"""A data set to evaluate on: its batches, captions, labels and thumbnails."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from vljax.config import UserError, suggest
from vljax.data.pipeline.batches import Batches, Loader, OpenPart, make_batches
from vljax.data.pipeline.pipeline import Data
from vljax.data.records import Annotation, ExampleError, Records, Source
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data.transforms.decode import Decode
from vljax.data.transforms.other_image import check_images
from vljax.data.transforms.resize import Resize
from vljax.data.vocabulary import Vocabulary

_GREY = 128


class EvaluationSet:
    """The examples of one source in order, each once.

    Files are opened when they are first needed, or by `open`.

    >>> from vljax.recipes import Builtin, ChooseText, Clip, Decode, Resize, Tokenize
    >>> transforms = (Decode(), Resize(16), ChooseText(), Tokenize())
    >>> data = Data(Builtin("train"), {"text": Clip()}, transforms, transforms)
    >>> examples = EvaluationSet(data, Builtin("test"))
    >>> len(examples), examples.captions[0], examples.class_names[int(examples.labels[0])]
    (424, ('2 dead frogs',), 'animals')
    >>> batches = examples.batches(batch_size=500)
    >>> int(next(batches)["valid"].sum())  # the rest of the batch is padding
    424
    >>> batches.close()

    Args:
      data: the transforms for evaluation and the tokenizers.
      source: the examples; need not be the source of `data`.
      tokenizers: loaded tokenizers by name, in place of those of `data`.
      class_names: names in place of those of the source, in the order of its classes or by them.
    """

    def __init__(
        self,
        data: Data,
        source: Source,
        *,
        tokenizers: Mapping[str, LoadedTokenizer] | None = None,
        class_names: Sequence[str] | Mapping[str, str] | None = None,
    ):
        self.data = data
        self.source = source
        self._tokenizers = tokenizers
        self._class_names = class_names
        self._others: list[EvaluationSet] = []

    def __len__(self) -> int:
        return len(self.records)

    def open(self) -> None:
        """Open the source and the tokenizers, so that bad files are reported now.

        Raises:
          UserError: if one of them cannot be opened.
        """
        _ = self.records, self.tokenizers

    @functools.cached_property
    def records(self) -> Records:
        """The opened source. Raises UserError if it cannot be opened."""
        records = self.source.open()
        check_images(records, self.data.eval_transforms, self.source.full_name)
        return records

    @functools.cached_property
    def tokenizers(self) -> dict[str, LoadedTokenizer]:
        """The tokenizers by name. Raises UserError if one cannot be loaded."""
        return self.data.load_tokenizers() if self._tokenizers is None else dict(self._tokenizers)

    def tokenizer(
        self, texts: list[str]
    ) -> tuple[Int32[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """Token ids and the token mask of prompts and queries, by the tokenizer of `text`.

        Raises:
          UserError: if no transform makes `text`, or the tokenizer cannot be loaded.
        """
        name = self.data.tokenizer_name()
        if name is None:
            raise UserError("data.eval_transforms: none of them makes text; add tokenize")
        return self.tokenizers[name](texts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes that labels index; empty if the source has no classes."""
        own, given = self.records.class_names, self._class_names
        if isinstance(given, Mapping):
            return tuple(given[name] for name in own)
        return own if given is None else tuple(given)

    def vocabulary(self, array: str) -> Vocabulary:
        """The texts that the indices of a batch entry stand for, such as answers.

        Raises:
          UserError: if no transform makes the entry from a vocabulary.
        """
        known = self.data.vocabularies()
        if array not in known:
            raise UserError(
                f"data.eval_transforms: none makes {array!r} by a vocabulary{suggest(array, known)}"
            )
        return known[array]

    @functools.cached_property
    def captions(self) -> list[tuple[str, ...]]:
        """All captions of each example, in order, without those that are blank after cleaning."""
        name = self.data.tokenizer_name()
        clean = str if name is None else self.tokenizers[name].clean
        return [
            tuple(text for text in annotation.captions if text.strip() and clean(text))
            for annotation in self.annotations
        ]

    @functools.cached_property
    def labels(self) -> Int32[np.ndarray, " examples"]:
        """The class index of each example; -1 if it has no class."""
        labels = [annotation.label for annotation in self.annotations]
        return np.array([-1 if label is None else label for label in labels], np.int32)

    @functools.cached_property
    def annotations(self) -> list[Annotation]:
        """Captions, questions, regions and all else but the image of each example, in order.

        Empty for an example that cannot be read.
        """
        return [self._annotation(i) for i in range(len(self))]

    @functools.cached_property
    def images(self) -> Int64[np.ndarray, " examples"]:
        """A number for the image of each example; examples about the same image have the same."""
        return self.records.image_numbers()

    def _annotation(self, index: int) -> Annotation:
        try:
            return self.records.annotation(index)
        except ExampleError:
            return Annotation(())

    def batches(
        self, batch_size: int, process_index: int = 0, process_count: int = 1, first: int = 0
    ) -> Batches:
        """Each example once, in order, through the transforms for evaluation.

        Args:
          batch_size: examples in a batch over all processes.
          process_index: number of the group of rows to make.
          process_count: number of equal groups that the rows of a batch are divided into.
          first: number of batches to leave out at the start.

        Returns:
          An iterator of batches with the arrays of the transforms for evaluation. If a transform
          fails that makes neither images nor features of regions, such as `choose_text` without a
          caption, its arrays are blank and the example is valid. The last batch is padded with
          examples whose `valid` is False and whose `example_id` is all ones. All processes get the
          same number of batches.

        Raises:
          UserError: if the source or a tokenizer cannot be opened, or the batch cannot be divided
            among the processes.
        """
        import grain

        padded = -(-len(self) // batch_size) * batch_size
        return make_batches(
            self._loader,
            grain.MapDataset.source(range(padded)).map(self._loader.evaluation_example),
            batch_size=batch_size,
            first=first,
            process_index=process_index,
            process_count=process_count,
            workers=self.data.workers,
            prefetch=self.data.prefetch,
        )

    def thumbnail(self, index: int, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
        """An example's whole image for plots, padded to a square; grey if it cannot be read."""
        decoders = [t for t in self.data.eval_transforms if isinstance(t, Decode)]
        decode = decoders[0] if decoders else Decode()
        rng = np.random.default_rng(0)
        try:
            example = decode({"record": self.records[index]}, rng)
            resize = Resize(size, mode="pad", background=decode.background)
            thumbnail: np.ndarray = resize(example, rng)["image"]
        except ExampleError:
            return np.full((size, size, 3), _GREY, np.uint8)
        return thumbnail

    def other(self, source: Source) -> EvaluationSet:
        """The examples of another source, through the same transforms and tokenizers.

        Its classes have their own names. The same source gives the same set.
        """
        for known in self._others:
            if known.source == source:
                return known
        made = EvaluationSet(self.data, source, tokenizers=self._tokenizers)
        self._others.append(made)
        return made

    @functools.cached_property
    def _loader(self) -> Loader:
        return Loader(
            parts=(OpenPart(self.source.full_name, self.records, self.data.eval_transforms),),
            tokenizers=self.tokenizers,
            seed=0,
            evaluation=True,
        )
