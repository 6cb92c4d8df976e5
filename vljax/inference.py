"""The Python API: embeddings, similarities, classes, search and metrics of a trained model.

`vljax.load` opens checkpoints and exported folders of vljax, and everything that `vljax import`
reads. Neither a recipe file nor any path in it is needed: a checkpoint contains the recipe,
tokenizer and preprocessing.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float

from vljax import config
from vljax.config import UserError, suggest
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.preprocessing import ImagePreprocessor, preprocessing
from vljax.data.records import ExampleError, Progress, Source, error_for_field
from vljax.data.sources import Expand
from vljax.data.tokenizers import LoadedTokenizer, load_tokenizer
from vljax.data.transforms.base import Transform
from vljax.data.vocabulary import VocabularyFile
from vljax.data.worker_pool import usable_cores
from vljax.data_tools.source_arguments import parse_sources
from vljax.evaluation import suites
from vljax.evaluation.evaluator import Evaluator
from vljax.evaluation.predictor import (
    Batch,
    CountingPredictor,
    Forward,
    ModelPredictor,
)
from vljax.evaluation.probes import FewShot, LinearProbe, NearestNeighbours, Probe
from vljax.evaluation.questions import Questions
from vljax.evaluation.retrieval import Retrieval
from vljax.evaluation.zero_shot import ZeroShot, class_embeddings, template_problems
from vljax.files import is_remote, read_user_file
from vljax.host_process import enable_compilation_cache
from vljax.interop import exported, plain
from vljax.interop.formats import recognised_format
from vljax.interop.mapped_model import read_model
from vljax.interop.programs.standalone.inputs import (
    ROWS,
    batches,
    images_of,
    is_lone_image,
    padded,
    texts_of,
)
from vljax.models.assembly import Model, Variables, example_batch
from vljax.models.low_rank import LowRank, merged
from vljax.models.node import makers
from vljax.models.numerics import Precision, Similarity, unit
from vljax.models.parameters import merge
from vljax.objectives.contrastive import Contrastive, SigmoidContrastive
from vljax.overrides import override
from vljax.parallel.mesh import MeshConfig, find_devices, make_mesh
from vljax.parallel.rules import replicated
from vljax.run import Run, build_model, check_evaluation_data
from vljax.training import checkpoint
from vljax.training.checkpoint import manifest
from vljax.training.state import Task, ema_parameters
from vljax.workdir import FORMAT_VERSION, decode_recipe, tokenizer_folder, vocabulary_file

T = TypeVar("T")
U = TypeVar("U")

TEMPLATES = ZeroShot.templates
"""The prompts that `Loaded.classify` uses by default: those of the zero-shot evaluator."""

PROBES: dict[str, type[Probe]] = {
    "linear_probe": LinearProbe,
    "knn": NearestNeighbours,
    "few_shot": FewShot,
}
"""The tasks of `Loaded.evaluate` that need training examples."""

EVALUATORS: dict[str, type[Evaluator]] = {
    "retrieval": Retrieval,
    "zero_shot": ZeroShot,
    "questions": Questions,
    **PROBES,
}
TASKS = tuple(EVALUATORS)
"""The tasks of `Loaded.evaluate` on any data."""

_MOST_THREADS = 16
_SIMILARITIES = 1 << 24  # that a search holds at a time, at least those of one query


class Hit(NamedTuple):
    """An image that a search found."""

    position: int
    """Its position among the images, from 0."""
    name: str
    """Its path, or `images[POSITION]` if it was not given as a path."""
    score: float
    """Its similarity to the query; larger is nearer."""


@dataclass(frozen=True)
class Index:
    """The embeddings of images to search in, see `Loaded.index`.

    >>> Index(("cat.png", "dog.png"), np.eye(2, dtype=np.float32)).embeddings.shape
    (2, 2)
    """

    names: tuple[str, ...]
    """The path of each image, or `images[POSITION]`."""
    embeddings: Float[np.ndarray, "images dim"]

    def __post_init__(self) -> None:
        """Raises UserError unless each row has a name."""
        if len(self.names) != len(self.embeddings):
            raise UserError(
                f"index: {len(self.names):,} names for {len(self.embeddings):,} rows of embeddings;"
                " give one for each"
            )


@dataclass(frozen=True)
class Classified:
    """The probabilities of class names for images, see `Loaded.classify`.

    >>> made = Classified(("cat", "dog"), np.array([[0.25, 0.75]]), "softmax")
    >>> made.top(1)
    [[('dog', 0.75)]]
    """

    names: tuple[str, ...]
    """The class names."""
    probabilities: Float[np.ndarray, "images classes"]
    kind: Literal["softmax", "sigmoid"]
    """softmax (CLIP): the probabilities of an image sum to 1 over the names. sigmoid (SigLIP): each
    name has a probability of its own, whatever the others are."""

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """For each image, the most probable names with their probabilities, best first."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(self.names[i], float(of_image[i])) for i in best]
            for best, of_image in zip(order, self.probabilities, strict=True)
        ]


class EvaluationTask(NamedTuple):
    """Something to measure a model by, see `Loaded.tasks`."""

    name: str
    """What the names of its metrics begin with."""
    evaluator: Evaluator
    data: EvaluationSet
    dataset: str = ""
    """The name of the data set in results; by default that of the source with its split."""


@dataclass(frozen=True)
class Loaded:
    """A trained model with its tokenizer and preprocessing, see `load`.

    Wherever a method takes images, it takes paths (local or remote), contents of image files
    (bytes), PIL images or arrays uint8[height, width, 3], in any iterable, or one of them. Methods
    that compare embeddings also take embeddings: float arrays [images, dim] or [texts, dim], or
    lists of vectors; for images also an `Index`.

    `progress=True` shows a bar on a terminal, or a log line every 10 s elsewhere. A function
    `progress(done, total)` is called after each batch; where an iterable has no length, `total` is
    `done`.
    """

    run: Run
    """The recipe of the training run; its paths may not exist here."""
    step: int
    """The number of training steps; 0 for a model of other software."""
    model: Model
    variables: Variables
    predictor: ModelPredictor
    """The model with its variables on all devices, for any of its outputs."""
    tokenizers: dict[str, LoadedTokenizer]
    """The tokenizers by name."""
    images: ImagePreprocessor
    """The image preprocessing, of the content of one file."""
    vocabularies: dict[str, tuple[str, ...]]
    """By the batch entry whose indices they are for, such as the answers to questions."""

    # --- Embeddings ---

    def encode_image(
        self, images: Any, *, progress: bool | Progress = False
    ) -> Float[np.ndarray, "images dim"]:
        """The embeddings of images.

        Threads read and decode the next images while the devices compute. At most 768 are in memory
        at a time, in batches of few sizes, so that different numbers of images do not compile
        again.

        Args:
          images: paths, contents of image files, PIL images or arrays, see `Loaded`. No images give
            0 rows.
          progress: see `Loaded`.

        Raises:
          ExampleError: if an image cannot be decoded.
          TypeError: for anything that is not an image.
          UserError: if a file cannot be read, or the model has no image embedding.
          ValueError: for an array of another shape or type.
        """
        return self._encode_images(images, progress, lambda name: None)

    def encode_text(
        self, texts: Any, *, progress: bool | Progress = False
    ) -> Float[np.ndarray, "texts dim"]:
        """The embeddings of texts, cleaned and tokenized as in training.

        Args:
          texts: any iterable of strings, or one string, which is one text. No texts give 0 rows.
          progress: see `Loaded`.

        Raises:
          TypeError: for anything that is not a string.
          UserError: if the model has no text embedding.
        """

        def tokenize(texts: Sequence[str]) -> Batch:
            ids, mask = self.tokenizer(texts)
            return {"text": ids, "text_mask": mask}

        self._require_embedding("text")
        total = 1 if isinstance(texts, str) else _length(texts)
        with _shown(progress, "encode_text", "texts") as report:
            return self._encode("text", texts_of(texts), tokenize, total, report)

    def preprocess(self, images: Any) -> dict[str, np.ndarray]:
        """The arrays that the image tower reads, such as `image`, uint8[images, size, size, 3].

        Normalization is part of the model. All images are held at once.

        Args:
          images: paths, contents of image files, PIL images or arrays, see `Loaded`.

        Raises:
          ExampleError, TypeError, UserError, ValueError: as `encode_image` does; UserError also if
            there are no images.
        """
        self._require("image")
        with _in_threads(self._read, images_of(images, _later)) as made:
            arrays = list(made)
        if not arrays:
            raise UserError("images: pass at least one image")
        return _stacked(arrays)

    @property
    def tokenizer(self) -> LoadedTokenizer:
        """The tokenizer of the array `text`: called with texts, it gives ids and mask.

        Raises UserError for a model without texts.
        """
        name = self.run.data.tokenizer_name() or "text"
        if name not in self.tokenizers:
            raise UserError("the model has no tokenizer of texts: it was trained on none")
        return self.tokenizers[name]

    # --- Comparisons ---

    @property
    def comparison(self) -> Similarity:
        """How embeddings are compared: that of the training objective, else cosine.

        Cosine for CLIP, SigLIP and all models of other software.
        """
        objective = self._objective
        return "cosine" if objective is None else objective.similarity

    @property
    def logit_scale(self) -> float:
        """The factor from similarities to logits, 1 / temperature.

        Raises UserError for a model that was not trained with a contrastive objective.
        """
        if "logit_scale" not in self.variables.params:
            raise UserError(
                "the model has no logit scale: no contrastive objective trained it; use similarity"
            )
        return float(np.exp(np.float64(self.variables.params["logit_scale"])))

    @property
    def logit_bias(self) -> float:
        """What is added to scaled similarities: SigLIP's bias, 0 for a model without one."""
        return float(self.variables.params.get("logit_bias", 0.0))

    def similarity(
        self, images: Any, texts: Any, *, progress: bool | Progress = False
    ) -> Float[np.ndarray, "images texts"]:
        """The similarity of each image and text: their cosine, unless `comparison` says otherwise.

        Args:
          images: images or their embeddings, see `Loaded`.
          texts: texts or their embeddings.
          progress: see `Loaded`; of the images.

        Raises:
          ExampleError, TypeError, UserError, ValueError: as `encode_image` and `encode_text` do;
            UserError also for embeddings of another width.
        """
        text_embeddings = self._text_embeddings(texts)
        return self._compared(self._image_embeddings(images, progress), text_embeddings)

    def logits(
        self, images: Any, texts: Any, *, progress: bool | Progress = False
    ) -> Float[np.ndarray, "images texts"]:
        """The logits of the training objective: `logit_scale * similarity + logit_bias`.

        Args:
          images: images or their embeddings, see `Loaded`.
          texts: texts or their embeddings.
          progress: see `Loaded`; of the images.

        Raises:
          ExampleError, TypeError, UserError, ValueError: as `similarity` does; UserError also for a
            model without a logit scale.
        """
        # Python floats keep the type of the similarities.
        scale, bias = self.logit_scale, self.logit_bias
        return scale * self.similarity(images, texts, progress=progress) + bias

    def classify(
        self,
        images: Any,
        names: Iterable[str] | str,
        *,
        templates: Sequence[str] = TEMPLATES,
        progress: bool | Progress = False,
    ) -> Classified:
        """The probability of each class name for each image (zero-shot classification).

        The embedding of a class is the mean over the templates, as in the evaluator `zero_shot`.
        Its logits become probabilities by the model's objective: softmax over the names (CLIP), or
        a sigmoid for each (SigLIP); `Classified.kind` says which.

        Args:
          images: images or their embeddings, see `Loaded`.
          names: the class names.
          templates: prompts, each with `{}` once for the class name.
          progress: see `Loaded`; of the images.

        Raises:
          ExampleError, TypeError, UserError, ValueError: as `logits` does; UserError also if there
            are no names, or a template lacks `{}`.
        """
        self._require_embedding("image")
        named, prompts = tuple(texts_of(names)), _checked(templates)
        if not named:
            raise UserError("names: pass at least one class name")
        scale, bias = self.logit_scale, self.logit_bias
        classes = class_embeddings(named, prompts, self.encode_text, self.comparison)
        embeddings = self._image_embeddings(images, progress)
        logits = scale * self._compared(embeddings, classes.astype(embeddings.dtype)) + bias
        if isinstance(self._objective, SigmoidContrastive):
            return Classified(named, np.asarray(jax.nn.sigmoid(logits)), "sigmoid")
        return Classified(named, np.asarray(jax.nn.softmax(logits, axis=1)), "softmax")

    # --- Search ---

    def index(self, images: Any, *, progress: bool | Progress = False) -> Index:
        """The embeddings of images with their names, to search in many times.

        Args:
          images: paths, contents of image files, PIL images or arrays, see `Loaded`.
          progress: see `Loaded`.

        Raises:
          ExampleError, TypeError, UserError, ValueError: as `encode_image` does.
        """
        names: list[str] = []
        embeddings = self._encode_images(images, progress, names.append)
        return Index(tuple(names), embeddings)

    @overload
    def search(
        self, query: str, images: Any, top: int = ..., *, progress: bool | Progress = ...
    ) -> list[Hit]: ...

    @overload
    def search(
        self, query: Sequence[str], images: Any, top: int = ..., *, progress: bool | Progress = ...
    ) -> list[list[Hit]]: ...

    @overload
    def search(
        self, query: Any, images: Any, top: int = ..., *, progress: bool | Progress = ...
    ) -> Any: ...

    def search(
        self, query: Any, images: Any, top: int = 10, *, progress: bool | Progress = False
    ) -> Any:
        """The images that are most similar to a query.

        Args:
          query: a text, or an image: a `pathlib.Path`, the content of a file, a PIL image or an
            array. A string is always a text. A list of texts or of images, or embeddings, are
            several queries.
          images: an `Index`, images, or their embeddings.
          top: largest number of images to find.
          progress: see `Loaded`; of the images.

        Returns:
          The hits, best first; equal scores in the order of the images. For several queries, a list
          of hits for each.

        Raises:
          ExampleError, TypeError, UserError, ValueError: as `similarity` does; UserError also for
            `top` below 1.
        """
        if isinstance(top, bool) or not isinstance(top, int | np.integer):
            raise UserError(f"top: must be a whole number, got {top!r}")
        if top < 1:
            raise UserError(f"top: must be at least 1, got {top}")
        asked, lone = self._query(query)
        if not isinstance(images, Index):
            given = _embeddings(images, "images")
            if given is None:
                images = self.index(images, progress=progress)
            else:
                images = Index(tuple(f"images[{i}]" for i in range(len(given))), given)
        candidates = self._of_width(images.embeddings, "images")
        compare = self._comparison_with(candidates)
        rows = max(1, _SIMILARITIES // max(1, len(candidates)))
        found: list[list[Hit]] = []
        for start in range(0, len(asked), rows):
            for scores in compare(asked[start : start + rows]):
                best = _best(scores, top)
                found.append([Hit(int(i), images.names[i], float(scores[i])) for i in best])
        return found[0] if lone else found

    def _query(self, query: Any) -> tuple[Float[np.ndarray, "queries dim"], bool]:
        """The embeddings of what a search looks for, and whether it is a single query."""
        if isinstance(query, Iterator):
            query = list(query)
        if isinstance(query, str):
            return self._text_embeddings(query), True
        if isinstance(query, Index) or _embeddings(query, "query") is not None:
            return self._image_embeddings(query, False, "query"), False
        if is_lone_image(query):
            return self._image_embeddings(query, False), True
        if not isinstance(query, Iterable):
            kind = "None" if query is None else f"of type {type(query).__name__}"
            raise TypeError(f"query is {kind}; pass a text, an image, or a list of either")
        texts = [isinstance(one, str) for one in query]
        if all(texts):
            return self._text_embeddings(query), False
        if any(texts):
            raise TypeError(
                f"query[{texts.index(True)}] is a string, which is a text, query"
                f"[{texts.index(False)}] is not; pass a list of texts or of images, with"
                " pathlib.Path for the path of an image"
            )
        return self._image_embeddings(query, False), False

    # --- Metrics and answers ---

    def evaluate(
        self,
        data: Source | str | os.PathLike[str] | None = None,
        tasks: str | Sequence[str] = (),
        *,
        train: Source | str | os.PathLike[str] | None = None,
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] = TEMPLATES,
        batch_size: int = 64,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        progress: bool | Progress = False,
    ) -> dict[str, float]:
        """The metrics of a data set, or those that training measures.

        Examples with an unreadable image are left out and counted. Memory holds the embeddings of
        all images, and a few batches of images.

        Args:
          data: a source of `vljax.recipes`, such as `Csv("photos.csv")`; or a path or `TYPE:PATH`,
            as `vljax data inspect` takes it. None for the evaluators of the recipe.
          tasks: "retrieval" (needs captions), "zero_shot" (needs classes), "questions" (needs
            questions, and a model that answers), "linear_probe", "knn" and "few_shot" (need classes
            and `train`), or several. The name of a published set, a key of
            `vljax.evaluation.suites.SUITES` such as "imagenet", measures that set with its own
            prompts and class names; `data` is its folder. Without data: what the names of the
            recipe's metrics begin with, such as "zero_shot" or "retrieval/builtin/test"; none for
            all.
          train: training examples with classes for linear_probe, knn and few_shot, as `data`.
          class_names: names for zero-shot classification in place of those of the data, in the
            order of its classes.
          templates: prompts for zero-shot classification, each with `{}` once.
          batch_size: images or texts encoded at a time; it does not change the results.
          settings: other fields of the evaluators of tasks, such as `{"knn": {"k": 5}}`.
          progress: see `Loaded`; of images and texts.

        Returns:
          The metrics by TASK/NAME, such as `retrieval/text_to_image/recall@10` and
          `zero_shot/accuracy@1`, in [0, 1]; without data by the names that training gives them. A
          metric of single examples is a `Sampled`, whose `values` are those of the examples.

        Raises:
          UserError: for an unknown task, or data that cannot be read or lack what the task needs.
        """
        if data is None:
            if train is not None:
                raise UserError("train: needs data; the recipe states its own training examples")
            if settings:
                raise UserError("settings: needs data; the recipe states those of its evaluators")
            opened = self.recipe_tasks(tasks, batch_size=batch_size)
        else:
            opened = self.tasks(
                data,
                tasks,
                train=train,
                class_names=class_names,
                templates=templates,
                batch_size=batch_size,
                settings=settings,
            )
        total = sum(task.evaluator.inputs(task.data) for task in opened)
        metrics: dict[str, float] = {}
        with _shown(progress, "evaluate", "images and texts") as report:
            predictor = CountingPredictor(self.predictor, total, report)
            for task in opened:
                measured = task.evaluator.measure(predictor, task.data)
                metrics |= {f"{task.name}/{name}": value for name, value in measured.items()}
        return metrics

    def tasks(
        self,
        data: Source | str | os.PathLike[str],
        tasks: str | Sequence[str],
        *,
        train: Source | str | os.PathLike[str] | None = None,
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] = TEMPLATES,
        batch_size: int = 64,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> list[EvaluationTask]:
        """What `evaluate` measures on a data set, opened and checked.

        Args:
          data, tasks, train, class_names, templates, batch_size, settings: see `evaluate`.

        Raises:
          UserError: as `evaluate` does.
        """
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        if not names:
            raise UserError(f"tasks: name at least one of {', '.join(TASKS)}")
        prompts = _checked(templates)
        published = [name for name in names if name in suites.SUITES]
        if published and isinstance(data, Source):
            raise UserError(f"tasks: {published[0]} reads published files; name their folder")
        if published and (class_names is not None or prompts != TEMPLATES):
            field = "templates" if class_names is None else "class_names"
            raise UserError(f"{field}: leave out; {published[0]} has its own")
        settings = settings or {}
        for name, fields in settings.items():
            _check_settings(name, fields, names)
        training = None if train is None else _source(train)
        if training is not None and not {*names} & {*PROBES}:
            raise UserError(
                f"train: {', '.join(names)} needs no training examples; leave it out, or name"
                f" {', '.join(PROBES)}"
            )
        source = _source(data) if len(published) < len(names) else None
        made = []
        for name in dict.fromkeys(names):
            if source is None or name in published:
                assert not isinstance(data, Source)
                made.append(self._suite(name, os.fspath(data), batch_size))
                continue
            evaluator = self._evaluator(name, source, training, prompts, batch_size)
            if name in settings:
                try:
                    evaluator = config.validate(dataclasses.replace(evaluator, **settings[name]))
                except UserError as error:
                    raise UserError(f"settings.{name}.{error}") from error
            # Those of the probes are compared with the classes of the training examples.
            own_names = None if name in PROBES else class_names
            examples = self._examples(evaluator, own_names)
            classes = len(examples.records.class_names)
            if class_names is not None and len(class_names) != classes:
                raise UserError(
                    f"class_names: {len(class_names):,} names, but {source.full_name} has"
                    f" {classes:,} classes; give one for each"
                )
            if training is not None and name in PROBES:
                try:
                    examples.other(training).open()
                except UserError as error:
                    raise error_for_field(error, "train") from error
            evaluator.check(examples)
            made.append(EvaluationTask(name, evaluator, examples))
        return made

    def recipe_tasks(
        self, tasks: str | Sequence[str] = (), *, batch_size: int | None = None
    ) -> list[EvaluationTask]:
        """The evaluators of the recipe, opened and checked, under the names of their metrics.

        Args:
          tasks: what the names begin with, such as "zero_shot"; none for all.
          batch_size: images or texts encoded at a time; None: as in the recipe.

        Raises:
          UserError: for a task that the recipe does not have, or data that cannot be read.
        """
        run = self.run
        prefixes = run.evaluator_prefixes()
        if not prefixes:
            raise UserError("the recipe of the model has no evaluators; name data and tasks")
        wanted = [tasks] if isinstance(tasks, str) else list(tasks)
        for task in wanted:
            if not any(_begins(prefix, task) for prefix in prefixes.values()):
                raise UserError(
                    f"tasks: the recipe measures no {task!r}; it measures"
                    f" {', '.join(prefixes.values())}"
                )
        made = []
        for path, evaluator in run.all_evaluators.items():
            prefix = prefixes[path]
            if wanted and not any(_begins(prefix, task) for task in wanted):
                continue
            if batch_size is not None:
                evaluator = dataclasses.replace(evaluator, batch_size=batch_size)
            examples = self._examples(evaluator, None)
            check_evaluation_data(examples, path, evaluator)
            made.append(EvaluationTask(prefix, evaluator, examples))
        return made

    def _suite(self, name: str, path: str, batch_size: int) -> EvaluationTask:
        """A published set, opened and checked."""
        found = suites.find(name, path)
        changes: dict[str, Any] = {"batch_size": batch_size}
        if isinstance(found.evaluator, Questions):
            answering = self.run.question_answering()
            if answering is None:
                raise UserError(
                    f"{name}: the model does not answer questions: it was trained on none"
                )
            changes |= {"logits": answering.logits, "targets": answering.targets}
        else:
            self._require_embedding("image")
            self._require_embedding("text")
            changes["similarity"] = self.comparison
        evaluator = config.validate(dataclasses.replace(found.evaluator, **changes))
        examples = self._examples(evaluator, found.class_names)
        suites.check(name, found, examples)
        evaluator.check(examples)
        return EvaluationTask(name, evaluator, examples, name)

    def _examples(
        self, evaluator: Evaluator, class_names: suites.ClassNames | None
    ) -> EvaluationSet:
        """The data of an evaluator through the preprocessing of the model."""
        transforms: tuple[Transform, ...] = self.images.transforms
        if not {entry.partition("/")[0] for entry in evaluator.reads()} <= {"image", "text"}:
            # Other entries need the recipe's other transforms, with the vocabularies that were
            # stored with the model. Those may need columns that data for other tasks lack.
            transforms = tuple(self._with_vocabulary(t) for t in self.run.data.eval_transforms)
        # Worker processes would run a plain script once more each.
        pipeline = dataclasses.replace(self.run.data, eval_transforms=transforms, workers=0)
        return EvaluationSet(
            pipeline, evaluator.source, tokenizers=self.tokenizers, class_names=class_names
        )

    def _with_vocabulary(self, transform: Transform) -> Transform:
        changed = {
            field.name: self.vocabularies[entry]
            for entry in transform.makes()[:1]
            for field in dataclasses.fields(transform)  # type: ignore[arg-type]
            if isinstance(getattr(transform, field.name), VocabularyFile)
        }
        return dataclasses.replace(transform, **changed)  # type: ignore[type-var]

    def _evaluator(
        self,
        task: str,
        source: Source,
        train: Source | None,
        templates: tuple[str, ...],
        batch_size: int,
    ) -> Evaluator:
        evaluator: Evaluator
        if task == "questions":
            answering = self.run.question_answering()
            if answering is None:
                raise UserError("the model does not answer questions: it was trained on none")
            evaluator = Questions(
                source=Expand(source, by="question"),
                batch_size=batch_size,
                logits=answering.logits,
                targets=answering.targets,
            )
            return config.validate(evaluator)
        if task not in TASKS:
            known = (*TASKS, *suites.SUITES)
            raise UserError(f"tasks: unknown task {task!r}{suggest(task, known)}")
        if task in PROBES:
            if train is None:
                raise UserError(f"train: {task} needs training examples; name their source")
            self._require("image")
            return config.validate(PROBES[task](source, batch_size, train=train))
        self._require_embedding("image")
        self._require_embedding("text")
        if task == "retrieval":
            evaluator = Retrieval(source, batch_size, similarity=self.comparison)
        else:
            evaluator = ZeroShot(
                source, batch_size, templates=templates, similarity=self.comparison
            )
        return config.validate(evaluator)

    def answer(
        self, image: Any, question: str, *, top: int = 5, targets: str = "answer"
    ) -> list[tuple[str, float]]:
        """The most likely answers to a question about an image, with their probabilities.

        Args:
          image: a path, the content of an image file, a PIL image or an array, as for
            `encode_image`.
          question: cleaned and tokenized as in training.
          top: largest number of answers.
          targets: the batch entry that the model was trained to predict from the image and the
            entry `question`.

        Raises:
          ExampleError: if the image cannot be decoded.
          TypeError: for several images or questions.
          UserError: if the file cannot be read, or the model does not answer questions.
        """
        answering = self.run.question_answering(targets)
        if answering is None:
            raise UserError("the model does not answer questions: it was trained on none")
        files, questions = list(images_of(image, read_user_file)), list(texts_of(question))
        if (len(files), len(questions)) != (1, 1):
            raise TypeError(f"{len(files)} images and {len(questions)} questions; pass one each")
        names = self.vocabularies[targets]
        (ids,), (mask,) = self.tokenizers[answering.tokenizer](questions)
        batch = {name: array[None] for name, array in self._read(files[0]).items()}
        batch |= {"question": ids[None, None], "question_mask": mask[None, None]}
        logits = self.predictor.run([answering.logits], batch)[answering.logits][0]
        likely = jax.nn.softmax if answering.loss == "softmax" else jax.nn.sigmoid
        probabilities = np.asarray(likely(logits))
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [(names[i], float(probabilities[i])) for i in best]

    # --- Shared by the methods ---

    def _require(self, name: str) -> None:
        if name not in self.run.model.encoders:
            raise UserError(f"the model has no {name} tower")

    def _require_embedding(self, name: str) -> None:
        self._require(name)
        output = f"{name}/embedding"
        if output not in makers(self.run.model.nodes):
            raise UserError(f"the model has no {name} embedding: no head makes {output}")

    @functools.cached_property
    def _objective(self) -> Contrastive | None:
        """The objective that compares images with texts."""
        of_kind = (o for o in self.run.objectives.values() if isinstance(o, Contrastive))
        return next(of_kind, None)

    def _compared(
        self, images: Float[np.ndarray, "images dim"], texts: Float[np.ndarray, "texts dim"]
    ) -> Float[np.ndarray, "images texts"]:
        return self._comparison_with(texts)(images)

    def _comparison_with(
        self, candidates: Float[np.ndarray, "candidates dim"]
    ) -> Callable[[np.ndarray], np.ndarray]:
        """The similarities [rows, candidates] of embeddings [rows, dim], as a function of them.

        What depends on the candidates alone is computed once.
        """
        kind = self.comparison
        if kind == "cosine":
            candidates = unit(candidates)
        squares = np.einsum("nd,nd->n", candidates, candidates) if kind == "euclidean" else None

        def compare(embeddings: np.ndarray) -> np.ndarray:
            if kind == "cosine":
                embeddings = unit(embeddings)
            products = embeddings @ candidates.T
            if squares is None:
                return products
            own = np.einsum("nd,nd->n", embeddings, embeddings)
            return 2 * products - own[:, None] - squares[None, :]

        return compare

    def _image_embeddings(
        self, images: Any, progress: bool | Progress, argument: str = "images"
    ) -> Float[np.ndarray, "images dim"]:
        self._require_embedding("image")
        given = images.embeddings if isinstance(images, Index) else _embeddings(images, argument)
        if given is None:
            given = self.encode_image(images, progress=progress)
        return self._of_width(given, argument)

    def _text_embeddings(self, texts: Any) -> Float[np.ndarray, "texts dim"]:
        self._require_embedding("text")
        given = _embeddings(texts, "texts")
        return self._of_width(self.encode_text(texts) if given is None else given, "texts")

    def _of_width(self, embeddings: np.ndarray, argument: str) -> np.ndarray:
        """Embeddings in float32 or float64, after comparing their width with the model's."""
        stream = "text" if argument == "texts" else "image"
        width = self._no_rows(f"{stream}/embedding").shape[1]
        if embeddings.shape[1] != width:
            raise UserError(
                f"{argument}: embeddings of {embeddings.shape[1]} numbers, but this model's have"
                f" {width}; encode them with it"
            )
        return embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32), copy=False)

    def _encode_images(
        self, images: Any, progress: bool | Progress, on_name: Callable[[str], None]
    ) -> Float[np.ndarray, "images dim"]:
        """The embeddings; `on_name` gets the name of each image, in order."""

        def files() -> Iterator[tuple[str, bytes | None]]:
            for name, content in images_of(images, _later):
                on_name(name)
                yield name, content

        self._require_embedding("image")
        total = 1 if is_lone_image(images) else _length(images)
        with (
            _shown(progress, "encode_image", "images") as report,
            _in_threads(self._read, files()) as made,
        ):
            return self._encode("image", made, _stacked, total, report)

    def _read(self, image: tuple[str, bytes | None]) -> dict[str, np.ndarray]:
        """The arrays of an image, given by its name and its content; without one, by its path."""
        name, content = image
        try:
            return self.images(read_user_file(name) if content is None else content)
        except ExampleError as error:
            raise ExampleError(f"{name}: {error}", kind=error.kind) from error

    def _encode(
        self,
        name: str,
        inputs: Iterable[T],
        batch_of: Callable[[Sequence[T]], Batch],
        total: int | None,
        report: Progress,
    ) -> np.ndarray:
        output, parts, done = f"{name}/embedding", list[np.ndarray](), 0

        def finish(wait: Callable[[], dict[str, np.ndarray]], count: int) -> None:
            nonlocal done
            parts.append(wait()[output][:count])
            done += count
            report(done, done if total is None else total)

        # The devices compute one batch while the host makes the next.
        computing: list[tuple[Callable[[], dict[str, np.ndarray]], int]] = []
        for each, rows in batches(inputs):
            batch = {entry: padded(array, rows) for entry, array in batch_of(each).items()}
            if computing:
                finish(*computing.pop())
            computing.append((self.predictor.begin([output], batch), len(each)))
        if computing:
            finish(*computing.pop())
        return np.concatenate(parts) if parts else self._no_rows(output)

    def _no_rows(self, output: str) -> np.ndarray:
        """An output of no rows. It is traced for its shape, not compiled."""
        shapes = self._output_shapes
        if output not in shapes:

            def forward(variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
                made: jax.Array = self.model.apply(variables, batch, want=(output,))[0][output]
                return made

            batch = example_batch(self.run.model)
            shapes[output] = jax.eval_shape(forward, self.variables, batch)
        made = shapes[output]
        return np.zeros((0, *made.shape[1:]), made.dtype)

    @functools.cached_property
    def _output_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of outputs of an example batch that were asked for."""
        return {}


def _source(data: Source | str | os.PathLike[str]) -> Source:
    """The source that is given, or that a path or TYPE:PATH names."""
    if not isinstance(data, Source):
        (data,) = parse_sources([os.fspath(data)], "evaluate")
    return data


def _begins(prefix: str, task: str) -> bool:
    """Whether a task names the prefix or the first parts of it."""
    return f"{prefix}/".startswith(f"{task.rstrip('/')}/")


def _later(path: str) -> None:
    """In place of the content of a file: a thread reads it."""


def _stacked(arrays: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}


def _embeddings(values: Any, argument: str) -> np.ndarray | None:
    """Values that are embeddings, float[rows, dim], on the host; None for anything else.

    Raises UserError for float arrays of another number of axes, and vectors of different lengths.
    """
    if isinstance(values, list | tuple) and values and all(map(_is_vector, values)):
        if len({len(vector) for vector in values}) > 1:
            raise UserError(f"{argument}: the vectors have different lengths; pass one array")
        values = np.stack([np.asarray(vector) for vector in values])
        if not _is_floating(values):  # lists of whole numbers
            values = values.astype(np.float32)
    if not hasattr(values, "ndim") or not _is_floating(values):
        return None
    if values.ndim != 2:
        remedy = "; pass E[None]" if values.ndim == 1 else "; the pixels of images are uint8"
        raise UserError(
            f"{argument}: embeddings have the shape [rows, dim], not {list(values.shape)}{remedy}"
        )
    return np.asarray(values)


def _is_vector(value: Any) -> bool:
    """Whether a value is one embedding: a float array of one axis, or a list of numbers."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(number, int | float) for number in value)
    return getattr(value, "ndim", None) == 1 and _is_floating(value)


def _is_floating(array: Any) -> bool:
    """By name, which arrays of NumPy and JAX (bfloat16, too) and tensors of torch have."""
    return "float" in str(array.dtype)


def _best(scores: Float[np.ndarray, " images"], top: int) -> np.ndarray:
    """The positions of the largest scores, best first; equal scores in their order.

    >>> _best(np.array([1.0, 3.0, 2.0, 3.0, 2.0]), 3).tolist()
    [1, 3, 2]
    """
    found = np.arange(len(scores))
    if top < len(scores):
        # To sort all scores would take longer. NaN counts as the smallest.
        last = -np.partition(-scores, top - 1)[top - 1]
        if not np.isnan(last):
            (above,), (equal,) = np.nonzero(scores > last), np.nonzero(scores == last)
            found = np.concatenate([above, equal[: top - len(above)]])
    return found[np.argsort(-scores[found], kind="stable")][:top]


def _length(values: Any) -> int | None:
    try:
        return len(values)
    except TypeError:
        return None


def settable_fields(task: str) -> set[str]:
    """The fields of the evaluator of a task that `settings` of `evaluate` may set.

    The other ones are arguments of their own.

    >>> sorted(settable_fields("knn"))
    ['features', 'k', 'temperature']
    """
    own = {"source", "train", "batch_size", "templates", "similarity"}
    return {field.name for field in dataclasses.fields(EVALUATORS[task])} - own


def _check_settings(task: str, fields: Any, tasks: Sequence[str]) -> None:
    if not isinstance(fields, Mapping):
        raise UserError(f"settings.{task}: must be a dict of fields, such as {{'k': 5}}")
    if task in suites.SUITES:
        raise UserError(f"settings.{task}: is a published set, which has its own settings")
    if task not in tasks or task not in EVALUATORS:
        raise UserError(f"settings.{task}: is not among the tasks, {', '.join(tasks)}")
    for name in fields:
        if name not in (known := settable_fields(task)):
            raise UserError(f"settings.{task}: unknown field {name!r}{suggest(name, known)}")


def _checked(templates: Sequence[str]) -> tuple[str, ...]:
    """The prompts. Raises UserError if one does not hold `{}` once."""
    prompts = tuple(texts_of(templates))
    for field, message in template_problems(prompts):
        raise UserError(f"{field}: {message}")
    return prompts


@contextlib.contextmanager
def _shown(progress: bool | Progress, what: str, unit: str) -> Iterator[Progress]:
    """What to call as work advances, see `Loaded`."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        from vljax.progress import shown  # imports rich

        with shown(what, "{:,} of {:,} " + unit) as report:
            yield report


@contextlib.contextmanager
def _in_threads(make: Callable[[T], U], items: Iterable[T]) -> Iterator[Iterator[U]]:
    """The results of `make` in the order of the items, made in threads, at most a batch ahead."""
    pool = ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS))

    def made() -> Iterator[U]:
        pending: collections.deque[Future[U]] = collections.deque()
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > ROWS[-1]:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield made()
    finally:
        pool.shutdown(cancel_futures=True)


# --- Load ---


def load(
    path: str | os.PathLike[str],
    precision: Precision | None = None,
    devices: Sequence[jax.Device] | None = None,
    *,
    recipe: Run | str | None = None,
) -> Loaded:
    """The model of a checkpoint, with EMA parameters if it has them, or of other software.

    Nothing is written to disk. Every device holds all parameters, and computes its part of the
    rows.

    Args:
      path: a checkpoint (`W/checkpoints/STEP`); or a workdir or its folder `checkpoints`, which
        mean the newest intact checkpoint; or the output of `vljax export` as safetensors, npz or
        programs, whose weights keep their stored formats; or a folder or file that `vljax import`
        reads, such as one of transformers or open_clip.
      precision: precision to compute in; by default that of the training run, on every platform,
        and float32 for models of other software.
      devices: the devices to compute on; by default all of this process.
      recipe: for a file that holds only weights (big_vision), the run that describes the model,
        preprocessing and tokenizer; or the words after `vljax import ... --recipe` as one string.

    Raises:
      UserError: if the path does not exist, is damaged, or holds nothing that this version reads;
        for a precision of another type, no devices, or a recipe that is not one or not needed.

    >>> model = load("runs/quickstart")  # doctest: +SKIP
    >>> images = model.encode_image(["cat.png", "dog.jpg"])  # doctest: +SKIP
    >>> model.similarity(images, ["a cat", "a dog"])  # doctest: +SKIP
    array([[0.31, 0.12],
           [0.15, 0.29]], dtype=float32)
    >>> load("runs/vqa").answer("cats.jpg", "What is left of the cat?")  # doctest: +SKIP
    [('dog', 0.83), ('apple', 0.04), ('cow', 0.02), ('pear', 0.01), ('banana', 0.01)]
    >>> load("no/such/workdir")
    Traceback (most recent call last):
    vljax.config.UserError: no/such/workdir: no such file or folder
    """
    if precision is not None:
        _check_precision(precision)
    if devices is not None and not len(devices):
        raise UserError("devices: pass at least one device, or None for all of this process")
    enable_compilation_cache()
    path = os.fspath(path)
    if not is_remote(path) and not Path(os.path.expanduser(path)).exists():
        raise UserError(f"{path}: no such file or folder")
    mesh = make_mesh(MeshConfig(), find_devices(local=True) if devices is None else devices)
    if recipe is None and (exported.recognises(path) or _has_checkpoints(path)):
        return _load_own(path, precision, mesh)
    if recipe is not None and Path(path).expanduser().is_dir():
        raise UserError(
            f"recipe: {path} is a folder, which describes its own model; recipe is for a file that"
            " holds only weights"
        )
    if isinstance(recipe, str):
        recipe = _recipe(recipe)
    return _load_foreign(path, precision, mesh, recipe)


def _recipe(words: str) -> Run:
    """The run of a recipe and its overrides in one string."""
    wanted = "pass the words after `vljax import ... --recipe` as one string"
    try:
        spec, *fields = shlex.split(words) or [""]
    except ValueError as error:
        raise UserError(f"recipe: {words!r}: {error}; {wanted}") from None
    if not spec:
        raise UserError(f"recipe: {words!r} names no file; {wanted}")
    return override(config.load(spec, Run), fields, f"load {spec}")


def _check_precision(precision: Any) -> None:
    if not isinstance(precision, Precision):
        raise UserError(
            f"precision: must be a vljax.recipes.Precision, such as Precision('bfloat16'), not"
            f" {precision!r}"
        )
    try:
        config.validate(precision)
    except UserError as error:
        raise UserError(f"precision.{error}") from None


def _has_checkpoints(path: str) -> bool:
    """Whether a path is a workdir, its folder `checkpoints`, or a checkpoint, even a damaged one.

    Raises UserError for a folder that is neither that nor of a format that import reads.
    """
    if is_remote(path):
        return True
    folder = Path(os.path.expanduser(path))
    parts = ("checkpoints", manifest.NAME, "state")
    if folder.absolute().name == "checkpoints" or any((folder / part).exists() for part in parts):
        return True
    if (folder / plain.RECIPE).is_file() and any(folder.glob("parameters.*")):
        raise UserError(
            f"{path}: {exported.MANIFEST} is missing, which says whether all files are intact;"
            " export the model again, or import the folder with `vljax import`"
        )
    if folder.is_dir() and recognised_format(folder) is None:
        raise UserError(
            f"{path}: no intact checkpoint, and no model of a format that vljax imports; pass a"
            " workdir, a checkpoint, an exported folder, or a folder with its config.json"
        )
    return False


def _load_own(path: str, precision: Precision | None, mesh: Mesh) -> Loaded:
    """The model of a checkpoint, or of a folder that `vljax export` wrote."""
    written = exported.open_folder(path) if exported.recognises(path) else None
    folder = checkpoint.find_intact(path) if written is None else epath.Path(written.folder)

    def read(name: str) -> bytes:
        # All digests of an export are checked when it is opened.
        return checkpoint.read_file(folder, name) if written is None else written.read_file(name)

    environment = json.loads(read("environment.json"))
    if environment["format_version"] != FORMAT_VERSION:
        found = environment["format_version"]
        raise UserError(f"{folder}: format {found}, this version of vljax reads {FORMAT_VERSION}")
    recipe = json.loads(read("recipe.json"))
    run = decode_recipe(recipe, f"{folder}/recipe.json")
    stored = Precision(environment["resolved"]["precision"], run.precision.params)
    run = dataclasses.replace(run, precision=precision or stored, attention="auto")
    everywhere = replicated(mesh)
    if written is None:
        variables = _stored(folder, build_model(run, mesh), run, everywhere)
    # Low-rank factors are part of the kernels from here on.
    run = dataclasses.replace(run, low_rank=LowRank())
    model = build_model(run, mesh)
    if written is not None:
        variables = jax.device_put(written.variables(model), everywhere)
    return Loaded(
        run=run,
        step=int(folder.name) if written is None else written.step,
        model=model,
        variables=variables,
        predictor=Forward(model, run.model, mesh, everywhere).bind(variables),
        tokenizers={
            name: load_tokenizer(str(folder / tokenizer_folder(name)))
            for name in run.data.tokenizers
        },
        images=ImagePreprocessor.load(json.loads(read("preprocess.json"))),
        vocabularies={
            name: tuple(read(vocabulary_file(name)).decode().splitlines())
            for name in run.data.vocabularies()
        },
    )


def _load_foreign(path: str, precision: Precision | None, mesh: Mesh, recipe: Run | None) -> Loaded:
    """The model of a folder or file that import reads."""
    mapped = read_model(path, recipe, scan=True)
    foreign, run = mapped.foreign, mapped.prepared.run
    # A recipe's "auto" would be another precision on another platform.
    precision = precision or run.precision.resolve("cpu")
    run = dataclasses.replace(run, precision=precision, attention="auto")
    model, everywhere = build_model(run, mesh), replicated(mesh)
    stored = jax.tree.map(lambda x: x.astype(precision.params, copy=False), mapped.variables())
    variables = jax.device_put(stored, everywhere)
    main = run.data.main_tokenizer
    return Loaded(
        run=run,
        step=0,
        model=model,
        variables=variables,
        predictor=Forward(model, run.model, mesh, everywhere).bind(variables),
        tokenizers={
            name: foreign.tokenizer
            if name == main
            else load_tokenizer(str(Path(os.path.expanduser(path)) / tokenizer_folder(name)))
            for name in run.data.tokenizers
        },
        images=ImagePreprocessor.load(preprocessing(run.data)),
        vocabularies={
            name: tuple(foreign.files[vocabulary_file(name)].decode().splitlines())
            for name in run.data.vocabularies()
        },
    )


def _stored(folder: epath.Path, model: Model, run: Run, sharding: NamedSharding) -> Variables:
    """The evaluation variables of a checkpoint, with EMA parameters where there are any.

    Low-rank factors are merged into their kernels.
    """
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        model.shapes,
    )
    task = Task(
        model,
        run.objectives,
        run.optim,
        run.steps,
        named_groups=run.groups,
        low_rank=run.low_rank,
    )
    wanted = {**shapes._asdict(), "average": ema_parameters(task, shapes.params)}
    arrays = checkpoint.read_state(folder, wanted, partial=True)
    params = merge(arrays["params"], arrays["average"])
    if run.low_rank.used:
        join = functools.partial(merged, scale=run.low_rank.scale)
        params = jax.jit(join, out_shardings=sharding)(params)
    return Variables(params, arrays["state"])
