"""Where the arrays of an optimizer's state go on a mesh."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.tree_util import DictKey

from vljax.models.layout import leaves
from vljax.training.optim_base import Tree


def place(state: Any, params: Tree, shardings: Tree, whole: NamedSharding) -> Any:
    """A sharding for every array of an optimizer's state.

    An array that stands under the path of a parameter and has its shape is a moment of it and
    goes where the parameter goes. All else (counts, factored mean squares) is small and stays
    whole.

    Args:
      state: the optimizer state, as shapes or arrays.
      params: the parameters that it is for, as shapes or arrays.
      shardings: mirrors `params`, with more entries where not all parameters are trained.
      whole: the sharding of what is not split.
    """
    places = dict(leaves(shardings))
    known = {keys: (leaf.shape, places[keys]) for keys, leaf in leaves(params)}

    def at(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = tuple(key.key for key in path if isinstance(key, DictKey))
        for start in range(len(names)):
            shape, sharding = known.get(names[start:], (None, whole))
            if shape == leaf.shape:
                return sharding
        return whole

    return jax.tree_util.tree_map_with_path(at, state)
