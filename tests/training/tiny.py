"""A very small task for the tests of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vljax.models.assembly import ModelConfig, Variables, build, example_batch
from vljax.models.compute import Compute
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.models.low_rank import LowRank
from vljax.objectives.contrastive import SoftmaxContrastive
from vljax.optim import AdamW, Hyper
from vljax.optim.schedules import WarmupCosine
from vljax.training.state import Task, TrainState, create
from vljax.training.step import make_step

BATCH, STEPS = 8, 10
TOWER = {"width": 16, "depth": 2, "heads": 2, "mlp_dim": 32, "scan": False}


def model_config(**tower) -> ModelConfig:
    fields = {**TOWER, **tower}
    image = ViT(image_size=16, patch_size=8, pooling="mean", **fields)
    text = TextTransformer(vocab_size=32, context_length=6, **fields)
    return ModelConfig({"image": image, "text": text, "embedding": Embedding(16)})


def task(
    objectives=None,
    optimizer=None,
    constrain=None,
    accumulate=1,
    mesh=None,
    groups=None,
    low_rank=None,
    **tower,
) -> Task:
    objectives = objectives or {"main": SoftmaxContrastive()}
    scalars = {k: v.initial for o in objectives.values() for k, v in o.scalars().items()}
    compute = Compute(constrain=constrain) if constrain else Compute()
    model = build(model_config(**tower), compute, scalars, low_rank)
    # Adam divides by |g| + epsilon; with the usual epsilon, gradients that are zero but for
    # rounding (those of key biases are) would become steps of full size, and nothing be compared.
    optimizer = optimizer or AdamW(weight_decay=0.1, epsilon=1e-3, schedule=WarmupCosine(2))
    return Task(
        model,
        objectives,
        optimizer,
        STEPS,
        accumulate,
        mesh,
        named_groups=groups or {},
        low_rank=low_rank or LowRank(),
    )


def batch(seed=0, size=BATCH, valid=None):
    rng = np.random.default_rng(seed)
    length = rng.integers(2, 7, size)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (size, 16, 16, 3), np.uint8)),
        "text": jnp.asarray(rng.integers(2, 32, (size, 6), np.int32)),
        "text_mask": jnp.asarray(np.arange(6) < length[:, None]),
        "valid": jnp.ones(size, bool) if valid is None else jnp.asarray(valid),
    }


def hyper(learning_rate=1e-2, weight_decay=0.1, seed=0) -> Hyper:
    return Hyper(jnp.float32(learning_rate), jnp.float32(weight_decay), jnp.uint32(seed))


@functools.cache
def _variables(scalars, tower, low_rank) -> Variables:
    model = build(model_config(**dict(tower)), Compute(), dict(scalars), low_rank)
    example = example_batch(model_config())
    zeros = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in example.items()}
    return jax.jit(model.init)(jax.random.key(0), zeros)


def state(of: Task, **tower) -> TrainState:
    """The first state; tasks with the same scalars and towers begin with the same parameters."""
    scalars = tuple((name, scalar.initial) for name, scalar in of.scalars.items())
    return create(_variables(scalars, tuple(tower.items()), of.low_rank), of)


def compiled(of: Task, first: TrainState, like=None):
    """The compiled step of a task, for batches like the given one."""
    like = batch() if like is None else like
    return jax.jit(make_step(of)).lower(first, like, hyper()).compile()


@functools.cache
def standard():
    """A task, its jitted step and its first state: one compile for all tests of a process."""
    of = task()
    return of, jax.jit(make_step(of)), state(of)


def distance(left, right) -> float:
    """The largest relative L2 error of any array.

    An array that is zero but for rounding, as the biases of keys stay, is measured against 0.1.
    """

    def error(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return np.linalg.norm(a - b) / max(np.linalg.norm(b), 0.1)

    return max(jax.tree.leaves(jax.tree.map(error, left, right)))
