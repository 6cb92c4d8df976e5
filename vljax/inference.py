"""A trained model from its checkpoint alone, without the recipe file or any path that it names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from vljax.compilation_cache import keep_compiled
from vljax.config import UserError
from vljax.data.pipeline.preprocessing import ImagePreprocessor
from vljax.data.tokenizers import LoadedTokenizer, load_tokenizer
from vljax.interop import exported
from vljax.models.assembly import Model, Variables, parameter_shapes
from vljax.models.compute import Precision
from vljax.models.layout import merge
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.run import Run, build_model
from vljax.training.checkpoint import checkpointer
from vljax.training.state import averaged
from vljax.workdir import FORMAT_VERSION, decode_recipe

Forward = Callable[[Variables, dict[str, np.ndarray]], dict[str, Array]]


@dataclass(frozen=True)
class Loaded:
    """A model with everything that it needs to go from files and strings to embeddings."""

    run: Run
    """The recipe that it was trained by; its paths may not exist here."""
    step: int
    model: Model
    variables: Variables
    forward: Forward
    """The compiled forward pass."""
    tokenizer: LoadedTokenizer
    images: ImagePreprocessor

    def encode_image(self, files: Sequence[bytes]) -> Float[np.ndarray, "images dim"]:
        """Embeddings of encoded image files (JPEG, PNG, WebP ...).

        Raises:
          ExampleError: if one cannot be decoded.
          UserError: if the model has no image tower.
        """
        images = [self.images(file) for file in files]
        batch = {name: np.stack([image[name] for image in images]) for name in images[0]}
        return self._encode(batch, "image")

    def encode_text(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        """Embeddings of texts, cleaned as in training.

        Raises:
          UserError: if the model has no text tower.
        """
        ids, mask = self.tokenizer(texts)
        return self._encode({"text": ids, "text_mask": mask}, "text")

    def _encode(self, batch: dict[str, np.ndarray], name: str) -> np.ndarray:
        if name not in self.run.model.encoders:
            raise UserError(f"the model has no {name} tower")
        outputs = self.forward(self.variables, batch)
        return np.asarray(outputs[f"{name}/embedding"])


def load(path: str, precision: Precision | None = None) -> Loaded:
    """The model of a checkpoint, on the first device; its averaged parameters if it has them.

    Args:
      path: a checkpoint (`W/checkpoints/STEP`), or a workdir: its newest intact one; or what
        `vljax export --format safetensors` made of one, whose weights stay in the formats that they
        are stored in.
      precision: how to compute; by default as the model was trained, whatever the platform.

    Raises:
      UserError: if there is no intact checkpoint of a format that this version reads.
    """
    keep_compiled()
    written = exported.open_folder(path) if exported.recognises(path) else None
    folder = checkpointer.newest(path) if written is None else epath.Path(written.folder)

    def read(name: str) -> bytes:
        # For an exported folder, `open_folder` has already compared all digests.
        return checkpointer.read_file(folder, name) if written is None else written.read_file(name)

    environment = json.loads(read("environment.json"))
    if environment["format_version"] != FORMAT_VERSION:
        found = environment["format_version"]
        raise UserError(f"{folder}: format {found}, this version of vljax reads {FORMAT_VERSION}")
    recipe = json.loads(read("recipe.json"))
    run = decode_recipe(recipe, f"{folder}/recipe.json")
    stored = Precision(environment["resolved"]["precision"], run.precision.params)
    precision = precision or stored
    run = dataclasses.replace(run, precision=precision, attention="auto")

    model = build_model(run, make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))
    if written is None:
        variables = _stored(folder, model, run)
    else:
        variables = written.variables(model, run.model)

    @jax.jit
    def forward(variables: Variables, batch: dict[str, Array]) -> dict[str, Array]:
        return model.apply(variables, batch, None, train=False)[0]

    return Loaded(
        run=run,
        step=int(folder.name) if written is None else written.step,
        model=model,
        variables=variables,
        forward=forward,
        tokenizer=load_tokenizer(str(folder / "tokenizer")),
        images=ImagePreprocessor.load(json.loads(read("preprocess.json"))),
    )


def _stored(folder: epath.Path, model: Model, run: Run) -> Variables:
    """The variables of a checkpoint."""
    shapes = parameter_shapes(model, run.model)
    wanted = {**shapes._asdict(), "average": averaged(run.optim, shapes.params)}
    arrays = checkpointer.read_state(folder, wanted, partial=True)
    return Variables(merge(arrays["params"], arrays["average"]), arrays["state"])
