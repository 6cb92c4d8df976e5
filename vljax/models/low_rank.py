"""Low-rank adaptation of linear maps (LoRA, Hu et al. 2021, arXiv 2106.09685).

A kernel W stays as it is, and the product of two small factors is trained beside it: the linear map
is x W + (alpha / rank) (x D) U. The factors are parameters beside their kernel, `down_kernel` and
`up_kernel`, so they are sharded, optimized, averaged and saved like any other. Only training knows
of them: whoever reads a trained model gets `merged` kernels.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.config import UserError
from vljax.models.kernels.linear import LinearKernel, tensordot
from vljax.models.parameters import Tree, leaves, linear_inputs, match, partial_layers

DOWN, UP = "down_kernel", "up_kernel"
# Both end in "kernel", so that the usual rules for weight decay hold for them too.


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Which kernels get low-rank factors, and what is trained beside the factors.

    All parameters but the factors are frozen, except those of `also_train`.

    >>> LowRank(kernels=(".*/(query|value)/kernel",), rank=4, alpha=8).scale
    2.0
    >>> LowRank().used
    False
    """

    kernels: tuple[str, ...] = ()
    """Patterns of kernels of linear maps, such as '(image|text)/.*/(query|value)/kernel'; they are
    frozen, and their factors are trained. Without any, there are no factors."""
    rank: int = 8
    """Columns of the first factor, and rows of the second."""
    alpha: float | None = None
    """The product of the factors is multiplied by alpha / rank; None for a factor of 1."""
    also_train: tuple[str, ...] = ()
    """Patterns of parameters that are trained beside the factors, such as 'embedding/.*'."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.used:
            for name, default in (("rank", 8), ("alpha", None), ("also_train", ())):
                if (value := getattr(self, name)) != default:
                    message = (
                        f"is {value!r}, and does nothing without factors; set low_rank.kernels"
                    )
                    yield name, f"{message}, or leave it at {default!r}"
        if self.rank < 1:
            yield "rank", f"must be at least 1, not {self.rank}"
        if self.alpha is not None and self.alpha <= 0:
            yield "alpha", f"must be positive, or None for the rank, not {self.alpha}"

    @property
    def used(self) -> bool:
        """Whether any kernel has factors."""
        return bool(self.kernels)

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def trained(self, params: Tree) -> Tree:
        """The parameters that are trained: the factors, and what `also_train` matches.

        Args:
          params: all parameters, with factors, or their shapes.

        Raises:
          UserError: for a pattern that matches nothing, a kernel that has factors, or only some
            layers of a scanned stack.
        """
        name = "low_rank.also_train"
        chosen = match([*((p, p) for p in self.also_train), (".*", "")], params, name)

        def at(keys: tuple[str, ...], node: Mapping[str, Any]) -> Tree:
            part: Tree = {}
            for key, child in node.items():
                here = (*keys, key)
                if isinstance(child, Mapping):
                    if below := at(here, child):
                        part[key] = below
                    continue
                matched = chosen[here]
                if key in (DOWN, UP) or all(matched):
                    part[key] = child
                if key == "kernel" and DOWN in node and any(matched):
                    raise UserError(
                        f"{name}: {matched[0]!r} matches {'/'.join(here)}, which is frozen: it has"
                        " factors; leave it out of one of low_rank.kernels and low_rank.also_train"
                    )
                if any(matched) and not all(matched):
                    raise partial_layers(name, next(filter(None, matched)), here)
            return part

        return at((), params)


# --- The linear map -------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRankKernel:
    """A kernel with its factors; it replaces the array in the parameter tree of a forward pass.

    In a scanned stack, all arrays have the layers as an additional first axis.
    """

    kernel: Array
    """Shape (*input axes, *output axes)."""
    down: Array
    """Shape (*input axes, rank)."""
    up: Array
    """Shape (rank, *output axes)."""
    scale: float = field(metadata={"static": True})


def low_rank_linear(
    x: Float[Array, "..."], kernel: LowRankKernel, inputs: int, linear: LinearKernel = tensordot
) -> Float[Array, "..."]:
    """A linear map with factors, in the type of `x`; the kernel and its factors are not multiplied.

    Args:
      x: features.
      kernel: the kernel with its factors.
      inputs: number of input axes of the kernel.
      linear: how products are computed.
    """
    y = linear(x, kernel.kernel.astype(x.dtype), inputs)
    hidden = linear(x, kernel.down.astype(x.dtype), inputs)
    return y + kernel.scale * linear(hidden, kernel.up.astype(x.dtype), 1)


# --- Trees of parameters --------------------------------------------------------------------------


def adapted_kernels(low_rank: LowRank, params: Tree, axes: Tree) -> dict[tuple[str, ...], int]:
    """The keys of the kernels that get factors, each with its number of input axes.

    Args:
      low_rank: the patterns.
      params: parameters without factors, or their shapes.
      axes: mirrors `params` with logical axes.

    Raises:
      UserError: for a pattern that matches nothing, something other than the kernel of a linear
        map, or only some layers of a scanned stack.
    """
    name, names = "low_rank.kernels", dict(leaves(axes))
    rules = [*((pattern, pattern) for pattern in low_rank.kernels), (".*", "")]
    found: dict[tuple[str, ...], int] = {}
    for keys, matched in match(rules, params, name).items():
        if not any(matched):
            continue
        pattern, inputs = next(filter(None, matched)), linear_inputs(keys, names[keys])
        if inputs is None:
            kind = "a convolution" if "patch" in names[keys] else "not the kernel of a linear map"
            what = f"{kind}, not a linear map" if kind == "a convolution" else kind
            raise UserError(
                f"{name}: {pattern!r} matches {'/'.join(keys)}, which is {what}; only kernels of"
                " linear maps can have low-rank factors, as in 'image/blocks/.*/kernel'"
            )
        if not all(matched):
            raise partial_layers(name, pattern, keys)
        found[keys] = inputs
    return found


def _beside(
    tree: Tree,
    kernels: Mapping[tuple[str, ...], int],
    make: Callable[[tuple[str, ...], Any, int], tuple[Any, Any]],
    keys: tuple[str, ...] = (),
) -> Tree:
    """The tree with two more leaves beside each kernel, as `make` gives them."""
    made: Tree = {}
    for name, child in tree.items():
        here = (*keys, name)
        if isinstance(child, Mapping):
            made[name] = _beside(dict(child), kernels, make, here)
            continue
        made[name] = child
        if here in kernels:
            made[DOWN], made[UP] = make(here, child, kernels[here])
    return made


def factor_axes(axes: Tree, kernels: Mapping[tuple[str, ...], int]) -> Tree:
    """Logical axes with those of the factors of `kernels` (see `adapted_kernels`).

    >>> factor_axes({"query": {"kernel": ("embed", "heads", "head_dim")}}, {("query", "kernel"): 1})
    {'query': {'kernel': ('embed', 'heads', 'head_dim'), 'down_kernel': ('embed', 'rank'), \
'up_kernel': ('rank', 'heads', 'head_dim')}}
    """

    def make(_: Any, names: tuple[str, ...], inputs: int) -> tuple[Any, Any]:
        layers, own = _split(names)
        return (*layers, *own[:inputs], "rank"), (*layers, "rank", *own[inputs:])

    return _beside(axes, kernels, make)


def _split(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The axis of layers, if there is one, and the other axes."""
    count = int(names[0] == "layers")
    return names[:count], names[count:]


def with_factors(
    params: Tree,
    axes: Tree,
    kernels: Mapping[tuple[str, ...], int],
    rank: int,
    key: Array,
) -> Tree:
    """Parameters with initial factors, which change nothing: `up_kernel` is zero.

    `down_kernel` is Gaussian with variance 1 / inputs, so that it keeps the scale of features.

    Args:
      params: parameters without factors.
      axes: mirrors `params` with logical axes.
      kernels: see `adapted_kernels`.
      rank: see `LowRank`.
      key: the random key.
    """
    names = dict(leaves(axes))

    def make(keys: tuple[str, ...], kernel: Array, inputs: int) -> tuple[Array, Array]:
        count = len(_split(names[keys])[0])
        layers, own = kernel.shape[:count], kernel.shape[count:]
        down = (*layers, *own[:inputs], rank)
        drawn = jax.random.normal(
            jax.random.fold_in(key, zlib.crc32("/".join(keys).encode())), down, kernel.dtype
        )
        up = jnp.zeros((*layers, rank, *own[inputs:]), kernel.dtype)
        return drawn / math.sqrt(math.prod(own[:inputs])), up

    return _beside(params, kernels, make)


def packed(params: Tree, scale: float) -> Tree:
    """Parameters for a forward pass: each kernel that has factors becomes a `LowRankKernel`."""

    def join(kernel: Any, down: Any, up: Any) -> LowRankKernel:
        return LowRankKernel(kernel, down, up, scale)

    return _joined(params, join)


def without_factors(params: Tree) -> Tree:
    """Parameters, or what mirrors them, without factors."""
    return _joined(params, lambda kernel, *_: kernel)


def merged(params: Tree, scale: float) -> Tree:
    """Parameters in which each kernel that has factors is the sum of kernel and product.

    >>> import numpy as np
    >>> factors = {"down_kernel": np.array([[1.0], [2.0]]), "up_kernel": np.array([[10.0, 0.0]])}
    >>> merged({"logits": {"kernel": np.zeros((2, 2)), **factors}}, 0.5)["logits"]["kernel"]
    array([[ 5.,  0.],
           [10.,  0.]])
    """
    return _joined(params, lambda kernel, down, up: merged_kernel(kernel, down, up, scale))


def merged_kernel(kernel: Any, down: Any, up: Any, scale: float) -> Any:
    """kernel + scale * down up, of NumPy or JAX arrays; the arithmetic is in at least float32.

    Args:
      kernel: its shape and those of the factors are as in `LowRankKernel`.
      down: the first factor.
      up: the second factor.
      scale: see `LowRank`.
    """
    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    # Only a scanned stack has one axis more: that of the layers, which all three have.
    layers = kernel.shape[: down.ndim + up.ndim - kernel.ndim - 2]
    rank = down.shape[-1]
    product = down.astype(wide).reshape(*layers, -1, rank) @ up.astype(wide).reshape(
        *layers, rank, -1
    )
    return (kernel.astype(wide) + scale * product.reshape(kernel.shape)).astype(kernel.dtype)


def _joined(node: Tree, join: Callable[[Any, Any, Any], Any]) -> Tree:
    made = {
        name: _joined(dict(child), join) if isinstance(child, Mapping) else child
        for name, child in node.items()
        if name not in (DOWN, UP)
    }
    if DOWN in node:
        made["kernel"] = join(node["kernel"], node[DOWN], node[UP])
    return made
