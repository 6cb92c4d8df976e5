"""The average of word embeddings: the simplest encoder of texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from flax import linen as nn
from jaxtyping import Array, Bool, Int

from vljax.models.compute import Call, Compute
from vljax.models.encoders.text import TextEncoder, looked_up, texts_as_rows
from vljax.models.layers.basic import MLP, Dropout
from vljax.models.layers.pooling import mean
from vljax.models.node import Encoded


@dataclass(frozen=True, kw_only=True)
class WordAverage(TextEncoder, name="word_average"):
    """Word embeddings and their average, as in a deep averaging network (Iyyer et al. 2015).

    Tokens are the embeddings, without an order of words. The pooled vector is the mean of those
    that are not padding; with `hidden`, a layer follows (Iyyer et al. 2015, eq. 3 to 5).

    >>> WordAverage(vocab_size=2048, context_length=20, width=300).makes("text")
    {'text': ()}
    """

    width: int
    """Size of word embeddings and of the pooled vector."""
    hidden: int | None = None
    """Size of a hidden layer after the average, before a linear map to `width`; None for neither:
    then the pooled vector is the average."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] = "gelu_tanh"
    """Of the hidden layer."""
    dropout: float = 0.0
    """Probability that a value of an embedding is dropped in training."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        for name in ("width", "hidden"):
            if (value := getattr(self, name)) is not None and value < 1:
                yield name, f"must be at least 1, not {value}"
        if not 0 <= self.dropout < 1:
            yield "dropout", f"must be in [0, 1), not {self.dropout}"

    def module(self, compute: Compute, name: str) -> nn.Module:
        return WordAverageModule(self, compute, name=name)


class WordAverageModule(nn.Module):
    """Token ids to tokens; see `WordAverage` for the options."""

    config: WordAverage
    compute: Compute

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "batch *texts length"],
        mask: Bool[Array, "batch *texts length"] | None = None,
        call: Call = Call(),
    ) -> Encoded:
        """Encodes at most `context_length` ids in [0, vocab_size); `mask` is False for padding.

        Several texts of an example become rows, as `texts_as_rows` says.

        Raises:
          ValueError: if the sequence is longer than the context.
        """
        config, compute = self.config, self.compute
        ids, mask, call = texts_as_rows(ids, mask, call, config.context_length)
        x: Array = looked_up(self, ids, config.vocab_size, config.width, compute)
        x = x.astype(compute.dtype)
        x = Dropout(name="dropout")(x, config.dropout, call) if config.dropout else x
        pooled = mean(x, mask)
        if config.hidden is not None:
            mlp = MLP(config.hidden, config.activation, compute, name="mlp")
            pooled = mlp(pooled[:, None])[:, 0]
        return Encoded(x, mask, pooled)
