"""A text transformer that reads texts alone, or grounded in an image (BLIP)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from flax import linen as nn
from jaxtyping import Array, Bool, Int

from vljax.models.compute import Call, Compute
from vljax.models.encoders.text import TextModule, TextTransformer
from vljax.models.node import Encoded, Inputs, Products

GROUNDED = "grounded"
"""Last part of the name of the stream that has seen the context."""


@dataclass(frozen=True, kw_only=True)
class GroundedText(TextTransformer, name="grounded_text"):
    """The unimodal and the image-grounded text encoder of BLIP (Li et al. 2022, section 3.1).

    It makes two streams. `NAME` encodes the text alone, for a shared embedding space.
    `NAME.grounded` encodes it once more with the same parameters, and with attention to `context`
    in each block, for matching and for answers. A model computes what its outputs need.

    >>> sizes = {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072}
    >>> GroundedText(vocab_size=30_524, context_length=40, **sizes).makes("text")
    {'text': (), 'text.grounded': ('image',)}
    """

    context: str = "image"
    """The stream that the grounded text attends to; of any width, and with fewer rows if an image
    has several texts."""
    cross_attention: Literal["none", "after_self", "before_self"] = "after_self"
    """Whether blocks attend to the context after or before they attend to their own tokens."""

    reads_context = True

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.cross_attention == "none":
            yield "cross_attention", "is what grounds the text; use after_self or before_self"

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {name: (), f"{name}.{GROUNDED}": (self.context,)}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return GroundedTextModule(self, compute, name=name)

    def run(self, module: nn.Module, name: str, inputs: Inputs, call: Call) -> Products:
        ids, mask = inputs[self.entry_of(name)], inputs.get(self.entry_of(name, "mask"))
        made: Mapping[str, Encoded] = module(ids, mask, call, inputs.get(self.context))
        return {f"{name}{end}": stream for end, stream in made.items()}


class GroundedTextModule(nn.Module):
    """Token ids to the tokens of one or both streams; see `GroundedText`."""

    config: GroundedText
    compute: Compute

    def setup(self) -> None:
        self.encode = TextModule(self.config, self.compute)
        # So parameters have the paths of any text encoder, without a level for `encode`.
        nn.share_scope(self, self.encode)

    def __call__(
        self,
        ids: Int[Array, "batch *texts length"],
        mask: Bool[Array, "batch *texts length"] | None = None,
        call: Call = Call(),
        context: Encoded | None = None,
    ) -> dict[str, Encoded]:
        """The streams by the end of their names: "", and with a context ".grounded"."""
        made = {}
        # The grounded one first: it has all parameters, of which the other one needs a part.
        if context is not None:
            made[f".{GROUNDED}"] = self.encode(ids, mask, call, context)
        return {"": self.encode(ids, mask, call), **made}
