"""Logical axes to mesh axes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rules import (
    ACTIVATIONS,
    PARAMETERS,
    batch_sharding,
    constrain,
    parameter_shardings,
    spec,
)


@pytest.fixture
def mesh():
    return make_mesh(MeshConfig(2, 2, 2))


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        (("embed", "heads", "head_dim"), (8, 4, 2), P("fsdp", "tensor", None)),
        (("layers", "embed", "mlp"), (3, 8, 16), P(None, "fsdp", "tensor")),
        (("vocab", "embed"), (10, 8), P("tensor", "fsdp")),
        (("embed",), (7,), P(None)),
        (("embed", "mlp"), (7, 16), P(None, "tensor")),
        ((), (), P()),
    ],
)
def test_parameters(mesh, axes, shape, expected):
    assert spec(axes, shape, PARAMETERS, mesh) == expected


def test_activations_split_the_batch_and_not_the_embedding(mesh):
    axes, shape = ("batch", "length", "embed"), (8, 5, 16)
    assert spec(axes, shape, ACTIVATIONS, mesh) == P(("data", "fsdp"), None, None)


def test_what_jax_would_replicate_silently_is_an_error(mesh):
    with pytest.raises(ValueError, match="unknown logical axis 'embd'"):
        spec(("embd",), (8,), PARAMETERS, mesh)
    with pytest.raises(ValueError, match=r"two axes of .* go to the mesh axis 'tensor'"):
        spec(("heads", "mlp"), (8, 8), PARAMETERS, mesh)
    with pytest.raises(ValueError, match="1 axis names"):
        spec(("embed",), (8, 8), PARAMETERS, mesh)
    with pytest.raises(ValueError, match="unknown logical axis 'batch'"):
        spec(("batch",), (8,), PARAMETERS, mesh)


def test_every_axis_of_the_vocabulary_has_a_place():
    names = "batch length embed mlp heads head_dim vocab layers patch conv_in conv_out"
    names += " classes positions rank none"
    assert set(ACTIVATIONS) == set(names.split())
    assert set(PARAMETERS) == set(names.split()) - {"batch"}


def test_shardings_mirror_the_parameters(mesh):
    shapes = {"a": {"kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32)}}
    placed = parameter_shardings({"a": {"kernel": ("embed", "mlp")}}, shapes, mesh)
    assert placed["a"]["kernel"].spec == P("fsdp", "tensor")
    assert batch_sharding(mesh).spec == P(("data", "fsdp"))


def test_constrain_acts_on_the_compiled_program(mesh):
    place = constrain(mesh)
    x = jnp.zeros((8, 4, 16))
    y = jax.jit(lambda x: place(x * 2, ("batch", "length", "mlp")))(x)
    assert y.sharding.spec == P(("data", "fsdp"), None, "tensor")
