"""Trees of parameters: their scan layout, and patterns over their paths.

Parameters of a stack of blocks have two layouts. Unrolled, block 3 is `blocks/3/...`. Scanned, the
arrays of all blocks are stacked in `blocks/...` along a new first axis. Patterns are written for
the unrolled paths and work for both layouts.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vljax.config import UserError

Tree = dict[str, Any]
T = TypeVar("T")

STACK = "blocks"


def with_axes(init: Callable[..., Any], *axes: str) -> Callable[..., Any]:
    """An initializer that also records the logical names of the axes of the parameter.

    The sharding rules (`parallel.rules`) map these names to axes of the mesh.
    """
    return nn.with_logical_partitioning(init, axes)


def unroll(params: Tree) -> Tree:
    """Parameters with every scanned stack unrolled: one subtree for each block.

    >>> unroll({"blocks": {"scale": np.array([[1, 2], [3, 4]])}})
    {'blocks': {'0': {'scale': array([1, 2])}, '1': {'scale': array([3, 4])}}}
    """
    return {name: _unroll_child(name, child) for name, child in params.items()}


def _unroll_child(name: str, child: Any) -> Any:
    if not isinstance(child, Mapping):
        return child
    if name == STACK and not _is_unrolled(child):
        depth = jax.tree.leaves(child)[0].shape[0]
        return {str(i): jax.tree.map(lambda x, i=i: x[i], child) for i in range(depth)}
    return unroll(dict(child))


def roll(params: Tree) -> Tree:
    """Parameters with every unrolled stack scanned: the inverse of `unroll`."""
    return {name: _roll_child(name, child) for name, child in params.items()}


def _roll_child(name: str, child: Any) -> Any:
    if not isinstance(child, Mapping):
        return child
    if name == STACK and _is_unrolled(child):
        blocks = [child[str(i)] for i in range(len(child))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    return roll(dict(child))


def _is_unrolled(stack: Mapping[str, Any]) -> bool:
    return all(name.isdigit() for name in stack)


def leaves(tree: Tree, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The arrays of nested dicts, each with its keys.

    >>> list(leaves({"image": {"positions": 7}}))
    [(('image', 'positions'), 7)]
    """
    for name, child in tree.items():
        if isinstance(child, Mapping):
            yield from leaves(dict(child), (*prefix, name))
        else:
            yield (*prefix, name), child


def canonical_paths(keys: Sequence[str], shape: Sequence[int]) -> list[str]:
    """The unrolled paths of an array: one, or one for each layer of a scanned stack.

    >>> canonical_paths(["image", "blocks", "norm", "scale"], (2, 768))
    ['image/blocks/0/norm/scale', 'image/blocks/1/norm/scale']
    """
    if STACK in keys:
        start = keys.index(STACK) + 1
        if not keys[start].isdigit():
            before, after = keys[:start], keys[start:]
            return ["/".join([*before, str(i), *after]) for i in range(shape[0])]
    return ["/".join(keys)]


def unrolled_shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by its unrolled path; `params` are arrays or their shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for keys, leaf in leaves(params):
        paths = canonical_paths(keys, leaf.shape)
        scanned = paths != ["/".join(keys)]
        shapes |= dict.fromkeys(paths, tuple(leaf.shape[1:] if scanned else leaf.shape))
    return shapes


def filled(shapes: Tree, read: Callable[[str, Any], Any], keys: tuple[str, ...] = ()) -> Tree:
    """The arrays of a tree of shapes, read one by one; layers of scanned stacks are stacked.

    Args:
      shapes: nested dicts of shapes.
      read: returns the value of an unrolled path, an array or a tree of arrays; its second argument
        is the leaf of `shapes`. If it returns None, the path is left out of the result.
      keys: the keys of `shapes` in the whole tree.
    """
    tree: Tree = {}
    for name, child in shapes.items():
        here = (*keys, name)
        if isinstance(child, Mapping):
            if below := filled(dict(child), read, here):
                tree[name] = below
            continue
        paths = canonical_paths(here, child.shape)
        first = read(paths[0], child)
        if first is None:
            continue
        later = (read(path, child) for path in paths[1:])
        scanned = paths != ["/".join(here)]
        tree[name] = _stacked(itertools.chain([first], later), len(paths)) if scanned else first
    return tree


def _stacked(layers: Iterator[Any], count: int) -> Any:
    """The arrays, or trees of arrays, of all layers along a new first axis, one after the other."""
    stacks: list[np.ndarray] = []
    for i, layer in enumerate(layers):
        arrays, structure = jax.tree.flatten(layer)
        stacks = stacks or [_aligned((count, *array.shape), array.dtype) for array in arrays]
        for k, array in enumerate(arrays):
            if array.dtype != stacks[k].dtype:
                stacks[k] = stacks[k].astype(np.promote_types(stacks[k].dtype, array.dtype))
            stacks[k][i] = array
    return jax.tree.unflatten(structure, stacks)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array that is not initialised. On CPU, JAX takes it over without a copy."""
    # It does so where memory begins at a multiple of 64 bytes. Large blocks of malloc don't.
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def match(
    rules: Sequence[tuple[str, T]], params: Tree, field: str
) -> dict[tuple[str, ...], list[T]]:
    """For each array, the value of the first rule whose pattern matches the whole path.

    Args:
      rules: (regular expression, value) pairs.
      params: parameters, or their shapes.
      field: the recipe field that holds the rules, for messages.

    Returns:
      By the keys of each array: a list with one value, or one for each layer of a scanned stack.

    Raises:
      UserError: for an invalid expression; for one that matches nothing, or only paths that earlier
        rules match (except '.*' at the end); and for a parameter that no rule matches.
    """
    patterns = [_compile(pattern, field) for pattern, _ in rules]
    reached: set[int] = set()
    hidden_by: dict[int, int] = {}
    result: dict[tuple[str, ...], list[T]] = {}
    every: list[str] = []
    for keys, leaf in leaves(params):
        names = canonical_paths(keys, leaf.shape)
        every += names
        result[keys] = []
        for name in names:
            hits = [i for i, pattern in enumerate(patterns) if pattern.fullmatch(name)]
            if not hits:
                raise UserError(f"{field}: no pattern covers {name!r}; end with a rule for '.*'")
            first, *later = hits
            reached.add(first)
            hidden_by |= dict.fromkeys(later, first)
            result[keys].append(rules[first][1])
    for i, (pattern, _) in enumerate(rules):
        if i in reached or (pattern == ".*" and i == len(rules) - 1):
            continue
        if i in hidden_by:
            before = rules[hidden_by[i]][0]
            raise UserError(f"{field}: {pattern!r} is never reached: {before!r} comes before it")
        (near,) = difflib.get_close_matches(pattern, every, n=1, cutoff=0)
        raise UserError(f"{field}: {pattern!r} matches no parameter; the nearest is {near!r}")
    return result


def _compile(pattern: str, field: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{field}: {pattern!r} is not a regular expression: {error}") from None


def factors(rules: Sequence[tuple[str, float]], params: Tree, field: str) -> Tree:
    """A tree like `params` with a factor for each array, which broadcasts against it.

    Raises:
      UserError: as `match` does.
    """
    matched = match(rules, params, field)

    def at(keys: tuple[str, ...], node: Any) -> Any:
        if isinstance(node, Mapping):
            return {name: at((*keys, name), child) for name, child in node.items()}
        values = matched[keys]
        if len(set(values)) == 1:
            return values[0]
        return np.asarray(values).reshape(-1, *(1,) * (len(node.shape) - 1))

    return at((), params)


def select(pattern: str, params: Tree, field: str = "trains", frozen: Sequence[str] = ()) -> Tree:
    """The parameters whose whole path matches a pattern, without those that `frozen` matches.

    Raises:
      UserError: if the pattern matches nothing, or only some layers of a scanned stack.

    >>> select("text/.*", {"image": {"norm": np.ones(2)}, "text": {"norm": np.zeros(2)}})
    {'text': {'norm': array([0., 0.])}}
    """
    out = [(other, False) for other in frozen]
    chosen = match([*out, (pattern, True), (".*", False)], params, field)

    def at(keys: tuple[str, ...], node: Mapping[str, Any]) -> Tree:
        part: Tree = {}
        for name, child in node.items():
            here = (*keys, name)
            if isinstance(child, Mapping):
                if below := at(here, child):
                    part[name] = below
            elif all(chosen[here]):
                part[name] = child
            elif any(chosen[here]):
                path = "/".join(here)
                names = canonical_paths(here, child.shape)
                stays = [o for o in frozen if any(re.fullmatch(o, name) for name in names)]
                who, what = ("optim.frozen", stays[0]) if stays else (field, pattern)
                raise UserError(f"{who}: {what!r} takes only some layers of {path}; unset scan")
        return part

    return at((), params)


def merge(params: Tree, part: Tree) -> Tree:
    """The parameters with the arrays of `part` replaced.

    >>> merge({"image": 1, "text": 2}, {"text": 3})
    {'image': 1, 'text': 3}
    """
    return {
        name: merge(dict(child), part[name])
        if isinstance(child, Mapping) and name in part
        else part.get(name, child)
        for name, child in params.items()
    }


def union(left: Tree, right: Tree) -> Tree:
    """The arrays of both trees; where both have one, that of `right`.

    >>> union({"image": {"a": 1}}, {"image": {"b": 2}, "text": 3})
    {'image': {'a': 1, 'b': 2}, 'text': 3}
    """
    both = dict(left)
    for name, child in right.items():
        old = both.get(name)
        if isinstance(child, Mapping) and isinstance(old, Mapping):
            both[name] = union(dict(old), dict(child))
        else:
            both[name] = child
    return both


def select_like(tree: Tree, part: Tree) -> Tree:
    """The entries of `tree` at the paths that `part` has."""
    return {
        name: select_like(tree[name], dict(child)) if isinstance(child, Mapping) else tree[name]
        for name, child in part.items()
    }
