"""Small trees to run optimizers on."""

import jax
import jax.numpy as jnp
import numpy as np

from vljax.models.assembly import Model, ModelConfig, build
from vljax.models.compute import Compute
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.optim import Optimizer

STEPS = 5


def two_towers(scan: bool) -> tuple[Model, dict]:
    """A model of two towers with two blocks each, and the shapes of its parameters."""
    fields = {"width": 16, "depth": 2, "heads": 2, "mlp_dim": 32, "scan": scan}
    image = ViT(image_size=16, patch_size=8, pooling="mean", **fields)
    text = TextTransformer(vocab_size=32, context_length=6, **fields)
    config = ModelConfig({"image": image, "text": text, "embedding": Embedding(16)})
    model = build(config, Compute(), {"logit_scale": 1.0})
    return model, model.shapes.params


def gradients(shapes):
    """Five trees of float64 values, of different size."""

    def draw(step):
        rng = np.random.default_rng(step)
        at = lambda shape: 0.1 * step * rng.normal(size=shape)  # noqa: E731
        return jax.tree.map(at, shapes, is_leaf=lambda x: isinstance(x, tuple))

    return [draw(step) for step in range(1, STEPS + 1)]


def directions(optimizer: Optimizer, axes, trees):
    """The direction of each step (none depends on the parameters), and the last state."""
    transformation = optimizer.transformation(axes)
    trees = [jax.tree.map(jnp.float32, tree) for tree in trees]
    params = jax.tree.map(jnp.ones_like, trees[0])
    update = jax.jit(transformation.update)
    state, found = transformation.init(params), []
    for tree in trees:
        direction, state = update(tree, state, params)
        found.append(direction)
    return found, state
