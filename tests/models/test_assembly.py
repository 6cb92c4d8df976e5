from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.models.tiny import images, randomised, text, token_ids, vit
from vljax.config import UserError, validate
from vljax.models.assembly import (
    EVALUATE,
    Model,
    ModelConfig,
    Variables,
    build,
    example_batch,
)
from vljax.models.compute import Call, Compute
from vljax.models.heads.embedding import Embedding
from vljax.models.node import Encoded, Encoder, Node, graph_problems, plan
from vljax.models.parameters import leaves, unroll

Tree = dict[str, Any]

# Of every axis that a parameter or an activation may have.
VOCABULARY = {
    *("batch", "length", "embed", "mlp", "heads", "head_dim", "vocab", "layers", "patch"),
    *("conv_in", "conv_out", "classes", "positions", "rank", "none"),
}
SCALARS = {"logit_scale": 2.5, "logit_bias": -10.0}
IMAGE_ONLY: Any = {"image": "linear"}
LAYOUTS = pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])


def two_towers(*, scan: bool = True) -> ModelConfig:
    """All that makes parameters: CLS, registers, attention pooling, norms, biases, projections."""
    image = vit(pooling="cls", registers=2, input_norm=True, scan=scan)
    return ModelConfig(
        {
            "image": image,
            "text": text(pooling="map", scan=scan),
            "head": Embedding(16, {"image": "linear", "text": "affine"}),
        }
    )


@functools.cache
def model(scan: bool = True) -> Model:
    return build(two_towers(scan=scan), Compute(), SCALARS)


@functools.cache
def shapes(scan: bool = True) -> Variables:
    return model(scan).shapes


def batch() -> Tree:
    mask = np.arange(8) < np.array([8, 3])[:, None]
    return {"image": images(2, 16, 16), "text": token_ids(2, 8), "text_mask": mask}


@functools.cache
def forward(*names: str) -> Tree:
    """The outputs for those entries of the batch."""
    run = jax.jit(lambda *args: model().apply(*args))
    variables = Variables(jax.tree.map(jnp.asarray, randomised(shapes().params)), {})
    outputs, state = run(variables, {name: batch()[name] for name in names})
    assert state == {}
    return jax.device_get(outputs)


IMAGE = {"image/tokens", "image/mask", "image/pooled", "image/positions", "image/embedding"}
TEXT = {"text/tokens", "text/mask", "text/pooled", "text/embedding"}


def test_outputs_hold_every_intermediate_by_name() -> None:
    outputs = forward("image", "text", "text_mask")
    assert set(outputs) == IMAGE | TEXT | set(SCALARS)
    assert {name: value.shape for name, value in outputs.items()} == {
        "image/tokens": (2, 19, 32),  # 16 patches, CLS, two registers
        "image/mask": (2, 19),
        "image/pooled": (2, 32),
        "image/positions": (2, 19, 2),
        "image/embedding": (2, 16),
        "text/tokens": (2, 8, 32),
        "text/mask": (2, 8),
        "text/pooled": (2, 32),
        "text/embedding": (2, 16),
        "logit_scale": (),
        "logit_bias": (),
    }


def test_a_modality_that_the_batch_lacks_is_not_computed() -> None:
    assert set(forward("image")) == IMAGE | set(SCALARS)
    assert set(forward("text", "text_mask")) == TEXT | set(SCALARS)
    # Not even its parameters are needed.
    params = shapes().params
    params = {k: v for k, v in params.items() if k != "image"}
    params["head"] = {"text": params["head"]["text"]}
    only_text = {name: batch()[name] for name in ("text", "text_mask")}
    apply = model().apply
    outputs, _ = jax.eval_shape(
        lambda params, batch: apply(Variables(params, {}), batch), params, only_text
    )
    assert set(outputs) == TEXT | set(SCALARS)


def test_modalities_do_not_touch_each_other() -> None:
    both = forward("image", "text", "text_mask")
    for alone in (forward("image"), forward("text", "text_mask")):
        for name, value in alone.items():
            np.testing.assert_allclose(both[name], value, rtol=0, atol=5e-6, err_msg=name)


def test_the_mask_of_the_batch_reaches_its_encoder() -> None:
    assert np.array_equal(forward("text", "text_mask")["text/mask"], batch()["text_mask"])
    masked, bare = forward("text", "text_mask"), forward("text")
    assert bare["text/mask"].all()
    difference = np.abs(masked["text/embedding"] - bare["text/embedding"]).max(axis=-1)
    assert difference[0] < 1e-6  # this text has no padding
    assert difference[1] > 1e-2


def test_scalars_are_parameters_and_outputs() -> None:
    key = jax.random.key(0)
    config = ModelConfig({"text": text()})
    built = build(config, Compute(), SCALARS)
    variables = jax.jit(built.init)(key, {"text": jnp.asarray(token_ids(1, 8))})
    assert {name: float(variables.params[name]) for name in SCALARS} == SCALARS
    assert all(variables.params[name].dtype == jnp.float32 for name in SCALARS)
    assert all(built.axes[name] == () for name in SCALARS)
    assert forward("image")["logit_scale"] == randomised(shapes().params)["logit_scale"]


def test_init_depends_on_the_key_alone() -> None:
    config = ModelConfig({"text": text(depth=1)})
    init = jax.jit(build(config, Compute()).init)
    ids = jnp.asarray(token_ids(1, 8))
    first, again = (init(jax.random.key(0), {"text": ids + i}).params for i in range(2))
    other = init(jax.random.key(1), {"text": ids}).params
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not np.array_equal(first["text"]["embedding"], other["text"]["embedding"])


def test_shapes_are_those_of_init() -> None:
    config = ModelConfig({"text": text(depth=1), "head": Embedding(4, {"text": "linear"})})
    built = build(config, Compute())
    ids = jnp.asarray(token_ids(3, 5))
    made = jax.eval_shape(built.init, jax.random.key(0), {"text": ids})
    assert made == built.shapes
    assert made.state == {}


def test_example_batch_is_what_the_encoders_read() -> None:
    specs = {k: (v.shape, v.dtype.name) for k, v in example_batch(two_towers(), 3).items()}
    assert specs == {
        "image": ((3, 16, 16, 3), "uint8"),
        "text": ((3, 8), "int32"),
        "text_mask": ((3, 8), "bool"),
    }


# --- Axes -----------------------------------------------------------------------------------------


@LAYOUTS
def test_axes_mirror_the_parameters(scan: bool) -> None:
    params, axes = dict(leaves(shapes(scan).params)), dict(leaves(model(scan).axes))
    assert set(axes) == set(params)
    for keys, names in axes.items():
        assert isinstance(names, tuple)
        assert len(names) == params[keys].ndim, keys
        assert set(names) <= VOCABULARY, keys
        assert (names[:1] == ("layers",)) == (scan and "blocks" in keys), keys


def test_axes_of_a_block() -> None:
    inward, outward = ("embed", "heads", "head_dim"), ("heads", "head_dim", "embed")
    norm = {"scale": ("embed",), "bias": ("embed",)}
    expected = {
        "attention_norm": norm,
        "attention": {
            **{name: {"kernel": inward, "bias": inward[1:]} for name in ("query", "key", "value")},
            "output": {"kernel": outward, "bias": ("embed",)},
        },
        "mlp_norm": norm,
        "mlp": {
            "up": {"kernel": ("embed", "mlp"), "bias": ("mlp",)},
            "down": {"kernel": ("mlp", "embed"), "bias": ("embed",)},
        },
    }
    assert model(scan=False).axes["text"]["blocks"]["1"] == expected
    stacked = jax.tree.map(
        lambda names: ("layers", *names), expected, is_leaf=lambda x: isinstance(x, tuple)
    )
    assert model(scan=True).axes["text"]["blocks"] == stacked


def test_scanned_and_unrolled_models_have_the_same_parameters() -> None:
    stacked, single = shapes(scan=True).params, shapes(scan=False).params
    unrolled = jax.eval_shape(unroll, stacked)
    assert unrolled == single


class Nameless(nn.Module):
    """An encoder whose author forgot the names."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, call: Call = EVALUATE) -> Encoded:
        x = x + self.param("offset", nn.initializers.zeros, (1,))
        return Encoded(x, jnp.ones(x.shape[:2], bool), x[:, 0])


class NamelessEncoder(Encoder):
    def module(self, compute: Compute, name: str) -> nn.Module:
        return Nameless(name=name)

    def roles(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"inputs": jax.ShapeDtypeStruct((batch_size, 2, 4), jnp.float32)}


def test_a_parameter_without_names_is_refused() -> None:
    with pytest.raises(TypeError, match="without logical axis names"):
        _ = build(ModelConfig({"x": NamelessEncoder()}), Compute()).axes


@LAYOUTS
def test_activations_are_placed_by_as_many_names_as_they_have_axes(scan: bool) -> None:
    seen: set[tuple[str, ...]] = set()

    def constrain(x: jax.Array, names: tuple[str, ...]) -> jax.Array:
        assert len(names) == x.ndim
        assert set(names) <= VOCABULARY
        seen.add(names)
        return x

    config = two_towers(scan=scan)
    _ = build(config, Compute(constrain=constrain)).shapes
    assert seen == {
        ("vocab", "embed"),
        ("batch", "length", "embed"),
        ("batch", "length", "mlp"),
        ("batch", "length", "heads", "head_dim"),
    }


def test_dropout_needs_its_key_only_in_training() -> None:
    config = ModelConfig({"text": text(dropout=0.5)})
    built = build(config, Compute())
    variables = Variables(randomised(built.shapes.params), {})
    entries = {"text": jnp.asarray(token_ids(2, 8))}

    @functools.partial(jax.jit, static_argnames="train")
    def tokens(key: jax.Array | None, train: bool) -> jax.Array:
        return built.apply(variables, entries, Call(train, key=key))[0]["text/tokens"]

    first, again, other = (tokens(jax.random.key(i), train=True) for i in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-2)
    assert np.isfinite(tokens(None, train=False)).all()
    with pytest.raises(Exception, match='needs PRNG for "dropout"'):
        tokens(None, train=True)


# --- A part of the model --------------------------------------------------------------------------


def test_only_what_is_wanted_is_computed() -> None:
    variables = Variables(jax.tree.map(jnp.asarray, randomised(shapes().params)), {})
    entries = {name: jnp.asarray(array) for name, array in batch().items()}
    outputs, _ = model().apply(variables, entries, want=["text/embedding"])
    assert set(outputs) == TEXT | set(SCALARS)
    truth = forward("text", "text_mask")["text/embedding"]
    np.testing.assert_allclose(outputs["text/embedding"], truth, rtol=0, atol=1e-6)
    outputs, _ = model().apply(variables, entries, want=["image/tokens"])
    assert set(outputs) == (IMAGE - {"image/embedding"}) | set(SCALARS)


def test_given_outputs_take_the_place_of_computed_ones() -> None:
    """Tokens suffice in place of an image, a pooled vector in place of tokens."""
    variables, whole = Variables(randomised(shapes().params), {}), forward("image")
    given = {"image/pooled": jnp.asarray(whole["image/pooled"])}
    outputs, _ = model().apply(variables, {}, given=given, want=["image/embedding"])
    np.testing.assert_allclose(
        outputs["image/embedding"], whole["image/embedding"], rtol=0, atol=1e-6
    )
    assert set(outputs) == {"image/pooled", "image/embedding", *SCALARS}


@pytest.mark.parametrize(
    ("want", "message"),
    [
        ("image/embeding", "no node makes 'image/embeding'; did you mean 'image/embedding'?"),
        ("text/embedding", "'text/embedding' needs the batch entry 'text', which is not there"),
    ],
)
def test_an_output_that_cannot_be_computed_is_named(want: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(
            lambda v: model().apply(v, {"image": jnp.asarray(batch()["image"])}, want=[want])[0],
            shapes(),
        )


def test_two_nodes_may_read_one_entry() -> None:
    """Each has parameters of its own."""
    config = ModelConfig({"image": vit(), "teacher": vit(entry="image")})
    built = build(config, Compute())
    assert example_batch(config).keys() == {"image"}
    entries = {"image": jnp.asarray(images(2, 16, 16))}
    variables = jax.jit(built.init)(jax.random.key(0), entries)
    outputs, _ = built.apply(variables, entries)
    assert not np.allclose(outputs["image/pooled"], outputs["teacher/pooled"], atol=1e-2)


class Chain(Node, name="test_chain"):
    """Adds the streams that it reads."""

    def __init__(self, *reads: str) -> None:
        self.reads = reads

    def module(self, compute: Compute, name: str) -> nn.Module:
        raise NotImplementedError

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {name: self.reads}


def test_nodes_run_after_those_that_they_read() -> None:
    nodes: dict[str, Node] = {"c": Chain("b", "a"), "b": Chain("a"), "a": Chain(), "d": Chain("c")}
    assert [visit.node for visit in plan(nodes, [])] == ["a", "b", "c", "d"]
    assert [visit.node for visit in plan(nodes, [], want=["b/tokens"])] == ["a", "b"]
    assert [visit.node for visit in plan(nodes, [], ["b/tokens"], ["c/tokens"])] == ["a", "c"]


def test_a_cycle_is_named() -> None:
    nodes: dict[str, Node] = {"a": Chain("b"), "b": Chain("c"), "c": Chain("b")}
    (problem,) = graph_problems(nodes)
    assert problem == ("b", "reads its own output: b <- c <- b; read another stream")


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            {"image": vit(), "head": Embedding(8, {"image": "linear", "imge": "linear"})},
            "nodes.head: reads 'imge', which no node makes; did you mean 'image'?",
        ),
        (
            {"image": vit(), "one": Embedding(8, IMAGE_ONLY), "two": Embedding(8, IMAGE_ONLY)},
            "nodes.two: makes 'image/embedding', as 'one' does; rename one of them",
        ),
        (
            {"image": vit(), "head": Embedding(8, {"image": "none"})},
            "nodes.head.projections: 'image' is 32 wide but dim is 8; "
            "use linear or affine, or equal sizes",
        ),
        (
            {"image": vit(heads=5)},
            "nodes.image.heads: 5 heads do not divide the width 32; 4 would",
        ),
        ({"head": Embedding(0, {})}, "nodes.head.dim: must be at least 1, not 0"),
        ({"my image": vit()}, "nodes: 'my image' is not a name; use letters, digits and _"),
        (
            {"image": vit(), "other": vit(entry="image", image_size=32)},
            "nodes.other: reads 'image' in the shape (32, 32, 3), and 'image' in (16, 16, 3); "
            "make them equal",
        ),
    ],
)
def test_a_model_that_does_not_fit_together_is_refused(
    nodes: dict[str, Node], message: str
) -> None:
    with pytest.raises(UserError) as error:
        validate(ModelConfig(nodes))
    assert str(error.value) == message


def test_a_model_that_fits_is_valid() -> None:
    config = two_towers()
    assert validate(config) == config
    equal = ModelConfig({"image": vit(), "head": Embedding(32, {"image": "none"})})
    assert validate(equal) == equal
