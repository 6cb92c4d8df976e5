"""Batches computed in parts: the same step as at once (Gao et al. 2021, arXiv 2101.06983)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vljax.objectives.contrastive import SigmoidContrastive, SoftmaxContrastive
from vljax.objectives.objective import Objective, Result
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rules import batch_sharding, constrain, replicated
from vljax.training.state import shardings
from vljax.training.step import join, make_step, split

SIZE = 16
VALID = np.arange(SIZE) % 5 != 2


def step_of(objective, accumulate, sizes=None):
    """Loss, gradient norm and parameters after a step with dropout and invalid examples."""
    mesh = None if sizes is None else make_mesh(MeshConfig(*sizes))
    of = tiny.task(
        {"main": OBJECTIVES[objective]()},
        constrain=None if mesh is None else constrain(mesh),
        accumulate=accumulate,
        mesh=mesh,
        optimizer=dataclasses.replace(tiny.standard()[0].optimizer, ema_decay=0.9),
        dropout=0.3,
        drop_path=0.2,
    )
    first, batch = tiny.state(of), tiny.batch(size=SIZE, valid=VALID)
    if mesh is None:
        after, metrics = jax.jit(make_step(of))(first, batch, tiny.hyper())
        return metrics, jax.device_get(after.params)
    placed = shardings(jax.eval_shape(lambda: first), of, mesh)
    step = jax.jit(
        make_step(of),
        in_shardings=(placed, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(placed, replicated(mesh)),
    )
    first = jax.device_put(first, placed)
    after, metrics = step(first, jax.device_put(batch, batch_sharding(mesh)), tiny.hyper())
    return metrics, jax.device_get(after.params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recombined(Objective, name="test_recombined"):
    """Runs a part of the model within the loss: on mixed pooled vectors, and on a noisy view."""

    def noisy(self, batch, keys):
        flip = jax.vmap(lambda key: jax.random.bernoulli(key, 0.3, batch["text"].shape[1:]))(keys)
        return {"text": jnp.where(flip, 1, batch["text"])}

    def __call__(self, ctx, batch, key):
        outputs = ctx.run(["image/pooled", "image/mask"])
        pooled = jnp.where(outputs["image/mask"][:, :1], outputs["image/pooled"], 0)
        teacher = ctx.run(["image/pooled"], of="average")["image/pooled"]
        noisy = ctx.run(["text/embedding"], view=self.noisy)["text/embedding"]
        # Twice as many rows as the batch: each image, and its mean with the next one.
        mixed = jnp.concatenate([pooled, (pooled + jnp.roll(pooled, 1, 0)) / 2])
        made = ctx.run(["image/embedding"], given={"image/pooled": mixed})["image/embedding"]
        valid = batch["valid"][:, None]
        both = jnp.where(valid, made[:SIZE] * noisy + jnp.square(made[SIZE:]) * noisy, 0)
        pull = jnp.where(valid, jnp.square(pooled - 0.9 * teacher), 0)
        return Result(jnp.sum(jnp.sin(both)) + jnp.mean(pull), {})


OBJECTIVES = {
    "softmax": SoftmaxContrastive,
    "sigmoid": SigmoidContrastive,
    "recombined": Recombined,
}
at_once = functools.cache(functools.partial(step_of, accumulate=1))


@pytest.mark.parametrize(
    ("objective", "accumulate", "sizes"),
    [
        ("softmax", 16, None),
        ("sigmoid", 4, None),
        ("softmax", 2, (8, 1, 1)),
        ("sigmoid", 4, (2, 2, 2)),
    ],
)
def test_parts_give_the_step_of_the_whole_batch(objective, accumulate, sizes):
    """To 1e-5, float32: sums over the batch are taken in another order."""
    metrics, params = step_of(objective, accumulate, sizes)
    expected, truth = at_once(objective)
    for name in ("loss", "gradient_norm", "valid_examples"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
    assert tiny.distance(params, truth) < 1e-5


@pytest.mark.parametrize(("accumulate", "sizes"), [(4, None), (2, (2, 2, 2)), (1, (8, 1, 1))])
def test_a_part_of_the_model_within_the_loss_has_the_same_gradient(accumulate, sizes):
    """To 1e-5, float32, dropout included."""
    metrics, params = step_of("recombined", accumulate, sizes)
    expected, truth = at_once("recombined")
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
    assert tiny.distance(params, truth) < 1e-5


def test_parts_are_not_treated_as_smaller_batches():
    """Accumulating the gradients of smaller batches would be another loss altogether."""
    whole = at_once("softmax")[0]["loss"]
    of = tiny.task(dropout=0.3, drop_path=0.2)
    step, batch = jax.jit(make_step(of)), tiny.batch(size=SIZE, valid=VALID)
    halves = [{k: v[i : i + 8] for k, v in batch.items()} for i in (0, 8)]
    losses = [float(step(tiny.state(of), half, tiny.hyper())[1]["loss"]) for half in halves]
    assert abs(np.mean(losses) - whole) > 0.1


def test_memory_falls_with_the_number_of_parts():
    def bytes_of(accumulate):
        of = tiny.task(accumulate=accumulate)
        compiled = jax.jit(make_step(of)).lower(
            tiny.standard()[2], tiny.batch(size=256), tiny.hyper()
        )
        return compiled.compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(8) < 0.5 * bytes_of(1)


@pytest.mark.parametrize("sizes", [None, (2, 2, 2), (8, 1, 1)])
def test_split_and_join_are_inverse_and_move_nothing_between_devices(sizes):
    mesh = None if sizes is None else make_mesh(MeshConfig(*sizes))
    of = tiny.task(accumulate=2, mesh=mesh)
    x = jnp.arange(SIZE * 3).reshape(SIZE, 3)
    if mesh is not None:
        x = jax.device_put(x, batch_sharding(mesh))

    def there_and_back(x):
        parts = split({"x": x, "logit_scale": jnp.float32(3)}, of)
        return parts, join(parts, of)

    compiled = jax.jit(there_and_back).lower(x).compile()
    parts, whole = compiled(x)
    assert parts["x"].shape == (2, SIZE // 2, 3)
    assert parts["logit_scale"].tolist() == [3, 0]
    np.testing.assert_array_equal(whole["x"], x)
    assert whole["logit_scale"] == 3
    assert not any(word in compiled.as_text() for word in ("all-", "permute", "scatter("))
