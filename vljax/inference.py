"""Embeddings and answers from a trained model, loaded from its checkpoint alone.

Neither the recipe file nor any path in it is needed: a checkpoint contains the recipe, tokenizer
and preprocessing.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from jax.sharding import NamedSharding
from jaxtyping import Float

from vljax.config import UserError
from vljax.data.pipeline.preprocessing import ImagePreprocessor
from vljax.data.records import ExampleError
from vljax.data.tokenizers import LoadedTokenizer, load_tokenizer
from vljax.evaluation.predictor import Batch, Forward, Predictor
from vljax.files import read_user_file
from vljax.host_process import enable_compilation_cache
from vljax.interop import exported
from vljax.interop.programs.standalone.inputs import batches, images_of, padded, texts_of
from vljax.models.assembly import Model, Variables, example_batch, parameter_shapes
from vljax.models.numerics import Precision
from vljax.models.parameters import merge
from vljax.parallel.mesh import MeshConfig, find_devices, make_mesh
from vljax.parallel.rules import replicated
from vljax.run import Run, build_model
from vljax.training import checkpoint
from vljax.training.state import Task, ema_parameters
from vljax.workdir import FORMAT_VERSION, decode_recipe, tokenizer_folder, vocabulary_file

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """A trained model with its tokenizer and preprocessing, see `load`."""

    run: Run
    """The recipe of the training run; its paths may not exist here."""
    step: int
    """The number of training steps."""
    model: Model
    variables: Variables
    predictor: Predictor
    """The model with its variables on all devices, for any of its outputs."""
    tokenizers: dict[str, LoadedTokenizer]
    """The tokenizers by name."""
    images: ImagePreprocessor
    vocabularies: dict[str, tuple[str, ...]]
    """By the batch entry whose indices they are for, such as the answers to questions."""

    def encode_image(self, images: Any) -> Float[np.ndarray, "images dim"]:
        """The embeddings of images.

        At most 256 are in memory at a time, in batches of few sizes, so that different numbers of
        images do not compile again.

        Args:
          images: paths (local or remote), contents of image files (bytes), PIL images or arrays
            uint8[height, width, 3], in any iterable, or one of them. No images give 0 rows.

        Raises:
          ExampleError: if an image cannot be decoded.
          TypeError: for anything that is not an image.
          UserError: if a file cannot be read, or the model has no image tower.
          ValueError: for an array of another shape or type.
        """

        def read(files: Sequence[tuple[str, bytes]]) -> Batch:
            arrays = [self._image(name, file) for name, file in files]
            return {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}

        self._require("image")
        return self._encode("image", images_of(images, read_user_file), read)

    def encode_text(self, texts: Any) -> Float[np.ndarray, "texts dim"]:
        """The embeddings of texts, cleaned and tokenized as in training.

        Args:
          texts: any iterable of strings, or one string, which is one text. No texts give 0 rows.

        Raises:
          TypeError: for anything that is not a string.
          UserError: if the model has no text tower.
        """

        def tokenize(texts: Sequence[str]) -> Batch:
            ids, mask = self.tokenizer(texts)
            return {"text": ids, "text_mask": mask}

        self._require("text")
        return self._encode("text", texts_of(texts), tokenize)

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
        batch = {name: array[None] for name, array in self._image(*files[0]).items()}
        batch |= {"question": ids[None, None], "question_mask": mask[None, None]}
        logits = self.predictor.run([answering.logits], batch)[answering.logits][0]
        likely = jax.nn.softmax if answering.loss == "softmax" else jax.nn.sigmoid
        probabilities = np.asarray(likely(logits))
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [(names[i], float(probabilities[i])) for i in best]

    @property
    def tokenizer(self) -> LoadedTokenizer:
        """The tokenizer of the array `text`."""
        return self.tokenizers[self.run.data.tokenizer_name() or "text"]

    def _require(self, name: str) -> None:
        if name not in self.run.model.encoders:
            raise UserError(f"the model has no {name} tower")

    def _image(self, name: str, file: bytes) -> dict[str, np.ndarray]:
        try:
            return self.images(file)
        except ExampleError as error:
            raise ExampleError(f"{name}: {error}", kind=error.kind) from error

    def _encode(
        self, name: str, inputs: Iterable[T], batch_of: Callable[[Sequence[T]], Batch]
    ) -> np.ndarray:
        output, parts = f"{name}/embedding", []
        for each, rows in batches(inputs):
            batch = {entry: padded(array, rows) for entry, array in batch_of(each).items()}
            parts.append(self.predictor.run([output], batch)[output][: len(each)])
        return np.concatenate(parts) if parts else self._no_rows(output)

    def _no_rows(self, output: str) -> np.ndarray:
        """An output of no rows. It is traced for its shape, not compiled."""
        batch = example_batch(self.run.model)

        def forward(variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
            return self.model.apply(variables, batch, want=(output,))[0][output]

        made = jax.eval_shape(forward, self.variables, batch)
        return np.zeros((0, *made.shape[1:]), made.dtype)


def load(
    path: str | os.PathLike[str],
    precision: Precision | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Loaded:
    """The model of a checkpoint, with EMA parameters if it has them.

    Every device holds all parameters, and computes its part of the rows.

    Args:
      path: a checkpoint (`W/checkpoints/STEP`); or a workdir or its folder `checkpoints`, which
        mean the newest intact checkpoint; or the output of `vljax export` as safetensors, npz or
        programs, whose weights keep their stored formats.
      precision: precision to compute in; by default that of the training run, on every platform.
      devices: the devices to compute on; by default all of this process.

    Raises:
      UserError: if there is no intact checkpoint that this version can read.

    >>> model = load("runs/quickstart")  # doctest: +SKIP
    >>> images = model.encode_image(["cat.png", "dog.jpg"])  # doctest: +SKIP
    >>> texts = model.encode_text(["a cat", "a dog"])  # doctest: +SKIP
    >>> similarities = images @ texts.T  # doctest: +SKIP
    >>> load("runs/vqa").answer("cats.jpg", "What is left of the cat?")  # doctest: +SKIP
    [('dog', 0.83), ('apple', 0.04), ('cow', 0.02), ('pear', 0.01), ('banana', 0.01)]
    >>> load("no/such/workdir")
    Traceback (most recent call last):
    vljax.config.UserError: no/such/workdir: no intact checkpoint
    """
    enable_compilation_cache()
    path = os.fspath(path)
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
    precision = precision or stored
    run = dataclasses.replace(run, precision=precision, attention="auto")

    mesh = make_mesh(MeshConfig(), find_devices(local=True) if devices is None else devices)
    model, everywhere = build_model(run, mesh), replicated(mesh)
    if written is None:
        variables = _stored(folder, model, run, everywhere)
    else:
        variables = jax.device_put(written.variables(model, run.model), everywhere)
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


def _stored(folder: epath.Path, model: Model, run: Run, sharding: NamedSharding) -> Variables:
    """The evaluation variables of a checkpoint, with EMA parameters where there are any."""
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        parameter_shapes(model, run.model),
    )
    task = Task(model, run.objectives, run.optim, run.steps, named_groups=run.groups)
    wanted = {**shapes._asdict(), "average": ema_parameters(task, shapes.params)}
    arrays = checkpoint.read_state(folder, wanted, partial=True)
    return Variables(merge(arrays["params"], arrays["average"]), arrays["state"])
