"""Layout changes agree with einops, and their inverses are exact."""

import numpy as np
import pytest
from einops import rearrange

from vljax.interop import mapping

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


CASES = {
    "linear": (mapping.LINEAR, (5, 7), "i o -> o i"),
    "linear to heads": (mapping.LINEAR, (6, 2, 3), "i h d -> (h d) i"),
    "linear from heads": (mapping.LINEAR_OUT, (2, 3, 6), "h d o -> o (h d)"),
    "bias of heads": (mapping.FLAT, (2, 3), "h d -> (h d)"),
    "convolution": (mapping.CONVOLUTION, (2, 3, 4, 5), "h w i o -> o i h w"),
    "row": (mapping.ROW, (1, 4), "1 n -> n"),
    "batched": (mapping.BATCHED, (3, 4), "m n -> 1 m n"),
    "scalar batched": (mapping.BATCHED, (), " -> 1"),
    "same": (mapping.SAME, (3, 4), "m n -> m n"),
}


@pytest.mark.parametrize(("change", "shape", "meaning"), CASES.values(), ids=CASES)
def test_a_change_of_one_array_agrees_with_einops(change, shape, meaning):
    own = array(*shape)
    foreign = change.to_foreign([own])
    np.testing.assert_array_equal(foreign, rearrange(own, meaning))
    assert change.foreign_shape([shape]) == foreign.shape
    np.testing.assert_array_equal(change.to_own(foreign, [shape], 0), own)


@pytest.mark.parametrize("of", ["query", "key", "value"])
def test_packed_query_key_and_value_multiply_like_three_arrays(of):
    """`in_proj_weight` of PyTorch: x W^T split in three is x W_q, x W_k and x W_v."""
    part = ["query", "key", "value"].index(of)
    kernels, x = [array(6, 2, 3) for _ in range(3)], array(4, 6)
    packed = mapping.STACKED_LINEAR.to_foreign(kernels)
    assert packed.shape == (18, 6) == mapping.STACKED_LINEAR.foreign_shape([(6, 2, 3)] * 3)
    ours = np.einsum("ni,ihd->nhd", x.astype(float), kernels[part].astype(float))
    theirs = np.split(x.astype(float) @ packed.T.astype(float), 3, axis=1)[part]
    np.testing.assert_allclose(rearrange(ours, "n h d -> n (h d)"), theirs, rtol=0, atol=1e-12)
    back = mapping.STACKED_LINEAR.to_own(packed, [(6, 2, 3)] * 3, part)
    np.testing.assert_array_equal(back, kernels[part])


def test_stacked_parts_may_have_different_lengths():
    cls, positions = array(1, 4), array(9, 4)
    table = mapping.STACKED.to_foreign([cls, positions])
    np.testing.assert_array_equal(table[0], cls[0])
    shapes = [(1, 4), (9, 4)]
    assert mapping.STACKED.foreign_shape(shapes) == (10, 4)
    np.testing.assert_array_equal(mapping.STACKED.to_own(table, shapes, 0), cls)
    np.testing.assert_array_equal(mapping.STACKED.to_own(table, shapes, 1), positions)


def test_a_convolution_computes_the_same():
    """A patch times PyTorch's OIHW kernel is the patch times our HWIO one."""
    kernel, patch = array(2, 3, 4, 5), array(2, 3, 4)
    theirs = mapping.CONVOLUTION.to_foreign([kernel])
    made = np.einsum("hwi,oihw->o", patch.astype(float), theirs.astype(float))
    ours = np.einsum("hwi,hwio->o", patch.astype(float), kernel.astype(float))
    np.testing.assert_allclose(made, ours, rtol=0, atol=1e-12)
