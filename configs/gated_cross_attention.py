"""Flamingo's gated cross-attention (Alayrac et al. 2022): a text stack that lets an image in.

The gates begin closed, so that a trained text stack keeps what it knows.

Variants:
  - "": ViT-L/14 at 224 pixels, whose tokens a resampler reduces to 64 (section 2.1), and a text
    stack of 12 blocks with a gated block before every fourth.
  - "tiny": some minutes on two CPU cores, without a resampler.
"""

from typing import Any

from vqa_cross_attention import CONTEXT, TINY_BLOCK, full, tiny

from vljax.recipes import GatedCrossAttention, Resampler, Run, choose, presets


def recipe(variant: str = "") -> Run:
    """Visual question answering by gated cross-attention."""
    if choose(variant, {"": False, "tiny": True}):
        block = {**TINY_BLOCK, "mlp_dim": 144}
        fusion = GatedCrossAttention(queries="question", depth=2, **block)
        return tiny({"fusion": fusion}, attention="fusion/attention")
    sizes: dict[str, Any] = {"width": 768, "heads": 12, "mlp_dim": 3072, "scan": False}
    text: dict[str, Any] = {"vocab_size": 2048, "context_length": CONTEXT, "depth": 0}
    return full(
        {
            "seen": Resampler(
                context="image", num_queries=64, depth=6, input_projection=True, **sizes
            ),
            "fusion": GatedCrossAttention(
                queries="question",
                context="seen",
                depth=12,
                cross_every=4,
                causal=True,
                pooling="eos",
                **sizes,
            ),
        },
        image=presets.vit("L/14", image_size=224, pooling="mean", scan=False),
        question=presets.text("B", **text, pooling="first", scan=False),
    )
