"""Saving and restoring checkpoints; faults are in test_checkpoint_faults.py."""

from __future__ import annotations

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vljax.config import UserError
from vljax.training import checkpoint
from vljax.training.checkpoint import Checkpointer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict[str, object]
    optimizer: optax.OptState
    empty: tuple[()] = ()


def make_state(step: int = 0) -> State:
    key = jax.random.key(step)
    params = {
        "kernel": jax.random.normal(key, (7, 5)),
        "half": jax.random.normal(key, (6,), jnp.bfloat16),
        "blocks": [jnp.float32(jnp.nan), jnp.zeros((0, 3))],
    }
    return State(jnp.int32(step), params, optax.adamw(1e-3).init(params))


def shapes(tree: object) -> object:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def assert_bitwise(found: object, expected: object) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_restored_state_equals_the_saved_one_bitwise(tmp_path):
    files = {"recipe.json": b'{"a": 1}', "tokenizer/vocab.txt": b"\x00\xff"}
    saver = Checkpointer(str(tmp_path))
    saver.save(5, make_state(5), files)
    saver.close()
    reader = Checkpointer(str(tmp_path))
    restored = reader.restore(shapes(make_state()))
    assert restored is not None
    assert restored.step == 5
    assert_bitwise(restored.state, make_state(5))
    assert reader.latest() == 5
    assert reader.files(5) == files
    folder = checkpoint.step_folder(tmp_path, 5)
    assert checkpoint.verify(folder) == []
    assert checkpoint.read_file(folder, "recipe.json") == files["recipe.json"]
    with pytest.raises(UserError, match=r"no file 'recipe.jsn'; did you mean 'recipe.json'"):
        checkpoint.read_file(folder, "recipe.jsn")


def test_an_empty_workdir_has_no_checkpoint(tmp_path):
    saver = Checkpointer(str(tmp_path))
    assert saver.latest() is None
    assert saver.restore(shapes(make_state())) is None
    assert (
        checkpoint.complete_steps(tmp_path) == [] == checkpoint.complete_steps(tmp_path / "nothing")
    )
    with pytest.raises(UserError, match=r"no checkpoint of step 3 in .*; there are: none"):
        saver.restore(shapes(make_state()), step=3)


def test_a_given_step_is_restored(tmp_path):
    saver = Checkpointer(str(tmp_path))
    for step in (1, 2, 10):
        saver.save(step, make_state(step), {})
    restored = saver.restore(shapes(make_state()), step=2)
    assert restored is not None
    assert restored.step == 2
    assert_bitwise(restored.state, make_state(2))
    assert saver.latest() == 10  # as a number, not as a name


def test_arrays_can_be_donated_or_overwritten_after_save_returns(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1000, tree), donate_argnums=0)
    state = {f"w{i}": jnp.full((1000, 1000), float(i)) for i in range(8)}
    host = np.zeros(1_000_000, np.int32)
    saver = Checkpointer(str(tmp_path))
    saver.save(1, {"device": state, "host": host}, {})
    host += 1
    for _ in range(3):
        state = step(state)
    restored = saver.restore(shapes({"device": state, "host": host}))
    assert restored is not None
    for i in range(8):
        assert (np.asarray(restored.state["device"][f"w{i}"]) == i).all()
    assert (np.asarray(restored.state["host"]) == 0).all()


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    saver = Checkpointer(str(tmp_path), keep=2)
    for step in (1, 2, 3, 20):
        saver.save(step, make_state(step), {})
    saver.wait()
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["20", "3"]
    with pytest.raises(UserError, match="keep: at least 1"):
        Checkpointer(str(tmp_path), keep=0)


def test_saving_an_intact_step_again_does_nothing(tmp_path):
    saver = Checkpointer(str(tmp_path))
    saver.save(1, make_state(1), {"recipe.json": b"first"})
    saver.save(1, make_state(2), {"recipe.json": b"second"})
    saver.wait()
    assert saver.files(1) == {"recipe.json": b"first"}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda t: {**t, "a": jnp.zeros(4)}, ["- a float32[3]", "+ a float32[4]"]),
        (lambda t: {**t, "a": jnp.zeros(3, jnp.int32)}, ["- a float32[3]", "+ a int32[3]"]),
        (lambda t: {"b": t["b"]}, ["- a float32[3]"]),
        (lambda t: {**t, "b": {**t["b"], "c": jnp.int32(0)}}, ["+ b/c int32[]"]),
        (lambda t: t["b"], ["- a float32[3]", "- b/w bfloat16[2]", "+ w bfloat16[2]"]),
    ],
    ids=["shape", "dtype", "missing", "extra", "tree"],
)
def test_a_mismatch_of_state_and_target_lists_the_differences(tmp_path, change, lines):
    state = {"a": jnp.zeros(3), "b": {"w": jnp.zeros(2, jnp.bfloat16)}}
    saver = Checkpointer(str(tmp_path))
    saver.save(1, state, {})
    with pytest.raises(UserError) as caught:
        saver.restore(shapes(change(state)))
    message = str(caught.value)
    assert f": {', '.join(lines)}; use the recipe" in message
    assert "\n" not in message


def test_a_long_list_of_differences_is_cut(tmp_path):
    saver = Checkpointer(str(tmp_path))
    saver.save(1, {f"w{i}": jnp.zeros(2) for i in range(9)}, {})
    with pytest.raises(UserError, match=r"w4 float32\[2\], and 4 more; use"):
        saver.restore({"other": jax.ShapeDtypeStruct((2,), jnp.float32)})


def test_partial_restore_reads_only_the_target(tmp_path):
    saver = Checkpointer(str(tmp_path))
    saver.save(1, {"params": {"a": jnp.arange(3.0)}, "optimizer": jnp.zeros(2)}, {})
    saver.wait()
    folder = checkpoint.step_folder(tmp_path, 1)
    target = {"params": {"a": jax.ShapeDtypeStruct((3,), jnp.float32)}}
    part = checkpoint.read_state(folder, target, partial=True)
    assert_bitwise(part, {"params": {"a": jnp.arange(3.0)}})
    with pytest.raises(UserError, match=r"- optimizer float32\[2\]"):
        checkpoint.read_state(folder, target)


@pytest.mark.parametrize("name", ["state/x", "../x", "/x", "manifest.json"])
def test_invalid_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"manifest.json|cannot be the name"):
        Checkpointer(str(tmp_path)).save(1, {"a": jnp.zeros(1)}, {name: b""})


def test_leaves_with_colliding_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"two leaves of the state are named 'a.b'"):
        Checkpointer(str(tmp_path)).save(1, {"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, {})


def test_restore_onto_another_mesh(tmp_path):
    """From eight devices to a 4 x 2 mesh, and from both to one device."""

    def sharding(shape: tuple[int, ...], names: tuple[str, ...], spec: P) -> NamedSharding:
        mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))
        return NamedSharding(mesh, spec)

    def target(w: jax.sharding.Sharding, n: jax.sharding.Sharding) -> dict[str, object]:
        return {
            "w": jax.ShapeDtypeStruct((16, 8), jnp.bfloat16, sharding=w),
            "n": jax.ShapeDtypeStruct((), jnp.int32, sharding=n),
        }

    value = np.random.default_rng(0).normal(size=(16, 8)).astype(jnp.bfloat16)
    eight = sharding((8,), ("data",), P("data"))
    grid = sharding((4, 2), ("fsdp", "tensor"), P("tensor", "fsdp"))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    saver = Checkpointer(str(tmp_path))
    w, n = jax.device_put(value, eight), jax.device_put(np.int32(7), eight.update(spec=P()))
    saver.save(1, {"w": w, "n": n}, {})
    restored = saver.restore(target(grid, grid.update(spec=P())))
    assert restored is not None
    assert len(restored.state["w"].sharding.device_set) == 8
    assert restored.state["w"].sharding.is_equivalent_to(grid, 2)
    assert np.asarray(restored.state["w"]).tobytes() == value.tobytes()
    saver.save(2, restored.state, {})
    saver.close()

    reader = Checkpointer(str(tmp_path))
    for step in (1, 2):
        restored = reader.restore(target(one, one), step)
        assert restored is not None
        assert restored.state["w"].sharding.device_set == {jax.devices()[0]}
        assert_bitwise(restored.state, {"w": jnp.asarray(value), "n": jnp.int32(7)})


def test_required_bytes_counts_all_arrays():
    state = {"a": jnp.zeros((3, 5)), "b": jnp.zeros(2, jnp.bfloat16)}
    assert checkpoint.required_bytes(state) == checkpoint.required_bytes(shapes(state)) == 64
