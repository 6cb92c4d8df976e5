"""Shardings on meshes of eight devices; they change results by rounding only."""

import functools
import re

import jax
import numpy as np
import optax
import pytest

from tests.training import tiny
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.placement import bytes_per_device, parameter_placements
from vljax.parallel.rules import batch_sharding, constrain, replicated
from vljax.training.state import abstract, create, shardings
from vljax.training.step import make_step

MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (4, 1, 2)]
MODEL = {"heads": 8, "scan": True, "width": 64, "mlp_dim": 256}
BATCH = 40  # no other size, nor a multiple of one, that occurs in the model


@functools.cache
def one_device():
    """The first state, and the state and loss after one step, on one device."""
    of = tiny.task(**MODEL)
    first = tiny.state(of, **MODEL)
    after, metrics = jax.jit(make_step(of))(first, tiny.batch(size=BATCH), tiny.hyper())
    return first, after, metrics


def placed(sizes, fsdp_min_size=0):
    """On a mesh: the task, its state as shapes with shardings, and the placement by path."""
    mesh = make_mesh(MeshConfig(*sizes))
    of = tiny.task(constrain=constrain(mesh), mesh=mesh, **MODEL)
    variables = of.model.shapes
    shapes = jax.eval_shape(lambda v: create(v, of), variables)
    axes = of.model.axes
    where = shardings(shapes, of, mesh, fsdp_min_size)
    state = abstract(shapes, where)
    rows = parameter_placements(state.params, axes, mesh, fsdp_min_size)
    return of, state, {row.path: row for row in rows}


@functools.cache
def compiled_step(sizes):
    of, state, _ = placed(sizes)
    mesh = make_mesh(MeshConfig(*sizes))
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(
        make_step(of),
        in_shardings=(where, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(where, replicated(mesh)),
    )
    return step.lower(state, tiny.batch(size=BATCH), tiny.hyper()).compile()


def step_on_mesh(sizes):
    inputs = (one_device()[0], tiny.batch(size=BATCH), tiny.hyper())
    compiled = compiled_step(sizes)
    return compiled(*jax.device_put(inputs, compiled.input_shardings[0]))


def leaves(tree):
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


def first_moment(state):
    """0.1 x the clipped gradient, after one step of Adam."""
    moments = jax.tree.leaves(state.optimizer, is_leaf=lambda x: hasattr(x, "mu"))
    (adam,) = (part for part in moments if isinstance(part, optax.ScaleByAdamState))
    return leaves(adam.mu)


def relative_error(found, expected, floor=0.0):
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), floor)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_a_step_equals_that_of_one_device(sizes):
    """Within 1e-5, relative L2 for each array: sums in another order, in float32."""
    _, expected, metrics = one_device()
    after, found = step_on_mesh(sizes)
    assert relative_error(found["loss"], metrics["loss"]) < 1e-5
    params = leaves(expected.params)
    for path, value in leaves(after.params).items():
        # Biases start at zero, and those of keys stay there but for rounding.
        floor = 1e-3 * np.sqrt(value.size)
        assert relative_error(value, params[path], floor) < 1e-5, path
    gradients = first_moment(expected)
    largest = max(np.linalg.norm(g) for g in gradients.values())
    for path, value in first_moment(after).items():
        assert relative_error(value, gradients[path], 0.01 * largest) < 1e-5, path


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_shards_match_the_placement(sizes):
    _, state, rows = placed(sizes)
    after, _ = step_on_mesh(sizes)
    parts = dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))
    moments = first_moment(after)
    for path, value in leaves(after.params).items():
        row = rows[path]
        expected = list(row.shape)
        for by, axis in row.split.items():
            expected[row.axes.index(axis)] //= parts[by]
        for array in (value, *([moments[path]] if path in moments else [])):
            held = [shard.data for shard in array.addressable_shards]
            assert len(held) == 8
            assert {part.shape for part in held} == {tuple(expected)}, path
            assert {part.nbytes for part in held} == {row.bytes_per_device}, path
    for kind in ("params", "optimizer"):
        held = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(getattr(after, kind))]
        assert bytes_per_device(getattr(state, kind)) == sum(part.nbytes for part in held)


def test_every_array_that_can_be_split_is_split():
    """The widths of this model are multiples of 8, and the size limit is 0."""
    for sizes, by in (((1, 8, 1), "fsdp"), ((1, 1, 8), "tensor")):
        _, _, rows = placed(sizes)
        wanted = [
            row
            for row in rows.values()
            if row.shape and (by == "fsdp" or {"heads", "mlp", "vocab"} & set(row.axes))
        ]
        assert len(wanted) > 20
        for row in wanted:
            assert list(row.split) == [by], row.path
            assert row.bytes_per_device * 8 == row.bytes, row.path


def test_small_arrays_stay_whole_under_fsdp():
    _, _, rows = placed((2, 2, 2), 4096)
    layer = {
        path: np.prod(row.shape) / (2 if "/blocks/" in path else 1) for path, row in rows.items()
    }
    assert {path for path in rows if layer[path] >= 4096} == {
        path for path, row in rows.items() if "fsdp" in row.split
    }
    up = rows["image/blocks/mlp/up/kernel"]
    assert up.sharding == "fsdp(embed), tensor(mlp)"
    assert rows["image/blocks/mlp/up/bias"].sharding == "tensor(mlp)"
    assert rows["image/norm/scale"].sharding == "whole"


def results(compiled, operation):
    """The shapes that instructions of a kind produce, in a compiled program."""
    return re.findall(rf"= \w+\[([\d,]*)\]\S* {operation}\(", compiled.as_text())


def test_tensor_parallelism_gathers_no_parameters():
    compiled = compiled_step((1, 1, 8))
    assert results(compiled, "all-reduce")
    assert not results(compiled, "all-gather")


def test_no_device_holds_the_whole_vocabulary():
    """The compiler's own lookup of tokens would gather a table that is split twice."""
    gathered = results(compiled_step((2, 2, 2)), "all-gather")
    assert "16,64" in gathered
    assert not [shape for shape in gathered if shape.startswith("32,")]


def test_no_device_computes_the_whole_batch():
    compiled = compiled_step((2, 2, 2))
    produced = results(compiled, r"[\w-]+")
    assert any(re.fullmatch(rf"{BATCH // 4},\d+,\d+", shape) for shape in produced)
    assert not [shape for shape in produced if re.fullmatch(rf"{BATCH},\d+,\d+(,\d+)*", shape)]


def test_temporaries_shrink_with_every_axis():
    def temporary(compiled):
        return compiled.memory_analysis().temp_size_in_bytes

    first, _, _ = one_device()
    whole = jax.jit(make_step(tiny.task(**MODEL)))
    single = temporary(whole.lower(first, tiny.batch(size=BATCH), tiny.hyper()).compile())
    for sizes, most in (((8, 1, 1), 0.4), ((1, 8, 1), 0.5), ((1, 1, 8), 0.8)):
        assert temporary(compiled_step(sizes)) < most * single, sizes
