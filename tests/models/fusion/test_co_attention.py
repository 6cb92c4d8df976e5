"""Two streams that attend to each other, against a float64 formula. LXMERT: tests/interop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from tests.models import reference
from tests.models.fusion.test_cross_attention import batch, made
from tests.models.tiny import float64, randomised, text, vit
from vljax.config import UserError, validate
from vljax.models.assembly import ModelConfig, Variables, build
from vljax.models.compute import Call, Compute
from vljax.models.fusion import CoAttention
from vljax.models.heads import Classifier
from vljax.models.node import Encoded
from vljax.models.parameters import leaves, roll

SIZES: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "mlp_dim": 64}
STREAMS = ("question", "image")


def config(**fusion: Any) -> ModelConfig:
    fields = {"streams": STREAMS, "scan": False, **SIZES, **fusion}
    return ModelConfig(
        {
            "image": vit(image_size=16, pooling="mean"),
            "question": text(pooling="mean"),
            "fusion": CoAttention(**fields),
            "answer": Classifier(stream="fusion.question", classes=5, hidden=16),
        }
    )


def streams() -> dict[str, Encoded]:
    """Random tokens of different lengths, with padding in both."""
    rng, made = np.random.default_rng(3), {}
    for name, length, lengths in (("question", 5, (5, 3, 4)), ("image", 7, (6, 7, 2))):
        tokens = rng.standard_normal((3, length, 32)).astype(np.float32)
        made[name] = Encoded(jnp.asarray(tokens), jnp.arange(length) < np.array(lengths)[:, None])
    return made


def formula(params: Any, inputs: dict[str, Encoded], fusion: CoAttention) -> dict[str, np.ndarray]:
    """The tokens of both streams after all blocks, with float64 parameters."""
    epsilon = fusion.norm_epsilon
    tokens = {name: np.asarray(stream.tokens, np.float64) for name, stream in inputs.items()}
    masks = {name: np.asarray(stream.mask) for name, stream in inputs.items()}
    other = dict(zip(STREAMS, STREAMS[::-1], strict=True))

    def branch(x: Any, norm: Any, compute: Any) -> Any:
        if fusion.post_norm:
            return reference.layer_norm(x + compute(x), norm, epsilon)
        return x + compute(reference.layer_norm(x, norm, epsilon))

    for i in range(fusion.depth):
        block, before = params["blocks"][str(i)], dict(tokens)
        for name in STREAMS:
            own = block[name]
            crossing = block if fusion.shared else own
            x, context, seen = tokens[name], before[other[name]], masks[other[name]]

            def cross(y: Any, at: Any = crossing, context: Any = context, seen: Any = seen) -> Any:
                return reference.attention(at["cross_attention"], y, context, seen, False)

            def attend(y: Any, own: Any = own, seen: Any = masks[name]) -> Any:
                return reference.attention(own["attention"], y, y, seen, False)

            def mlp(y: Any, own: Any = own) -> Any:
                return reference.mlp(own["mlp"], y, fusion.activation)

            branches = [
                (own["attention_norm"], attend),
                (crossing["cross_attention_norm"], cross),
            ]
            if fusion.cross_attention == "before_self":
                branches.reverse()
            for norm, compute in (*branches, (own["mlp_norm"], mlp)):
                x = branch(x, norm, compute)
            tokens[name] = x
    if fusion.post_norm:
        return tokens
    return {n: reference.layer_norm(x, params[f"{n}_norm"], epsilon) for n, x in tokens.items()}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"shared": True, "poolers": STREAMS},
        {
            "shared": True,
            "cross_attention": "before_self",
            "post_norm": True,
            "poolers": ("question",),
        },
        {"cross_attention": "before_self", "activation": "gelu", "norm_epsilon": 1e-3},
    ],
    ids=["vilbert", "shared", "lxmert", "before_self"],
)
def test_streams_are_those_of_the_formula(fields: dict[str, Any]) -> None:
    """Scanned and unrolled. Measured maximum of the absolute deviation: 3e-6, on values up to 5."""
    fusion = CoAttention(**{"streams": STREAMS, "pooling": "first", **SIZES, **fields})
    inputs = streams()
    module = fusion.module(Compute(), "fusion")
    boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, Call()))
    rolled = randomised(meta.unbox(boxed["params"]))
    params = float64(rolled)
    expected = formula(params, inputs, fusion)
    unrolled = CoAttention(
        **{"streams": STREAMS, "pooling": "first", **SIZES, **fields, "scan": False}
    )
    loose = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    for one, given in ((fusion, rolled), (unrolled, loose)):
        found = one.module(Compute(), "fusion").apply({"params": given}, inputs, Call())
        assert [*found] == ["fusion.question", "fusion.image"]
        for name in STREAMS:
            stream = found[f"fusion.{name}"]
            np.testing.assert_allclose(stream.tokens, expected[name], rtol=0, atol=2e-5)
            first = expected[name][:, 0]
            if name in fusion.poolers:
                linear = params[f"{name}_pooler"]
                first = np.tanh(first @ linear["kernel"] + linear["bias"])
            np.testing.assert_allclose(stream.pooled, first, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_several_texts_for_an_image_are_as_several_examples(shared: bool) -> None:
    """Dropout included: the rows of the texts are those of an expanded batch."""
    model, variables = made(config(shared=shared, dropout=0.2))
    together = batch(2, texts=3)
    apart = {
        "image": jnp.repeat(together["image"], 3, axis=0),
        "question": together["question"].reshape(6, 8),
        "question_mask": together["question_mask"].reshape(6, 8),
    }
    call = Call(train=True, key=jax.random.key(1))
    apply = jax.jit(lambda batch: model.apply(variables, batch, call)[0]["answer/logits"])
    np.testing.assert_allclose(apply(together), apply(apart), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_both_streams_depend_on_both_and_not_on_padding(shared: bool) -> None:
    model, variables = made(config(shared=shared))
    outputs = ("fusion.question/pooled", "fusion.image/pooled", "answer/logits")
    apply = jax.jit(lambda batch: [model.apply(variables, batch)[0][name] for name in outputs])
    first = batch(2)
    before = apply(first)
    assert [array.shape for array in before] == [(2, 32), (2, 32), (2, 5)]
    ids, mask = first["question"], first["question_mask"]
    hidden = apply({**first, "question": jnp.where(mask, ids, (ids + 1) % 10)})
    for one, other in zip(hidden, before, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)
    for name, change in (("image", 255 - first["image"]), ("question", (ids + 3) % 10)):
        for one, other in zip(apply({**first, name: change}), before, strict=True):
            assert np.abs(one - other).max() > 1e-3, name


def test_streams_have_blocks_of_their_own_and_share_only_cross_attention() -> None:
    for shared in (False, True):
        model, _ = made(config(shared=shared))
        keys = [keys for keys, _ in leaves(model.shapes.params["fusion"]) if "blocks" in keys]
        paths = {"/".join(path[2:4]) for path in keys}
        assert {f"{stream}/attention" for stream in STREAMS} <= paths
        assert ("cross_attention/query" in paths) == shared
        assert ("image/cross_attention" in paths) != shared


@pytest.mark.parametrize("shared", [False, True])
def test_rematerialised_blocks_have_the_same_gradient(shared: bool) -> None:
    """Also the shared attention, which belongs to two of them."""

    _, variables = made(config(shared=shared))

    def gradient(**fields: Any) -> Any:
        model = build(config(shared=shared, **fields), Compute())
        scanned = roll(variables.params["fusion"]) if fields.get("scan") else {}
        params = {**variables.params, **({"fusion": scanned} if scanned else {})}

        def loss(params: Any) -> Any:
            outputs, _ = model.apply(Variables(params, {}), batch(2))
            return jnp.sum(outputs["answer/logits"] ** 2)

        found = jax.jit(jax.grad(loss))(params)
        return {"/".join(keys): array for keys, array in leaves(roll(found))}

    plain = gradient()
    largest = max(float(jnp.max(jnp.abs(array))) for array in plain.values())
    for fields in ({"remat": "full"}, {"remat": "full", "scan": True}):
        other = gradient(**fields)
        assert other.keys() == plain.keys()
        for path, expected in plain.items():
            assert np.isfinite(expected).all(), path
            np.testing.assert_allclose(other[path], expected, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 64}, "nodes.fusion.streams: 'question' is 32 wide but width is 64"),
        ({"streams": ("qestion", "image")}, "nodes.fusion: reads 'qestion', which no node makes"),
        ({"streams": ("image",)}, "nodes.fusion.streams: names 1 streams"),
        ({"streams": ("image", "question", "x")}, "nodes.fusion.streams: names 3 streams; co-att"),
        ({"streams": ("image", "image")}, "nodes.fusion.streams: names 'image' twice"),
        ({"cross_attention": "none"}, "nodes.fusion.cross_attention: is what this fusion is for"),
        ({"cross_attention": "after_self", "cross_every": 2}, "nodes.fusion.cross_every: must be"),
        ({"poolers": ("text",)}, "nodes.fusion.poolers: 'text' is not one of streams"),
    ],
)
def test_a_fusion_that_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(config(**fields))
    assert message in str(error.value)
