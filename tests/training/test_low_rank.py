"""Low-rank adaptation (LoRA): factors beside frozen kernels."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vljax import config
from vljax.config import UserError
from vljax.models.assembly import Variables
from vljax.models.low_rank import (
    DOWN,
    UP,
    LowRank,
    adapted_kernels,
    merged,
    without_factors,
)
from vljax.models.parameters import leaves, merge, unroll
from vljax.optim import SGD, AdamW, Group
from vljax.optim.schedules import WarmupCosine
from vljax.run import Run, prepare
from vljax.training.step import make_step

PATTERNS = ("(image|text)/blocks/.*/(query|output|up)/kernel", "embedding/.*kernel")
LORA = LowRank(kernels=PATTERNS, rank=3, alpha=6)
PLAIN = SGD(momentum=0.0, clip_norm=None, schedule=WarmupCosine(2))
ONE = {"depth": 1}


def randomised(params):
    """Parameters whose factors all differ from zero."""
    rng = np.random.default_rng(7)

    def new(keys, node):
        return {
            name: new((*keys, name), child)
            if isinstance(child, dict)
            else jnp.asarray(rng.normal(0, 0.1, child.shape), jnp.float32)
            if name == UP
            else child
            for name, child in node.items()
        }

    return new((), params)


def tower(scan):
    return {"scan": True} if scan else ONE


@functools.cache
def adapted(scan=False):
    of = tiny.task(optimizer=PLAIN, low_rank=LORA, **tower(scan))
    first = tiny.state(of, **tower(scan))
    return of, first._replace(params=randomised(first.params))


def embeddings(of, params):
    return jax.jit(lambda p: of.model.apply(Variables(p, {}), tiny.batch())[0])(params)


@pytest.mark.parametrize("scan", [False, True])
def test_a_new_model_computes_what_it_did_without_factors(scan):
    """Bit for bit; and its other parameters begin with the same values."""
    plain, of = (tiny.task(low_rank=low_rank, **tower(scan)) for low_rank in (None, LORA))
    before, after = (tiny.state(each, **tower(scan)).params for each in (plain, of))
    jax.tree.map(np.testing.assert_array_equal, without_factors(after), before)
    outputs, expected = embeddings(of, after), embeddings(plain, before)
    assert outputs.keys() == expected.keys()
    jax.tree.map(np.testing.assert_array_equal, outputs, expected)
    drawn = [leaf for keys, leaf in leaves(after) if keys[-1] == DOWN]
    # A kernel of 16 inputs: a variance of 1 / 16.
    assert np.std(np.concatenate([np.ravel(x) for x in drawn])) == pytest.approx(0.25, rel=0.2)
    assert len({float(np.ravel(x)[0]) for x in drawn}) == len(drawn)


@pytest.mark.parametrize("scan", [False, True])
def test_merged_kernels_compute_the_same(scan):
    of, first = adapted(scan)
    plain = tiny.task(**tower(scan))
    changed, before = merged(first.params, LORA.scale), tiny.state(plain, **tower(scan)).params
    assert {keys for keys, _ in leaves(changed)} == {keys for keys, _ in leaves(before)}
    outputs, expected = embeddings(plain, changed), embeddings(of, first.params)
    unchanged = embeddings(plain, without_factors(first.params))
    for name in ("image/embedding", "text/embedding"):
        np.testing.assert_allclose(outputs[name], expected[name], atol=1e-6)
        assert np.max(np.abs(unchanged[name] - expected[name])) > 1e-2


def test_three_steps_follow_the_formula_of_merged_kernels():
    """In float64 from the gradients G of full kernels W + s D U: dD = s G U^T, dU = s D^T G.

    To 1e-5 of float32 gradients.
    """
    of, state = adapted()
    plain = tiny.task(optimizer=PLAIN, **ONE)
    step, first = jax.jit(make_step(of)), tiny.state(plain, **ONE)

    @jax.jit
    def gradient(params, batch):
        def loss(params):
            outputs, _ = plain.model.apply(Variables(params, {}), batch)
            pairs = jnp.exp(outputs["logit_scale"]) * outputs["image/embedding"]
            logits = pairs @ outputs["text/embedding"].T
            own = jnp.diag(logits)
            return jnp.mean(jax.nn.logsumexp(logits, 0) + jax.nn.logsumexp(logits, 1) - 2 * own) / 2

        return jax.grad(loss)(params)

    truth = {keys: np.float64(leaf) for keys, leaf in leaves(state.params)}
    start, s = dict(truth), LORA.alpha / LORA.rank
    kernels = [keys[:-1] for keys in truth if keys[-1] == DOWN]
    assert len(kernels) == 2 * 3 + 2

    def matrices(node):
        down, up = (truth[*node, name] for name in (DOWN, UP))
        return down.reshape(-1, LORA.rank), up.reshape(LORA.rank, -1)

    for k in range(3):
        full = dict(leaves(first.params))
        for node in kernels:
            down, up = matrices(node)
            kernel = start[*node, "kernel"]
            full[*node, "kernel"] = np.float32(kernel + s * (down @ up).reshape(kernel.shape))
        state, metrics = step(state, tiny.batch(k), tiny.hyper(0.5, 0.0))
        found = dict(leaves(gradient(nested(full), tiny.batch(k))))
        rate, squares = float(metrics["learning_rate"]), 0.0
        for node in kernels:
            down, up = matrices(node)
            of_kernel = np.float64(found[*node, "kernel"]).reshape(len(down), -1)
            for name, slope in ((DOWN, s * of_kernel @ up.T), (UP, s * down.T @ of_kernel)):
                squares += np.sum(slope**2)
                old = truth[*node, name]
                truth[*node, name] = old - rate * slope.reshape(old.shape)
        assert metrics["gradient_norm"] == pytest.approx(np.sqrt(squares), rel=1e-4)
    assert float(metrics["learning_rate"]) > 0.4
    for keys, value in leaves(state.params):
        np.testing.assert_allclose(value, truth[keys], atol=1e-5, rtol=0, err_msg=str(keys))
        if keys[-1] in (DOWN, UP):
            assert np.max(np.abs(value - start[keys])) > 1e-4
        else:
            np.testing.assert_array_equal(value, np.float32(start[keys]))


def nested(flat):
    tree = {}
    for keys, leaf in flat.items():
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = leaf
    return tree


def test_only_factors_have_optimizer_state_and_an_average():
    optimizer = AdamW(weight_decay=0.1, ema_decay=0.5)
    of = tiny.task(optimizer=optimizer, low_rank=LORA, **ONE)
    first = tiny.state(of, **ONE)
    (moments,) = (part for part in first.optimizer["0"] if hasattr(part, "mu"))
    for tree in (moments.mu, first.average):
        assert {keys[-1] for keys, _ in leaves(tree)} == {DOWN, UP}
    decayed = dataclasses.replace(LORA, also_train=("image/.*norm/scale", "logit_scale"))
    more = tiny.task(optimizer=optimizer, low_rank=decayed, **ONE)
    paths = {"/".join(keys) for keys, _ in leaves(tiny.state(more, **ONE).average)}
    assert {p for p in paths if not p.endswith((DOWN, UP))} == {
        *("image/blocks/0/attention_norm/scale", "image/blocks/0/mlp_norm/scale"),
        *("image/norm/scale", "logit_scale"),
    }


def test_no_gradient_of_a_frozen_kernel_is_computed():
    every = LowRank(kernels=("(image|text)/blocks/.*/kernel",), rank=1)
    wide = {"width": 128, "mlp_dim": 512, "scan": True}
    flops = []
    for low_rank in (None, every):
        of = tiny.task(low_rank=low_rank, **wide)
        flops.append(tiny.compiled(of, tiny.state(of, **wide)).cost_analysis()["flops"])
    # Of the three products of a linear map, that for the kernel's gradient is left out.
    assert flops[1] < 0.8 * flops[0]


def test_groups_parts_and_dropout_train_as_the_whole():
    """To 1e-5: in two parts the sums have another order."""
    optimizer = AdamW(clip_norm=None, epsilon=1e-3, ema_decay=0.9, schedule=WarmupCosine(2))
    groups = {"image": Group(parameters=".*image/.*"), "text": Group(parameters=".*text/.*")}
    ends = []
    for fields in ({}, {"groups": groups, "accumulate": 2}):
        of = tiny.task(optimizer=optimizer, low_rank=LORA, dropout=0.2, **ONE, **fields)
        state, step = tiny.state(of, **ONE), jax.jit(make_step(of))
        for k in range(3):
            state, _ = step(state, tiny.batch(k), tiny.hyper())
        ends.append(merge(state.params, state.average))
    assert tiny.distance(*ends) < 1e-5
    moved = [
        np.max(np.abs(a - b))
        for a, b in zip(*map(jax.tree.leaves, (ends[0], tiny.state(of, **ONE).params)), strict=True)
    ]
    assert max(moved) > 1e-3


def test_a_rule_gives_one_factor_a_higher_rate_and_decay_acts_on_both():
    """LoRA+ (Hayou et al. 2024): 16 times the learning rate for `up_kernel`."""
    rules = ((".*/up_kernel", 16.0), (".*", 1.0))
    steps = []
    for rate_rules in (rules[1:], rules):
        of = tiny.task(
            optimizer=dataclasses.replace(PLAIN, rate_rules=rate_rules), low_rank=LORA, **ONE
        )
        first = adapted()[1]
        after, metrics = jax.jit(make_step(of))(first, tiny.batch(), tiny.hyper(0.1, 0.0))
        steps.append({k: v - dict(leaves(first.params))[k] for k, v in leaves(after.params)})
    for keys, moved in steps[0].items():
        factor = 16 if keys[-1] == UP else 1
        np.testing.assert_allclose(steps[1][keys], factor * moved, atol=2e-6)
    of, first = adapted()
    decayed, _ = jax.jit(make_step(of))(first, tiny.batch(), tiny.hyper(0.1, 0.5))
    rate = float(metrics["learning_rate"])
    for keys, value in leaves(decayed.params):
        if keys[-1] in (DOWN, UP):
            before = dict(leaves(first.params))[keys]
            expected = before + steps[0][keys] - rate * 0.5 * before
            np.testing.assert_allclose(value, expected, atol=2e-6)


def test_scanned_factors_are_those_of_the_layers():
    params = adapted(scan=True)[1].params
    apart = unroll(params)
    assert apart["image"]["blocks"]["1"]["mlp"]["up"][DOWN].shape == (16, 3)
    whole, layers = merged(params, 2.0), merged(apart, 2.0)
    for keys, leaf in leaves(unroll(whole)):
        np.testing.assert_allclose(leaf, dict(leaves(layers))[keys], atol=1e-6, err_msg=str(keys))


# --- In a recipe ----------------------------------------------------------------------------------


@functools.cache
def quickstart():
    return config.load("configs/quickstart.py:tiny", Run)


QUERY = {"kernels": (".*/query/kernel",)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kernels": ("imge/blocks/.*/query/kernel",)},
            "low_rank.kernels: 'imge/blocks/.*/query/kernel' matches no parameter; the nearest is"
            " 'image/blocks/1/attention/query/kernel'",
        ),
        (
            {"kernels": ("image/.*",)},
            "low_rank.kernels: 'image/.*' matches image/blocks/0/attention/key/bias, which is not"
            " the kernel of a linear map; only kernels of linear maps can have low-rank factors,"
            " as in 'image/blocks/.*/kernel'",
        ),
        (
            {"kernels": ("image/patch_embedding",)},
            "low_rank.kernels: 'image/patch_embedding' matches image/patch_embedding, which is a"
            " convolution, not a linear map; only",
        ),
        ({"kernels": ("(",)}, "low_rank.kernels: '(' is not a regular expression: "),
        ({**QUERY, "rank": 0}, "low_rank.rank: must be at least 1, not 0"),
        ({**QUERY, "alpha": 0.0}, "low_rank.alpha: must be positive, or None for the rank, not 0"),
        (
            {"rank": 4},
            "low_rank.rank: is 4, and does nothing without factors; set low_rank.kernels",
        ),
        (
            {**QUERY, "also_train": ("imge/norm/.*",)},
            "low_rank.also_train: 'imge/norm/.*' matches no parameter; the nearest is 'image/norm",
        ),
        (
            {**QUERY, "also_train": ("image/.*",)},
            "low_rank.also_train: 'image/.*' matches image/blocks/0/attention/query/kernel, which"
            " is frozen: it has factors; leave it out of one of",
        ),
    ],
)
def test_bad_fields_are_named(fields, message):
    run = dataclasses.replace(quickstart(), low_rank=LowRank(**fields))
    with pytest.raises(UserError) as error:
        prepare(run, jax.devices()[:1])
    (line,) = error.value.lines
    assert line.startswith(message)


def test_what_is_trained_beside_the_factors_may_not_be_frozen():
    run = quickstart()
    run = dataclasses.replace(
        run,
        low_rank=LowRank(**QUERY, also_train=("image/.*norm/scale",)),
        optim=dataclasses.replace(run.optim, frozen=("image/norm/.*",)),
    )
    with pytest.raises(UserError) as error:
        prepare(run, jax.devices()[:1])
    assert error.value.lines == (
        "low_rank.also_train: 'image/.*norm/scale' matches image/norm/scale, which 'image/norm/.*'"
        " of optim.frozen freezes; leave it out of one of them",
    )


@pytest.mark.parametrize("field", ["kernels", "also_train"])
def test_some_layers_of_a_scanned_stack_are_refused(field):
    first = "image/blocks/0/mlp/up/kernel"
    low_rank = LowRank(**{**QUERY, field: (first,)})
    message = f"low_rank.{field}: '{first}' takes only some layers of image/blocks/mlp/up/kernel"
    with pytest.raises(UserError, match=message):
        tiny.state(tiny.task(low_rank=low_rank, scan=True), scan=True)


def test_a_group_without_a_trained_parameter_is_refused():
    groups = {"image": Group(parameters="image/.*"), "rest": Group(parameters="(?!image/).*")}
    low_rank = LowRank(kernels=("image/blocks/.*/query/kernel",))
    run = dataclasses.replace(quickstart(), low_rank=low_rank, groups=groups)
    with pytest.raises(UserError, match=r"^groups\.rest\.parameters: nothing is left to train b"):
        prepare(run, jax.devices()[:1])


def test_the_kernel_of_a_convolution_is_refused():
    axes = {"stem": {"kernel": ("patch", "patch", "conv_in", "conv_out")}}
    shapes = {"stem": {"kernel": jax.ShapeDtypeStruct((3, 3, 8, 16), np.float32)}}
    with pytest.raises(
        UserError, match="'stem/kernel' matches stem/kernel, which is a convolution"
    ):
        adapted_kernels(LowRank(kernels=("stem/kernel",)), shapes, axes)
