"""A tiny recipe, and some steps of it, as a user writes them: with public names only."""

import jax
import numpy as np

from vljax import programs, recipes
from vljax.run import prepare

TOWER = {"width": 32, "depth": 1, "heads": 2, "mlp_dim": 32, "pooling": "mean", "scan": False}
IMAGE = recipes.ViT(image_size=16, patch_size=8, **TOWER)
TEXT = recipes.TextTransformer(vocab_size=2048, context_length=8, **TOWER)


def prepared(nodes, objectives, *transforms, **fields):
    """A run of these nodes and objectives on one device.

    Args:
      nodes: of the model, by name.
      objectives: by name.
      transforms: come after those of images and texts.
      fields: other fields of the recipe.
    """
    clip_art = (recipes.Decode(), recipes.Resize(16), recipes.ChooseText(), recipes.Tokenize())
    words = recipes.HuggingFace(str(recipes.BUILTIN_VOCABULARY), context_length=8)
    every = (*clip_art, *transforms)
    run = recipes.Run(
        model=recipes.ModelConfig(nodes),
        data=recipes.Data(recipes.Builtin("train"), {"text": words}, every, every),
        objectives=objectives,
        **{"optim": recipes.AdamW(learning_rate=1e-2), "steps": 20, "global_batch": 16, **fields},
    )
    return prepare(run, jax.devices()[:1])


def train(prepared, steps):
    """The parameters before and after each step on the first batch, and the metrics of each."""
    step, hyper = programs.compile_step(prepared), programs.hyper(prepared)
    state, batch = programs.initial_state(prepared), next(programs.device_batches(prepared, 0))
    params, metrics = [jax.tree.map(np.array, state.params)], []
    for _ in range(steps):
        state, logged = step(state, batch, hyper)
        params.append(jax.tree.map(np.array, state.params))
        metrics.append(jax.device_get(logged))
    return params, metrics
