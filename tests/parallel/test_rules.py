"""Sharding rules: logical axes to mesh axes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rules import (
    ACTIVATIONS,
    PARAMETERS,
    batch_sharding,
    constrain,
    parameter_shardings,
    parameter_spec,
    spec,
    update_shardings,
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
def test_tables(mesh, axes, shape, expected):
    assert spec(axes, shape, PARAMETERS, mesh) == expected


def test_activations_split_the_batch_and_not_the_embedding(mesh):
    axes, shape = ("batch", "length", "embed"), (8, 5, 16)
    assert spec(axes, shape, ACTIVATIONS, mesh) == P(("data", "fsdp"), None, None)


def test_a_mesh_axis_of_one_device_splits_nothing():
    mesh = make_mesh(MeshConfig(8, 1, 1))
    assert spec(("embed", "mlp"), (8, 16), PARAMETERS, mesh) == P(None, None)
    assert parameter_spec(("embed", "mlp"), (7, 5), mesh, 0) == (P(None, None), {})


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        # embed goes first, however small; if it is missing or odd, the largest even axis
        (("embed", "none"), (4, 64), P("fsdp", None)),
        (("embed", "none", "classes"), (5, 6, 8), P(None, None, "fsdp")),
        (("patch", "patch", "conv_in", "conv_out"), (3, 3, 16, 32), P(None, None, None, "fsdp")),
        (("heads", "head_dim"), (6, 8), P("tensor", "fsdp")),
        # equally large: the first
        (("conv_in", "conv_out"), (8, 8), P("fsdp", None)),
        # never the layers, which a loop takes apart
        (("layers", "positions", "none"), (8, 3, 2), P(None, None, "fsdp")),
    ],
)
def test_fsdp_splits_the_largest_axis_that_it_divides(mesh, axes, shape, expected):
    assert parameter_spec(axes, shape, mesh, 0) == (expected, {})


@pytest.mark.parametrize("fsdp_min_size", [32, 33])
def test_small_arrays_stay_whole_for_fsdp_alone(mesh, fsdp_min_size):
    """Both arrays have 32 elements, a stack counting as one layer."""
    by_fsdp = "fsdp" if fsdp_min_size == 32 else None
    found = parameter_spec(("embed", "mlp"), (4, 8), mesh, fsdp_min_size)
    assert found == (P(by_fsdp, "tensor"), {})
    found = parameter_spec(("layers", "embed", "mlp"), (100, 4, 8), mesh, fsdp_min_size)
    assert found == (P(None, by_fsdp, "tensor"), {})


@pytest.mark.parametrize(
    ("sizes", "axes", "shape", "reasons"),
    [
        (
            (1, 1, 8),
            ("embed", "heads", "head_dim"),
            (16, 12, 4),
            {"tensor": "tensor 8 does not divide heads 12; 4 would do"},
        ),
        ((1, 1, 8), ("mlp",), (15,), {"tensor": "tensor 8 does not divide mlp 15"}),
        (
            (1, 8, 1),
            ("layers", "embed", "mlp"),
            (8, 12, 9),
            {"fsdp": "fsdp 8 does not divide embed 12 or mlp 9; 4 would do"},
        ),
        # another axis serves
        ((1, 8, 1), ("embed", "mlp"), (12, 16), {}),
        # a scalar needs no split
        ((1, 8, 1), (), (), {}),
        ((1, 4, 2), ("mlp",), (64,), {"fsdp": "fsdp 4 finds no free axis"}),
        (
            (1, 4, 2),
            ("embed", "mlp"),
            (6, 9),
            {
                "tensor": "tensor 2 does not divide mlp 9",
                "fsdp": "fsdp 4 does not divide embed 6 or mlp 9; 2 would do",
            },
        ),
    ],
)
def test_the_reason_why_an_array_is_not_split(sizes, axes, shape, reasons):
    found = parameter_spec(axes, shape, make_mesh(MeshConfig(*sizes)), 0)
    assert found.unsplit == reasons
    for name in reasons:
        assert name not in found.spec


def test_names_that_jax_would_ignore_are_errors(mesh):
    with pytest.raises(ValueError, match="unknown logical axis 'embd'"):
        spec(("embd",), (8,), PARAMETERS, mesh)
    with pytest.raises(ValueError, match=r"two axes of .* go to the mesh axis 'tensor'"):
        spec(("heads", "mlp"), (8, 8), PARAMETERS, mesh)
    with pytest.raises(ValueError, match="1 axis names"):
        spec(("embed",), (8, 8), PARAMETERS, mesh)
    with pytest.raises(ValueError, match="unknown logical axis 'batch'"):
        parameter_spec(("batch",), (8,), mesh, 0)


def test_both_tables_have_every_logical_axis():
    names = "batch length embed mlp heads head_dim vocab layers patch conv_in conv_out"
    names += " classes positions rank none"
    assert set(ACTIVATIONS) == set(names.split())
    assert set(PARAMETERS) == set(names.split()) - {"batch"}


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        (("embed", "mlp"), (8, 32), P("fsdp", "tensor")),  # nothing is left for data
        (("embed", "heads", "head_dim"), (8, 4, 6), P("fsdp", "tensor", "data")),
        (("positions", "embed"), (16, 8), P("data", "fsdp")),
        (("layers", "embed", "none"), (4, 8, 5), P(None, "fsdp", None)),
        (("embed",), (8,), P()),  # small
    ],
)
def test_updates_are_split_by_data_too(mesh, axes, shape, expected):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    placed = update_shardings({"x": axes}, {"x": leaf}, mesh, 10)["x"]
    assert placed.is_equivalent_to(NamedSharding(mesh, expected), len(shape))


def test_shardings_mirror_the_parameters(mesh):
    shapes = {"a": {"kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32)}}
    axes = {"a": {"kernel": ("embed", "mlp")}}
    for size, by_fsdp in ((32, "fsdp"), (33, None)):
        placed = parameter_shardings(axes, shapes, mesh, size)
        assert placed["a"]["kernel"].spec == P(by_fsdp, "tensor")
    assert batch_sharding(mesh).spec == P(("data", "fsdp"))


def test_constrain_acts_on_the_compiled_program(mesh):
    place = constrain(mesh)
    x = jnp.zeros((8, 4, 16))
    y = jax.jit(lambda x: place(x * 2, ("batch", "length", "mlp")))(x)
    assert y.sharding.spec == P(("data", "fsdp"), None, "tensor")
