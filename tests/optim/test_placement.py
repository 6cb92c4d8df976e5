"""Moments are sharded like their parameters; all other optimizer state is not split."""

import jax
import pytest

from tests.optim.optimizing import two_towers
from vljax.models.parameters import leaves, select, select_like
from vljax.optim import Adafactor, Optimizer, state_shardings
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rules import parameter_shardings, replicated
from vljax.training.checkpoint.saved_state import to_nested

UP = ("image", "blocks", "mlp", "up", "kernel")
BIAS = ("image", "blocks", "attention", "query", "bias")
# How many arrays of the state stand under a parameter: split as it is, and whole.
EXPECTED = {
    "adamw": {UP: (2, 0), BIAS: (2, 0)},
    # Count, row, column and a placeholder for the kernel; count and two placeholders for the bias.
    "adafactor": {UP: (1, 4), BIAS: (2, 3)},
    "lion": {UP: (1, 0), BIAS: (1, 0)},
    "muon": {UP: (1, 0), BIAS: (2, 0)},
    "sgd": {UP: (1, 0), BIAS: (1, 0)},
}


@pytest.mark.parametrize("pattern", [".*", "image/.*"])
@pytest.mark.parametrize("name", sorted(Optimizer.members))
def test_every_optimizer(name, pattern):
    model, shapes = two_towers(scan=True)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    sharded = parameter_shardings(model.axes, shapes, mesh)
    kind = Optimizer.members[name]
    optimizer = kind(factor_from=8) if kind is Adafactor else kind()
    trained = select(pattern, shapes)
    transformation = optimizer.transformation(select_like(model.axes, trained))
    state = jax.eval_shape(transformation.init, trained)
    result = state_shardings(transformation, state, trained, sharded, replicated(mesh))
    assert jax.tree.structure(result) == jax.tree.structure(state)

    own = dict(leaves(sharded))
    for keys, (split, whole) in EXPECTED[name].items():
        assert own[keys] != replicated(mesh)
        under = [
            sharding
            for path, sharding in jax.tree_util.tree_leaves_with_path(result)
            if "".join(f"['{key}']" for key in keys) in jax.tree_util.keystr(path)
        ]
        assert under.count(own[keys]) == split, keys
        assert under.count(replicated(mesh)) == whole, keys
    for sharding, leaf in zip(jax.tree.leaves(result), jax.tree.leaves(state), strict=True):
        if leaf.size <= 2:  # counts, placeholders, scalars
            assert sharding == replicated(mesh)
    to_nested(state)  # the names of a checkpoint are distinct
