"""Regions of images as tokens, against a float64 formula. LXMERT: tests/interop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from tests.models import reference
from tests.models.tiny import STACK, float64, randomised
from vljax.config import UserError, validate
from vljax.models.compute import Compute
from vljax.models.encoders import RegionEncoder
from vljax.models.node import Encoded


def made(**fields: Any) -> tuple[RegionEncoder, Any, Any]:
    """An encoder, its parameters, and a function of them and a batch to the stream."""
    config = RegionEncoder(**{**STACK, "regions": 4, "feature_dim": 6, "scan": False, **fields})
    module = config.module(Compute(), "regions")
    batch = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in config.roles(2).items()}

    def forward(batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        return batch["inputs"], batch["mask"], batch["boxes"]

    def apply(params: Any, batch: dict[str, Any]) -> Encoded:
        inputs, mask, boxes = forward(batch)
        return module.apply({"params": params}, inputs, mask, boxes=boxes)

    features, mask, boxes = forward(batch)
    boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), features, mask, boxes=boxes))
    return config, randomised(meta.unbox(boxed["params"])), jax.jit(apply)


def regions() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    boxes = np.sort(rng.random((2, 4, 2, 2)), axis=2).reshape(2, 4, 4)
    return {
        "inputs": rng.standard_normal((2, 4, 6)).astype(np.float32),
        "boxes": boxes.astype(np.float32),
        "mask": np.arange(4) < np.array([[4], [2]]),
    }


@pytest.mark.parametrize("post_norm", [False, True])
def test_tokens_are_those_of_the_formula(post_norm: bool) -> None:
    config, params, apply = made(post_norm=post_norm, norm_epsilon=1e-5)
    batch, wide = regions(), float64(params)
    found = apply(params, batch)

    def embedded(x: np.ndarray, name: str) -> np.ndarray:
        y = x.astype(np.float64) @ wide[name]["kernel"] + wide[name]["bias"]
        return reference.layer_norm(y, wide[f"{name}_norm"], 1e-5)

    x = (embedded(batch["inputs"], "features") + embedded(batch["boxes"], "boxes")) / 2
    tokens = reference.transformer(wide, x, batch["mask"], config, False)
    np.testing.assert_allclose(found.tokens, tokens, rtol=0, atol=2e-5)
    mean = [row[: mask.sum()].mean(0) for row, mask in zip(tokens, batch["mask"], strict=True)]
    np.testing.assert_allclose(found.pooled, mean, rtol=0, atol=2e-5)
    left, top, right, bottom = batch["boxes"][0, 1]
    np.testing.assert_allclose(found.positions[0, 1], [(top + bottom) / 2, (left + right) / 2])
    assert (found.positions[1, 2:] == -1).all()


def test_regions_depend_on_features_and_boxes_and_not_on_padding() -> None:
    _, params, apply = made()
    batch = regions()
    before = apply(params, batch).pooled
    padding = ~batch["mask"][..., None]
    for name in ("inputs", "boxes"):
        hidden = {**batch, name: np.where(padding, 0.7, batch[name]).astype(np.float32)}
        np.testing.assert_allclose(apply(params, hidden).pooled, before, rtol=0, atol=1e-6)
        other = {**batch, name: 1 - batch[name]}
        assert np.abs(apply(params, other).pooled - before).max() > 1e-3, name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regions": 0}, "regions: must be at least 1, not 0"),
        ({"feature_dim": 0}, "feature_dim: must be at least 1, not 0"),
        ({"cross_attention": "after_self"}, "cross_attention: an encoder has no context"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(RegionEncoder(**{**STACK, **fields}))
