"""Fusions by attention weights: over the streams, and over the tokens of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.fusion.fusion import Fusion, aligned, of_vector, pooled, rows_for_each
from vljax.models.fusion.vectors import ACTIVATIONS, Activation, Projections, size_problems
from vljax.models.layers.basic import Dropout, Linear
from vljax.models.node import ATTENTION, Encoded, Inputs, Node, width_misfit
from vljax.models.numerics import widened
from vljax.models.parameters import with_axes

# --- Over the streams -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AttentionWeighted(Fusion, name="attention_weighted"):
    """The weighted sum of one vector for each stream: f = a_I f_I + a_T f_T.

    f_s = activation(W_s v_s + b_s). The weights a_s are the softmax over streams of scores, and an
    output `NAME/weights`, [batch, streams]. With `score` "dot", the score of a stream is
    q . f_s / sqrt(width) with a learned query q; with "learned", the scores are
    W_2 tanh(W_1 [f_1; f_2; ...] + b_1) + b_2, so that the weight of a stream depends on the others
    too, as in the gated unit of Arevalo et al. (2017, GMU), whose gate has no hidden layer.

    >>> fusion = AttentionWeighted(streams=("image", "question"), width=512, score="learned")
    >>> list(fusion.makes("fusion"))
    ['fusion', 'fusion/weights']
    """

    width: int
    """Size of the projected vectors, and of the fused one."""
    score: Literal["dot", "learned"] = "dot"
    """How streams are scored; see above."""
    hidden: int | None = None
    """Size of the hidden layer of learned scores; None for `width`."""
    activation: Activation = "tanh"
    """Applied to the projected vectors."""
    dropout: float = 0.0
    """Probability that a value of the fused vector is dropped in training."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from size_problems(self, "width", "hidden")
        if self.score == "dot" and self.hidden is not None:
            yield "hidden", "is for learned scores; use None, or score learned"

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {name: self.streams, f"{name}/weights": self.streams}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return AttentionWeightedModule(self, compute, name=name)


class AttentionWeightedModule(nn.Module):
    """Pooled vectors to one vector and the weights; see `AttentionWeighted`."""

    config: AttentionWeighted
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded | Array]:
        config, compute = self.config, self.compute
        streams, call = aligned(inputs, config.streams, call)
        vectors = dict(zip(config.streams, map(pooled, streams), strict=True))
        project = Projections(config.width, config.activation, compute, "none", name="project")
        projected = jnp.stack(project(vectors), axis=1)
        weights = jax.nn.softmax(self._scores(projected))
        fused = jnp.einsum("bs,bsd->bd", weights.astype(compute.dtype), projected)
        if config.dropout:
            fused = Dropout(name="dropout")(fused, config.dropout, call)
        fused = compute.constrain(fused, ("batch", "embed"))
        return {self.name or "": of_vector(fused), f"{self.name}/weights": weights}

    def _scores(self, vectors: Float[Array, "batch streams width"]) -> Array:
        config, compute = self.config, self.compute
        if config.score == "dot":
            init = with_axes(nn.initializers.normal(1.0), "embed")
            query = self.param("query", init, (config.width,), compute.param_dtype)
            scores = jnp.einsum("bsd,d->bs", widened(vectors), widened(query))
            return scores * config.width**-0.5
        all_of_them = rearrange(vectors, "batch streams width -> batch (streams width)")
        size = config.width if config.hidden is None else config.hidden
        hidden = Linear((size,), ("embed", "mlp"), compute, name="hidden")(all_of_them)
        score = Linear((len(config.streams),), ("mlp", "none"), compute, name="scores")
        return widened(score(jnp.tanh(hidden)))


# --- Over the tokens of a stream ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GuidedAttention(Node, name="guided_attention"):
    """Pools the tokens of one stream by the vector of another one (Yang et al. 2016, SAN).

    With u_0 the pooled vector of `query` and v_i the projected tokens of `context`, each hop has
    h_i = tanh(W_I v_i + W_Q u + b), p = softmax(w . h_i) over the tokens, and
    u_k = sum p_i v_i + u_(k-1) (section 3.3). The result is a stream of one token, u_k after the
    last hop, or the image's part of it for a fusion of vectors that reads the question anyway:

    >>> looked = GuidedAttention(query="question", width=512, hops=2, result="attended")
    >>> looked.makes("looked")
    {'looked': ('question', 'image')}
    >>> from vljax.models.fusion import Product
    >>> Product(streams=("looked", "question"), width=512).makes("fusion")
    {'fusion': ('looked', 'question')}

    `NAME/attention` are the weights p if they are asked for, [batch, hops, 1, 1, tokens].
    """

    query: str = "text"
    """The stream whose pooled vector guides; it must be `width` wide. It may have several texts for
    each row of `context`."""
    context: str = "image"
    """The stream whose tokens are pooled; of any width."""
    width: int
    """Size of the projected tokens, and of the result."""
    hidden: int | None = None
    """Size of h; None for `width`."""
    hops: int = 1
    """How often the query is refined."""
    result: Literal["refined", "attended"] = "refined"
    """refined: u after the last hop, as in the paper; attended: the last hop's sum of p_i v_i."""
    activation: Activation = "tanh"
    """Applied to the projected tokens."""
    dropout: float = 0.0
    """Probability that a value of h is dropped in training."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from size_problems(self, "width", "hidden", "hops")
        if self.query == self.context:
            yield "context", f"is {self.context!r}, as query; name another stream"

    def graph_problems(
        self, name: str, widths: Mapping[str, int | None]
    ) -> Iterator[tuple[str, str]]:
        if sizes := width_misfit(widths, self.query, self.width):
            yield "query", f"{sizes}; make them equal"

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {name: (self.query, self.context)}

    def made_if_wanted(self, name: str) -> dict[str, tuple[str, ...]]:
        return {f"{name}/{ATTENTION}": (self.query, self.context)}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return GuidedAttentionModule(self, compute, name=name)


class GuidedAttentionModule(nn.Module):
    """Tokens and a vector to one vector; see `GuidedAttention`."""

    config: GuidedAttention
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded]:
        config, compute = self.config, self.compute
        query, context = pooled(inputs[config.query]), inputs[config.context]
        rows_for_each(inputs, config.query, config.context)  # refuses rows that do not fit
        call = call.for_rows(query.shape[0])
        project = Linear((config.width,), ("embed", "none"), compute, name="project")
        tokens = ACTIVATIONS[config.activation](project(context.tokens))
        tokens = compute.constrain(tokens, ("batch", "length", "embed"))
        refined = query.astype(compute.dtype)
        for i in range(config.hops):
            attended = _Hop(config, compute, name=f"hop_{i}")(refined, tokens, context.mask, call)
            refined = refined + attended
        vector = refined if config.result == "refined" else attended
        return {self.name or "": of_vector(compute.constrain(vector, ("batch", "embed")))}


class _Hop(nn.Module):
    config: GuidedAttention
    compute: Compute

    @nn.compact
    def __call__(
        self, query: Array, tokens: Array, mask: Array, call: Call
    ) -> Float[Array, "rows width"]:
        config, compute = self.config, self.compute
        size = (config.width if config.hidden is None else config.hidden,)
        # The texts of an image share its tokens: [images, texts, tokens, hidden], without copies.
        texts = query.shape[0] // tokens.shape[0]
        of_tokens = Linear(size, ("embed", "mlp"), compute, 1, False, name="tokens")(tokens)
        of_query = Linear(size, ("embed", "mlp"), compute, name="query")(query)
        of_query = rearrange(of_query, "(images texts) d -> images texts 1 d", texts=texts)
        hidden = rearrange(jnp.tanh(of_tokens[:, None] + of_query), "i t n d -> (i t) n d")
        if config.dropout:
            hidden = Dropout(name="dropout")(hidden, config.dropout, call)
        # Without the paper's bias, which the softmax cancels.
        scores = Linear((1,), ("mlp", "none"), compute, 1, False, name="scores")(hidden)
        scores = rearrange(widened(scores), "(i t) n 1 -> i t n", t=texts)
        # Finite, so that an image without tokens has equal weights and not NaN.
        scores = jnp.where(mask[:, None], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores)
        if call.attention:
            # Read as one block of `NAME/attention`, with one head and one query.
            by_row = rearrange(weights, "i t n -> (i t) 1 1 n")
            self.sow("intermediates", "cross_attention", by_row)
        attended = jnp.einsum("itn,ind->itd", weights.astype(compute.dtype), tokens)
        return rearrange(attended, "i t d -> (i t) d")
