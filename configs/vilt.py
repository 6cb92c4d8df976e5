"""ViLT (Kim et al. 2021): patches and words go into one transformer without towers before it.

Variants:
  - "": ViLT-B/32: a ViT-B whose blocks read the words of the question and the patches of an image
    of 384 pixels (section 4.2, also for the learning rate and weight decay).
  - "tiny": some minutes on two CPU cores.
"""

from typing import Any

from vqa_cross_attention import (
    CONTEXT,
    TINY_BLOCK,
    TINY_SIZE,
    classifier,
    full,
    tiny,
    tiny_question,
)

from vljax.recipes import AdamW, Run, SingleStream, ViT, WarmupCosine, choose, presets

STREAMS = ("question", "image")


def recipe(variant: str = "") -> Run:
    """Visual question answering by one transformer."""
    if choose(variant, {"": False, "tiny": True}):
        block = {**TINY_BLOCK, "mlp_dim": 352}
        fusion = SingleStream(streams=STREAMS, depth=6, pooling="mean", **block)
        image = ViT(image_size=TINY_SIZE, patch_size=8, depth=0, pooling="mean", **TINY_BLOCK)
        return tiny({"fusion": fusion}, image=image, question=tiny_question(depth=0))
    sizes: dict[str, Any] = {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072}
    embedded: dict[str, Any] = {**sizes, "depth": 0, "scan": False}
    optim = AdamW(
        learning_rate=1e-4,
        weight_decay=0.01,
        clip_norm=1.0,
        schedule=WarmupCosine(warmup_steps=1000),
    )
    return full(
        {"fusion": SingleStream(streams=STREAMS, pooler=True, scan=False, **sizes)},
        image=presets.vit("B/32", image_size=384, depth=0, scan=False, pooling="mean"),
        question=presets.text("B", vocab_size=2048, context_length=CONTEXT, **embedded),
        answer=classifier(hidden=1536),
        optim=optim,
        loss="sigmoid",
    )
