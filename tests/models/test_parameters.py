from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.config import UserError
from vljax.models import parameters

Tree = dict[str, Any]

rng = np.random.default_rng(0)


def block(*stack: int) -> Tree:
    return {
        "attention": {"query": {"kernel": rng.standard_normal((*stack, 4, 2, 3), np.float32)}},
        "norm": {"scale": rng.standard_normal((*stack, 4), np.float32)},
    }


def scanned() -> Tree:
    """Two stacks of different depth, one of them nested, beside other parameters."""
    return {
        "image": {"positions": np.ones((9, 4), np.float32), "blocks": block(12)},
        "text": {"inner": {"blocks": block(3)}, "norm": {"scale": np.ones(4, np.float32)}},
        "logit_scale": np.float32(2.0),
    }


def bitwise_equal(a: Tree, b: Tree) -> bool:
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


# --- Both layouts ---------------------------------------------------------------------------------


def test_unrolling_slices_and_rolling_stacks_bitwise() -> None:
    params = scanned()
    params["image"]["blocks"]["norm"]["scale"][2, :3] = [np.nan, -0.0, np.float32(1e-42)]
    unrolled = parameters.unroll(params)
    assert list(unrolled["image"]["blocks"]) == [str(i) for i in range(12)]
    for i in range(12):  # and not in the order 0, 1, 10, 11, 2, ...
        kernel = unrolled["image"]["blocks"][str(i)]["attention"]["query"]["kernel"]
        assert np.array_equal(kernel, params["image"]["blocks"]["attention"]["query"]["kernel"][i])
    assert set(unrolled["text"]["inner"]["blocks"]) == {"0", "1", "2"}
    assert bitwise_equal(parameters.roll(unrolled), params)
    assert bitwise_equal(parameters.unroll(parameters.roll(unrolled)), unrolled)


def test_rolling_puts_the_tenth_block_after_the_ninth() -> None:
    blocks = {str(i): {"scale": np.full(2, i, np.float32)} for i in sorted(range(12), key=str)}
    rolled = parameters.roll({"blocks": blocks})["blocks"]["scale"]
    assert np.array_equal(rolled[:, 0], np.arange(12))


@pytest.mark.parametrize("convert", [parameters.roll, parameters.unroll])
def test_what_is_in_that_layout_already_stays(convert: Any) -> None:
    once = convert(scanned())
    assert bitwise_equal(convert(once), once)


def test_leaves_come_with_their_keys() -> None:
    keys = [keys for keys, _ in parameters.leaves(scanned())]
    assert keys == [
        ("image", "positions"),
        ("image", "blocks", "attention", "query", "kernel"),
        ("image", "blocks", "norm", "scale"),
        ("text", "inner", "blocks", "attention", "query", "kernel"),
        ("text", "inner", "blocks", "norm", "scale"),
        ("text", "norm", "scale"),
        ("logit_scale",),
    ]


def test_canonical_paths_are_unrolled_ones() -> None:
    keys = ("text", "blocks", "mlp", "kernel")
    expected = ["text/blocks/0/mlp/kernel", "text/blocks/1/mlp/kernel"]
    assert parameters.canonical_paths(keys, (2, 4, 4)) == expected
    unrolled = ("text", "blocks", "1", "mlp", "kernel")
    assert parameters.canonical_paths(unrolled, (4, 4)) == expected[1:]
    assert parameters.canonical_paths(("logit_scale",), ()) == ["logit_scale"]


# --- Patterns -------------------------------------------------------------------------------------


def test_the_first_match_wins() -> None:
    rules = [("image/p.*", 1), ("image/.*", 2), (".*", 3)]
    matched = parameters.match(rules, scanned(), "field")
    assert matched[("image", "positions")] == [1]
    assert matched[("image", "blocks", "norm", "scale")] == [2] * 12
    assert matched[("logit_scale",)] == [3]


@pytest.mark.parametrize(
    ("rules", "hidden", "before"),
    [
        ([(".*", 0), (".*kernel", 1)], ".*kernel", ".*"),
        ([("image/.*", 1), ("image/positions", 2), (".*", 3)], "image/positions", "image/.*"),
        ([(".*scale", 1), (".*scale", 2), (".*", 3)], ".*scale", ".*scale"),
        ([(".*", 0), (".*", 1), (".*", 2)], ".*", ".*"),
        # Two rules hide it together; the one named comes before it and takes some of it.
        ([("image/.*", 1), ("text/.*", 2), (".*kernel", 3), (".*", 4)], ".*kernel", "text/.*"),
    ],
)
def test_a_rule_that_is_never_first_is_an_error(
    rules: list[tuple[str, int]], hidden: str, before: str
) -> None:
    message = f"field: {hidden!r} is never reached: {before!r} comes before it"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        parameters.match(rules, scanned(), "field")


def test_a_last_rule_for_the_rest_may_find_nothing_left() -> None:
    rules = [("image/.*", 1), ("text/.*|logit_scale", 2), (".*", 3)]
    matched = parameters.match(rules, scanned(), "field")
    assert {value for values in matched.values() for value in values} == {1, 2}
    params = scanned()
    assert bitwise_equal(parameters.select(".*", params), params)


def test_a_pattern_matches_the_whole_path() -> None:
    """`scale` is no match of `logit_scale`, nor `image` of what is below it."""
    for pattern in ("scale", "image", "logit"):
        with pytest.raises(UserError, match=f"^field: '{pattern}' matches no parameter"):
            parameters.match([(pattern, 1), (".*", 2)], scanned(), "field")


RULES = [
    (r"image/blocks/(0|1|11)/.*", 0.5),
    (r".*/blocks/2/norm/scale", 0.25),
    (r".*/blocks/\d+/.*", 1.0),
    (r".*", 2.0),
]


def test_layers_of_a_stack_get_what_they_get_unrolled() -> None:
    params = scanned()
    stacked = parameters.match(RULES, params, "field")
    single = parameters.match(RULES, parameters.unroll(params), "field")
    by_path = {"/".join(keys): value for keys, (value,) in single.items()}
    for keys, leaf in parameters.leaves(params):
        paths = parameters.canonical_paths(keys, np.shape(leaf))
        assert stacked[keys] == [by_path[path] for path in paths]
    norm = stacked[("image", "blocks", "norm", "scale")]
    assert norm == [0.5, 0.5, 0.25, *[1.0] * 8, 0.5]


def test_match_takes_shapes_for_arrays() -> None:
    params = scanned()
    shapes = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, params))
    assert parameters.match(RULES, shapes, "field") == parameters.match(RULES, params, "field")


def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest_path() -> None:
    with pytest.raises(UserError) as error:
        parameters.match([("imgae/positions", 0), (".*", 1)], scanned(), "optim.freeze")
    assert str(error.value) == (
        "optim.freeze: 'imgae/positions' matches no parameter; the nearest is 'image/positions'"
    )


def test_the_error_stays_short_with_many_parameters() -> None:
    with pytest.raises(UserError, match="matches no parameter; the nearest is ") as error:
        parameters.match([("nothing at all", 0), (".*", 1)], scanned(), "field")
    assert len(str(error.value)) < 150


def test_a_parameter_that_no_pattern_covers_is_an_error() -> None:
    message = "field: no pattern covers 'image/blocks/1/norm/scale'; end with a rule for '.*'"
    rules = [(r"image/blocks/(?!1/norm).*", 1), ("image/positions", 1), ("text/.*|logit.*", 1)]
    for params in (scanned(), parameters.unroll(scanned())):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            parameters.match(rules, params, "field")


def test_an_invalid_pattern_is_an_error() -> None:
    with pytest.raises(
        UserError, match=r"^field: '\(image' is not a regular expression: missing \)"
    ):
        parameters.match([("(image", 1)], scanned(), "field")


def test_factors_scale_each_layer_by_its_own() -> None:
    params = scanned()
    single = parameters.factors(RULES, parameters.unroll(params), "field")
    stacked = parameters.factors(RULES, params, "field")
    multiply = lambda tree, factors: jax.tree.map(lambda x, f: jnp.asarray(x) * f, tree, factors)  # noqa: E731
    product = multiply(params, stacked)
    assert jax.tree.map(np.shape, product) == jax.tree.map(np.shape, params)
    assert bitwise_equal(parameters.unroll(product), multiply(parameters.unroll(params), single))


def test_factors_of_one_value_are_scalars() -> None:
    """So that a rule without layers costs no array in the step."""
    assert all(f == 3.0 for f in jax.tree.leaves(parameters.factors([(".*", 3.0)], scanned(), "f")))


# --- Parts ----------------------------------------------------------------------------------------


def test_select_takes_a_part_and_merge_puts_it_back() -> None:
    params = scanned()
    part = parameters.select("text/.*", params)
    assert bitwise_equal(part, {"text": params["text"]})
    doubled = parameters.merge(params, jax.tree.map(lambda x: 2 * x, part))
    expected = params | {"text": jax.tree.map(lambda x: 2 * x, params["text"])}
    assert bitwise_equal(doubled, expected)


def test_select_of_single_layers() -> None:
    unrolled = parameters.unroll(scanned())
    part = parameters.select("image/blocks/3/.*", unrolled)
    assert bitwise_equal(part, {"image": {"blocks": {"3": unrolled["image"]["blocks"]["3"]}}})
    with pytest.raises(UserError, match=r"takes only some layers of image/blocks/.*; unset scan$"):
        parameters.select("image/blocks/3/.*", scanned())


def test_select_of_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^trains: 'txet/' matches no parameter"):
        parameters.select("txet/", scanned())


# --- Filled ---------------------------------------------------------------------------------------


def test_filled_stacks_the_layers_of_scanned_blocks() -> None:
    params = scanned()
    layers = dict(parameters.leaves(parameters.unroll(params)))
    read = lambda path, leaf: layers[tuple(path.split("/"))]  # noqa: E731
    assert bitwise_equal(parameters.filled(params, read), params)
    assert parameters.filled(params, lambda path, leaf: None) == {}


def test_filled_keeps_the_widest_type_of_the_layers() -> None:
    shapes = {"blocks": {"scale": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}
    layers = {0: np.ones(3, jnp.bfloat16), 1: np.full(3, 1 + 2**-20, np.float32)}
    made = parameters.filled(shapes, lambda path, leaf: layers[int(path.split("/")[1])])
    wanted = np.stack([layers[0].astype(np.float32), layers[1]])
    np.testing.assert_array_equal(made["blocks"]["scale"], wanted, strict=True)


def test_jax_takes_over_filled_stacks_without_a_copy() -> None:
    """On CPU. It copies memory that is not aligned."""
    shapes = {"blocks": {"scale": jax.ShapeDtypeStruct((2, 300), jnp.float32)}}
    made = parameters.filled(shapes, lambda path, leaf: np.ones(300, np.float32))
    stack = made["blocks"]["scale"]
    placed = jax.device_put(stack, jax.local_devices(backend="cpu")[0])
    assert placed.unsafe_buffer_pointer() == stack.ctypes.data
