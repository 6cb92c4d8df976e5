"""Fusion by a graph whose nodes are the tokens of all streams: image patches and words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vljax.models.compute import Call, Compute
from vljax.models.fusion.fusion import Fusion, aligned, joint_positions
from vljax.models.fusion.vectors import Projections, size_problems
from vljax.models.layers.basic import Dropout, Linear
from vljax.models.layers.pooling import mean
from vljax.models.node import Encoded, Inputs
from vljax.models.numerics import widened
from vljax.models.parameters import with_axes


@dataclass(frozen=True, kw_only=True)
class GraphFusion(Fusion, name="graph"):
    """Graph convolution or graph attention over the tokens of all streams.

    The nodes are W_s x + b_s for the tokens x of each stream s. Padding has no edges.

    - "convolution": H' = relu(D^-1/2 (A + I) D^-1/2 H W + b) (Kipf & Welling 2017, eq. 2). A is
      made once, from the nodes before the first layer: the softmax over the other nodes of the dot
      products of nodes projected by one matrix, over sqrt(width), made symmetric by
      (P + P^T) / 2. D are the row sums of A + I.
    - "attention": a_ij = softmax over j of LeakyReLU(a^T [W h_i; W h_j]), with slope 0.2
      (Velickovic et al. 2018, eq. 3), h_i' = ELU(sum of a_ij W h_j), the heads concatenated (eq.
      5), in every layer. A node attends to itself too.

    With `neighbours`, a node chooses the other nodes that have the largest dot products with it,
    and has edges to these only; for "convolution" also to those that chose it, since A is
    symmetric. For "attention", the products are of the nodes themselves, without a matrix.

    The result is a stream of all nodes, and `NAME/edges`, if it is asked for: how much node i takes
    of node j in the last layer, [batch, nodes, nodes], the mean over heads.

    >>> fusion = GraphFusion(streams=("image", "question"), width=512, depth=2, neighbours=8)
    >>> fusion.makes("fusion"), list(fusion.made_if_wanted("fusion"))
    ({'fusion': ('image', 'question')}, ['fusion/edges'])
    """

    width: int
    """Size of a node."""
    depth: int = 2
    """Number of layers."""
    layer: Literal["convolution", "attention"] = "convolution"
    """What a layer computes; see above."""
    heads: int = 1
    """Heads of attention; they divide the width."""
    neighbours: int | None = None
    """To how many nodes, besides itself, a node has edges; None for all of them."""
    residual: bool = True
    """Whether a layer's result is added to its input (Kipf & Welling 2017, appendix B)."""
    dropout: float = 0.0
    """Probability that a value of the input of a layer is dropped in training."""
    readout: tuple[str, ...] | None = None
    """The streams whose nodes are averaged to the pooled vector; None for all."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from size_problems(self, "width", "depth", "heads", "neighbours")
        if self.layer == "convolution" and self.heads != 1:
            yield "heads", "are for attention; use 1, or layer attention"
        elif self.heads > 0 and self.width % self.heads:
            yield "heads", f"{self.heads} heads do not divide the width {self.width}"
        if self.readout == ():
            yield "readout", "names no stream; use None for all"
        for stream in self.readout or ():
            if stream not in self.streams:
                yield "readout", f"{stream!r} is not fused; known: {', '.join(self.streams)}"

    def made_if_wanted(self, name: str) -> dict[str, tuple[str, ...]]:
        return {f"{name}/edges": self.streams}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return GraphModule(self, compute, name=name)


class GraphModule(nn.Module):
    """Tokens of several streams to one stream of nodes; see `GraphFusion`."""

    config: GraphFusion
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded | Array]:
        config, compute = self.config, self.compute
        # Projected before the tokens of an image are repeated for its texts.
        project = Projections(config.width, "none", compute, "none", name="project")
        nodes = project({name: inputs[name].tokens for name in config.streams})
        made = {
            name: inputs[name]._replace(tokens=tokens, pooled=None)
            for name, tokens in zip(config.streams, nodes, strict=True)
        }
        streams, call = aligned(made, config.streams, call)
        x = jnp.concatenate([stream.tokens for stream in streams], axis=1)
        x = compute.constrain(x, ("batch", "length", "embed"))
        mask = jnp.concatenate([stream.mask for stream in streams], axis=1)
        if config.layer == "convolution":
            normalised = normalised_adjacency(self._adjacency(x, mask))
        else:
            neighbours = self._neighbours(x, mask)
        for i in range(config.depth):
            y = Dropout(name=f"dropout_{i}")(x, config.dropout, call) if config.dropout else x
            if config.layer == "convolution":
                y = GraphConvolution(config.width, compute, name=f"layer_{i}")(y, normalised)
                edges = normalised
            else:
                attention = GraphAttention(config.width, config.heads, compute, name=f"layer_{i}")
                y, edges = attention(y, neighbours)
            y = compute.constrain(y, ("batch", "length", "embed"))
            x = x + y if config.residual else y
        read = [
            stream.mask & (config.readout is None or name in config.readout)
            for name, stream in zip(config.streams, streams, strict=True)
        ]
        pooled = mean(x, jnp.concatenate(read, axis=1))
        result = Encoded(x, mask, pooled, joint_positions(streams))
        return {self.name or "": result, f"{self.name}/edges": edges}

    def _adjacency(
        self, x: Float[Array, "batch nodes width"], mask: Bool[Array, "batch nodes"]
    ) -> Float[Array, "batch nodes nodes"]:
        """A: non-negative, symmetric, without self loops."""
        config = self.config
        axes = ("embed", "none")
        projected = Linear((config.width,), axes, self.compute, 1, False, name="similarity")(x)
        scores = _similarity(projected) * config.width**-0.5
        allowed = _others(mask)
        if config.neighbours is not None:
            allowed &= nearest(scores, allowed, config.neighbours)
        # Zero also for a node without any other node.
        weights = jnp.where(allowed, jax.nn.softmax(_only(scores, allowed)), 0)
        return (weights + jnp.swapaxes(weights, 1, 2)) / 2

    def _neighbours(
        self, x: Float[Array, "batch nodes width"], mask: Bool[Array, "batch nodes"]
    ) -> Bool[Array, "batch nodes nodes"]:
        """The nodes that a node attends to."""
        allowed = _others(mask)
        if self.config.neighbours is not None:
            scores = jax.lax.stop_gradient(_similarity(x))
            allowed &= nearest(scores, allowed, self.config.neighbours)
        return allowed | jnp.eye(mask.shape[1], dtype=bool)


def normalised_adjacency(
    adjacency: Float[Array, "batch nodes nodes"],
) -> Float[Array, "batch nodes nodes"]:
    """D^-1/2 (A + I) D^-1/2 with D the row sums of A + I (Kipf & Welling 2017, eq. 2).

    >>> normalised_adjacency(jnp.array([[[0.0, 1.0], [1.0, 0.0]]])).round(4).tolist()
    [[[0.5, 0.5], [0.5, 0.5]]]
    """
    with_loops = adjacency + jnp.eye(adjacency.shape[1], dtype=adjacency.dtype)
    factor = jax.lax.rsqrt(jnp.sum(with_loops, axis=-1))
    return factor[:, :, None] * with_loops * factor[:, None]


def nearest(
    scores: Float[Array, "batch nodes nodes"], allowed: Bool[Array, "batch nodes nodes"], count: int
) -> Bool[Array, "batch nodes nodes"]:
    """For each row, which columns have the `count` largest scores among those allowed.

    If fewer are allowed, all of them; columns that tie with the last one are included.
    """
    scores = _only(scores, allowed)
    last = jax.lax.top_k(scores, min(count, scores.shape[-1]))[0][..., -1:]
    return allowed & (scores >= last)


class GraphConvolution(nn.Module):
    """relu(A H W + b) with a normalised A (Kipf & Welling 2017, eq. 2)."""

    width: int
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch nodes embed"], adjacency: Float[Array, "batch nodes nodes"]
    ) -> Float[Array, "batch nodes width"]:
        mixed = jnp.einsum("bij,bjd->bid", adjacency.astype(self.compute.dtype), x)
        return jax.nn.relu(Linear((self.width,), ("embed", "mlp"), self.compute, name="map")(mixed))


class GraphAttention(nn.Module):
    """Multi-head graph attention (Velickovic et al. 2018, eq. 3 and 5)."""

    width: int
    heads: int
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch nodes embed"], neighbours: Bool[Array, "batch nodes nodes"]
    ) -> tuple[Float[Array, "batch nodes width"], Float[Array, "batch nodes nodes"]]:
        """The new nodes, and the weights of attention, the mean over heads."""
        compute = self.compute
        sizes = (self.heads, self.width // self.heads)
        axes = ("embed", "heads", "head_dim")
        x = Linear(sizes, axes, compute, 1, False, name="map")(x)
        x = compute.constrain(x, ("batch", "length", "heads", "head_dim"))
        init = with_axes(nn.initializers.xavier_uniform(), "heads", "head_dim")
        # The two halves of the paper's vector a.
        to, of = (
            jnp.einsum("bnhd,hd->bhn", widened(x), widened(vector))
            for vector in (
                self.param("receiving", init, sizes, compute.param_dtype),
                self.param("sending", init, sizes, compute.param_dtype),
            )
        )
        scores = jax.nn.leaky_relu(to[..., None] + of[:, :, None], 0.2)
        weights = jax.nn.softmax(_only(scores, neighbours[:, None]))
        mixed = jnp.einsum("bhij,bjhd->bihd", weights.astype(compute.dtype), x)
        mixed = rearrange(mixed, "b n h d -> b n (h d)")
        return jax.nn.elu(mixed), jnp.mean(weights, axis=1)


def _similarity(x: Float[Array, "batch nodes width"]) -> Float[Array, "batch nodes nodes"]:
    wide = widened(x).dtype
    return jnp.einsum("bid,bjd->bij", x, x, preferred_element_type=wide)


def _others(mask: Bool[Array, "batch nodes"]) -> Bool[Array, "batch nodes nodes"]:
    """Pairs of two different nodes that are not padding."""
    return mask[:, :, None] & mask[:, None] & ~jnp.eye(mask.shape[1], dtype=bool)


def _only(scores: Float[Array, "..."], allowed: Bool[Array, "..."]) -> Float[Array, "..."]:
    """The scores where allowed, else the lowest finite number."""
    return jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
