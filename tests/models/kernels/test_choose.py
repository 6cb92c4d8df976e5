"""The choice of kernels for a platform."""

import functools

import pytest

from vljax.config import UserError
from vljax.models.kernels import layer_norm, linear
from vljax.models.kernels.attention.cudnn import gpu_attention
from vljax.models.kernels.attention.reference import cpu_attention, reference_attention
from vljax.models.kernels.attention.tpu import splash_attention, tpu_attention
from vljax.models.kernels.choose import Kernels, choose
from vljax.models.kernels.depthwise import grouped_convolution, shifted_sum


def function(attention):
    return attention.func if isinstance(attention, functools.partial) else attention


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("cpu", cpu_attention), ("gpu", gpu_attention), ("tpu", tpu_attention)],
)
def test_attention_follows_the_platform(platform, expected):
    assert function(choose(platform).attention) is expected


@pytest.mark.parametrize(
    ("kind", "platform", "expected"),
    [
        ("xla", "cpu", reference_attention),
        ("xla", "tpu", reference_attention),
        ("cpu", "gpu", cpu_attention),
        ("cudnn", "gpu", gpu_attention),
        ("splash", "tpu", splash_attention),
    ],
)
def test_the_recipe_can_set_the_attention(kind, platform, expected):
    assert function(choose(platform, attention=kind).attention) is expected


@pytest.mark.parametrize(("kind", "platform"), [("cudnn", "cpu"), ("splash", "gpu")])
def test_an_attention_that_the_platform_lacks_is_refused(kind, platform):
    with pytest.raises(UserError, match=f"^attention: {kind} needs a .*, and the mesh is of"):
        choose(platform, attention=kind)


@pytest.mark.parametrize(
    ("platform", "devices", "expected"),
    [
        ("cpu", 1, (layer_norm.normalise, linear.matmul_2d, shifted_sum)),
        ("cpu", 2, (layer_norm.normalise, linear.tensordot, shifted_sum)),
        ("gpu", 1, (layer_norm.normalise, linear.tensordot, grouped_convolution)),
        (
            "tpu",
            1,
            (layer_norm.normalise_by_matmul, linear.tensordot, grouped_convolution),
        ),
    ],
)
def test_other_kernels_follow_the_platform(platform, devices, expected):
    kernels = choose(platform, devices)
    assert (kernels.layer_norm, kernels.linear, kernels.depthwise_convolution) == expected


def test_the_defaults_are_plain():
    assert Kernels() == choose("gpu", attention="xla")
