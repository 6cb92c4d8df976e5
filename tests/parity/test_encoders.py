"""Encoders against transformers and PyTorch on the same random weights (`make_encoders.py`).

The references are float64, the encoders compute in float32.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.parity.test_pretrained import MINILM, Stored, nested, reference, shapes, unrolled
from vljax import config
from vljax.config import UserError
from vljax.interop import pretrained
from vljax.interop.mapping import pair, to_own
from vljax.interop.transformers import resnet
from vljax.models import presets
from vljax.models.assembly import ModelConfig
from vljax.models.compute import Compute
from vljax.models.encoders import GRU, LSTM, ResNet
from vljax.models.pretrained import Pretrained
from vljax.run import Run, prepare

PIXELS = {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}
SIZES = {"image_size": 45, "repeats": (2, 1, 1), "stem_width": 8, **PIXELS}
BIT = {"version": "v2", "norm": "group", "groups": 4, "standardized_weights": True}
NETWORKS = {
    "resnet_bottleneck": ResNet(**SIZES),
    "resnet_basic": ResNet(block="basic", **SIZES),
    "bit": ResNet(**BIT, **SIZES),
}


@functools.cache
def stored(name):
    """The arrays of one encoder, and its weights by their foreign names."""
    prefix, weights = f"{name}/", f"{name}/weights/"
    found = reference("encoders")
    arrays = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    tensors = {k.removeprefix(weights): v for k, v in found.items() if k.startswith(weights)}
    return arrays, tensors


def applied(encoder, name, params):
    """The stream of the reference's inputs."""
    arrays, _ = stored(name)
    module = encoder.module(Compute(), "tower")
    inputs = [
        jnp.asarray(arrays[role]) for role in ("image", "text", "text_mask") if role in arrays
    ]
    return jax.jit(module.apply)(params, *inputs)


@pytest.mark.parametrize("grid", [None, (2, 3)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_resnet_computes_the_same_as_in_transformers(name, grid):
    arrays, tensors = stored(name)
    encoder = NETWORKS[name]
    layout = name.partition("_")[0]
    collections = shapes(encoder.module(Compute(), "tower"), [arrays["image"]])
    own = {k: v for tree in collections.values() for k, v in unrolled(tree, "tower/").items()}
    resnet.check("tower", encoder, layout)
    rules = resnet.rules("tower", encoder, layout)
    given = {k: Stored(v) for k, v in tensors.items()}
    made = to_own(pair(rules, own, name), given, resnet.IGNORED, name)
    variables = {kind: nested(made, tree) for kind, tree in collections.items()}
    tower = ResNet(**{**vars(encoder), "grid": grid})
    encoded = applied(tower, name, variables)
    assert encoded.pooled.shape == (2, encoder.width)
    np.testing.assert_allclose(encoded.pooled, arrays["pooled"], atol=1e-5)
    wanted = arrays["tokens" if grid is None else "grid"]
    np.testing.assert_allclose(encoded.tokens, wanted, atol=2e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_a_resnet_are_initial_values_of_a_run(name, tmp_path):
    """From a file of a model with a classifier; a tower of another form is refused."""
    _, tensors = stored(name)
    layout = name.partition("_")[0]
    file = tmp_path / "model.safetensors"
    save_file(
        {f"{layout}.{k}": v for k, v in tensors.items()}
        | {"classifier.1.weight": np.zeros((2, 2), np.float16)},
        file,
    )
    run = config.load("configs/quickstart.py:tiny", Run)
    nodes = {**run.model.nodes, "image": replace(NETWORKS[name], image_size=60)}
    sources = {"image": Pretrained(path=str(file), layout=layout)}
    run = replace(run, model=ModelConfig(nodes), pretrained=sources)
    prepared = prepare(run, jax.devices()[:1])
    found = pretrained.load(prepared)
    stem = "embedder" if layout == "bit" else "embedder.embedder"
    kernel = tensors[f"{stem}.convolution.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found.params["image"]["stem"]["kernel"], np.float32(kernel))
    assert bool(found.state) == (layout == "resnet")
    other = {"resnet": "bit", "bit": "resnet"}[layout]
    sources = {"image": replace(sources["image"], layout=other)}
    with pytest.raises(UserError, match=rf"image\.version: must be .* for weights of {other}"):
        pretrained.check(replace(prepared, run=replace(run, pretrained=sources)))


def cells(kind, directions, tensors):
    """Our parameters of two layers from PyTorch's.

    Its two biases are one of ours, except that of the candidate n of a GRU, which stands inside a
    product.
    """

    def split(x):
        return x.reshape(kind.gates, -1, *x.shape[1:])

    made = {"embedding": tensors["words.weight"]}
    for layer in (0, 1):
        for end in ("", "_reverse")[:directions]:
            ih, hh, b_ih, b_hh = (
                np.float32(tensors[f"cells.{part}_l{layer}{end}"])
                for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            bias = split(b_ih + b_hh)
            own = {"input": {"kernel": np.moveaxis(split(ih), 2, 0)}}
            own["recurrent_kernel"] = np.moveaxis(split(hh), 2, 0)
            if kind is GRU:
                bias[2] = split(b_ih)[2]
                own["candidate_bias"] = split(b_hh)[2]
            made[f"layer{layer}_{'backward' if end else 'forward'}"] = {**own, "bias": bias}
    return made


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_recurrent_encoder_computes_the_same_as_pytorch_on_packed_sequences(
    kind, directions, pooling
):
    name = f"{kind.type_name}_{directions}"
    arrays, tensors = stored(name)
    encoder = kind(
        vocab_size=20,
        context_length=7,
        width=6 * directions,
        word_width=5,
        depth=2,
        bidirectional=directions == 2,
        pooling=pooling,
    )
    encoded = applied(encoder, name, {"params": cells(kind, directions, tensors)})
    np.testing.assert_allclose(encoded.tokens, arrays["tokens"], atol=1e-6)
    mask = arrays["text_mask"]
    mean = arrays["tokens"].sum(1) / mask.sum(1, keepdims=True)
    np.testing.assert_allclose(
        encoded.pooled, mean if pooling == "mean" else arrays["last"], atol=1e-6
    )


def test_the_preset_gpt2_computes_the_same_as_in_transformers():
    arrays, tensors = stored("gpt2")
    sizes = {"width": 12, "depth": 2, "heads": 3, "mlp_dim": 48, "scan": False}
    encoder = presets.gpt2("B", vocab_size=20, context_length=7, **sizes)

    def norm(name):
        return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}

    def block(i):
        there = f"h.{i}"
        parts = zip(
            ("query", "key", "value"),
            np.split(tensors[f"{there}.attn.c_attn.weight"], 3, axis=1),
            np.split(tensors[f"{there}.attn.c_attn.bias"], 3),
            strict=True,
        )
        attention = {
            name: {"kernel": kernel.reshape(12, 3, 4), "bias": bias.reshape(3, 4)}
            for name, kernel, bias in parts
        }
        attention["output"] = {
            "kernel": tensors[f"{there}.attn.c_proj.weight"].reshape(3, 4, 12),
            "bias": tensors[f"{there}.attn.c_proj.bias"],
        }
        mlp = {
            ours: {
                "kernel": tensors[f"{there}.mlp.{theirs}.weight"],
                "bias": tensors[f"{there}.mlp.{theirs}.bias"],
            }
            for ours, theirs in (("up", "c_fc"), ("down", "c_proj"))
        }
        return {
            "attention_norm": norm(f"{there}.ln_1"),
            "attention": attention,
            "mlp_norm": norm(f"{there}.ln_2"),
            "mlp": mlp,
        }

    params = {
        "embedding": tensors["wte.weight"],
        "positions": tensors["wpe.weight"],
        "blocks": {str(i): block(i) for i in (0, 1)},
        "norm": norm("ln_f"),
    }
    encoded = applied(encoder, "gpt2", {"params": jax.tree.map(np.float32, params)})
    mask = arrays["text_mask"]
    np.testing.assert_allclose(encoded.tokens[mask], arrays["tokens"][mask], atol=2e-6)
    np.testing.assert_allclose(encoded.pooled, arrays["last"], atol=2e-6)


def test_the_preset_bert_has_the_form_that_is_compared_with_transformers():
    sizes = {"width": 384, "depth": 6, "heads": 12, "mlp_dim": 1536, "context_length": 32}
    tower = presets.bert("B", **sizes)
    assert {field: getattr(tower, field) for field in MINILM} == MINILM
    assert (tower.pooling, tower.causal) == ("first", False)
