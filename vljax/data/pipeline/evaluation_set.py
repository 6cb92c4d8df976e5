"""A data set to evaluate on: its batches, captions, labels and thumbnails."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Int32, UInt8

from vljax.data.pipeline.batches import Batches, Loader, OpenPart, make_batches
from vljax.data.pipeline.pipeline import Data
from vljax.data.records import Annotation, ExampleError, Records, Source
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data.transforms.decode import Decode
from vljax.data.transforms.resize import Resize

_GREY = 128


class EvaluationSet:
    """The examples of one source in order, each once.

    Files are opened when they are first needed, or by `open`.

    >>> from vljax.recipes import Builtin, ChooseText, Clip, Decode, Resize
    >>> transforms = (Decode(), Resize(16), ChooseText())
    >>> data = Data(Builtin("train"), Clip(), transforms, transforms)
    >>> examples = EvaluationSet(data, Builtin("test"))
    >>> len(examples), examples.captions[0], examples.class_names[int(examples.labels[0])]
    (424, ('2 dead frogs',), 'animals')
    >>> batches = examples.batches(batch_size=500)
    >>> int(next(batches)["valid"].sum())  # the rest of the batch is padding
    424
    >>> batches.close()

    Args:
      data: the transforms for evaluation and the tokenizer.
      source: the examples; need not be the source of `data`.
    """

    def __init__(self, data: Data, source: Source):
        self.data = data
        self.source = source

    def __len__(self) -> int:
        return len(self.records)

    def open(self) -> None:
        """Open the source and the tokenizer, so that bad files are reported now.

        Raises:
          UserError: if one of them cannot be opened.
        """
        _ = self.records, self.tokenizer

    @functools.cached_property
    def records(self) -> Records:
        """The opened source. Raises UserError if it cannot be opened."""
        return self.source.open()

    @functools.cached_property
    def tokenizer(self) -> LoadedTokenizer:
        """The tokenizer, for prompts and queries. Raises UserError if it cannot be loaded."""
        return self.data.tokenizer.load()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes that labels index; empty if the source has no classes."""
        return self.records.class_names

    @functools.cached_property
    def captions(self) -> list[tuple[str, ...]]:
        """All captions of each example, in order, without those that are blank after cleaning."""
        clean = self.tokenizer.clean
        annotated = (self._annotation(i).captions for i in range(len(self)))
        return [
            tuple(text for text in captions if text.strip() and clean(text))
            for captions in annotated
        ]

    @functools.cached_property
    def labels(self) -> Int32[np.ndarray, " examples"]:
        """The class index of each example; -1 if it has no class."""
        labels = [self._annotation(i).label for i in range(len(self))]
        return np.array([-1 if label is None else label for label in labels], np.int32)

    def _annotation(self, index: int) -> Annotation:
        """The captions and class of an example; empty if it cannot be read."""
        try:
            return self.records.annotation(index)
        except ExampleError:
            return Annotation(())

    def batches(self, batch_size: int, process_index: int = 0, process_count: int = 1) -> Batches:
        """Each example once, in order, through the transforms for evaluation.

        Args:
          batch_size: examples in a batch over all processes.
          process_index: number of the group of rows to make.
          process_count: number of equal groups that the rows of a batch are divided into.

        Returns:
          An iterator of batches like those of training, with `label`, int32[batch], -1 for an
          example without a class. An image without a caption is valid. The last batch is padded
          with examples whose `valid` is False and whose `example_id` is all ones. All processes get
          the same number of batches.

        Raises:
          UserError: if the source or tokenizer cannot be opened, or the batch cannot be divided
            among the processes.
        """
        import grain

        padded = -(-len(self) // batch_size) * batch_size
        return make_batches(
            self._loader,
            grain.MapDataset.source(range(padded)).map(self._loader.evaluation_example),
            batch_size=batch_size,
            first=0,
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

    @functools.cached_property
    def _loader(self) -> Loader:
        return Loader(
            parts=(OpenPart(self.source.full_name, self.records, self.data.eval_transforms),),
            tokenizer=self.tokenizer,
            seed=0,
            evaluation=True,
        )
