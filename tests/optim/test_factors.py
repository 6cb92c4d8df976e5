"""Factors of the learning rate, by rule and by layer."""

import jax
import numpy as np
import pytest

from tests.optim.optimizing import two_towers
from vljax.config import UserError
from vljax.models.parameters import leaves
from vljax.optim import AdamW, learning_rate_factors


def by_path(optimizer, scan):
    """Unrolled path -> factor."""
    (_, params), found = two_towers(scan), {}
    tree = learning_rate_factors(optimizer, params)
    for (keys, factor), (_, leaf) in zip(leaves(tree), leaves(params), strict=True):
        values = np.broadcast_to(factor, leaf.shape)
        if "blocks" in keys and scan:
            after = keys.index("blocks") + 1
            layers = [(str(i), value) for i, value in enumerate(values)]
        else:
            after, layers = len(keys), [("", values)]
        for layer, value in layers:
            assert len(set(value.flat)) == 1
            path = "/".join(filter(None, (*keys[:after], layer, *keys[after:])))
            found[path] = float(value.flat[0])
    return found


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
def test_rules_and_layers(scan):
    """BEiT's count (Bao et al. 2022, get_num_layer_for_vit), for towers of two blocks."""
    rules = (("text/.*", 0.1), ("image/blocks/1/mlp/.*", 4.0), (".*", 1.0))
    found = by_path(AdamW(layer_decay=0.5, rate_rules=rules), scan)
    expected = {
        "image/patch_embedding": 0.5**3,
        "image/patch_bias": 0.5**3,
        "image/positions": 0.5**3,
        "image/blocks/0/attention/query/kernel": 0.5**2,
        "image/blocks/0/mlp/up/kernel": 0.5**2,
        "image/blocks/1/attention_norm/scale": 0.5,
        "image/blocks/1/mlp/up/kernel": 4 * 0.5,
        "image/norm/scale": 1.0,
        "embedding/image/kernel": 1.0,
        "logit_scale": 1.0,
        "text/embedding": 0.1 * 0.5**3,
        "text/positions": 0.1 * 0.5**3,
        "text/blocks/0/mlp/down/bias": 0.1 * 0.5**2,
        "text/blocks/1/mlp/down/bias": 0.1 * 0.5,
        "text/norm/bias": 0.1,
    }
    assert {path: found[path] for path in expected} == pytest.approx(expected, rel=1e-7)


def test_class_tokens_and_pooling():
    config = AdamW(layer_decay=0.5)
    tower = lambda **fields: learning_rate_factors(config, {"image": fields})["image"]  # noqa: E731
    leaf = jax.ShapeDtypeStruct((2, 4), np.float32)
    tree = tower(blocks={"0": {"w": leaf}}, cls=leaf, pooling={"probe": leaf}, input_norm=leaf)
    assert tree == {
        "blocks": {"0": {"w": 0.5}},
        "cls": 0.25,
        "pooling": {"probe": 1.0},
        "input_norm": 0.25,
    }


def test_default_factors_are_one():
    assert set(jax.tree.leaves(learning_rate_factors(AdamW(), two_towers(scan=True)[1]))) == {1.0}


def test_error_messages():
    with pytest.raises(UserError, match=r"optim.rate_rules: 'imgae/\.\*' matches no parameter"):
        learning_rate_factors(
            AdamW(rate_rules=(("imgae/.*", 0.1), (".*", 1.0))), two_towers(scan=True)[1]
        )
    leaf = jax.ShapeDtypeStruct((2,), np.float32)
    with pytest.raises(UserError, match=r"optim\.layer_decay: the model has no stack of blocks"):
        learning_rate_factors(AdamW(layer_decay=0.9), {"head": {"bias": leaf}})
