"""Rules have to cover all parameters and all foreign arrays."""

import ml_dtypes
import numpy as np
import pytest

from vljax.config import UserError
from vljax.interop.files.tensors import Lazy
from vljax.interop.mapping import LINEAR, STACKED, pair, rule, to_foreign, to_own

SHAPES = {f"image/blocks/{i}/up/kernel": (2, 3) for i in (0, 1, 10)} | {"a": (1, 2), "b": (4, 2)}
RULES = [
    rule("image/blocks/{i}/up/kernel", "layers.{i}.up.weight", LINEAR),
    rule(("a", "b"), "table", STACKED),
]


def tensor(array):
    return Lazy(array.shape, array.dtype, lambda: array)


def tensors(dtype=np.float32):
    """The arrays of a file; their numbers are exact in bfloat16 and float16."""
    made = {
        f"layers.{i}.up.weight": np.arange(6, dtype=dtype).reshape(3, 2) + dtype(i)
        for i in (0, 1, 10)
    }
    return {**made, "table": np.arange(10, dtype=dtype).reshape(5, 2)}


def imported(arrays, ignored=()):
    pairs = pair(RULES, SHAPES, "them")
    return to_own(pairs, {name: tensor(array) for name, array in arrays.items()}, ignored, "file")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_import_maps_every_layer_and_part_to_float32(dtype):
    own = {name: value.read() for name, value in imported(tensors(dtype)).items()}
    assert own.keys() == SHAPES.keys()
    assert {array.dtype for array in own.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(own["image/blocks/10/up/kernel"], [[10, 12, 14], [11, 13, 15]])
    np.testing.assert_array_equal(own["a"], [[0, 1]])
    np.testing.assert_array_equal(own["b"][0], [2, 3])


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_export_inverts_import(dtype):
    pairs = pair(RULES, SHAPES, "them")
    back = to_foreign(pairs, imported(tensors(dtype)), np.dtype(dtype))
    for name, array in tensors(dtype).items():
        assert back[name].dtype == dtype
        np.testing.assert_array_equal(back[name].read(), array)


def test_overflow_of_a_smaller_data_type_stops_an_export():
    arrays = tensors() | {"table": np.full((5, 2), 1e6, np.float32)}
    made = to_foreign(pair(RULES, SHAPES, "them"), imported(arrays), np.dtype(np.float16))
    with pytest.raises(UserError, match="--dtype: 'table' does not fit float16"):
        made["table"].read()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (RULES[:1], "them cannot store 'a', 'b'"),
        ([*RULES, rule("c", "c")], "them has 'c', but this model lacks 'c'"),
        (
            [RULES[0], rule(("a", "c"), "table", STACKED)],
            "them has 'table', but this model lacks 'c'",
        ),
    ],
)
def test_rules_that_do_not_cover_the_model_are_an_error(rules, message):
    with pytest.raises(UserError, match=message):
        pair(rules, SHAPES, "them")


def test_a_parameter_in_two_rules_is_an_error():
    with pytest.raises(ValueError, match="two rules name 'a'"):
        pair([*RULES, rule("a", "again")], SHAPES, "them")


def test_ignored_names_are_left_out():
    arrays = tensors() | {"x.position_ids": np.arange(3)}
    with pytest.raises(UserError, match=r"file holds .* that this model lacks: 'x\.position_ids'"):
        imported(arrays)
    assert imported(arrays, (r".*\.position_ids",)).keys() == SHAPES.keys()
