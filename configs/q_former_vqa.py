"""A Q-Former: learned queries read the image for the question, as in BLIP-2 and InstructBLIP.

Variants:
  - "": ViT-L/14 at 224 pixels and a Q-Former of BERT-base size with 32 queries, joined by the
    embedded words of the question (Li et al. 2023, section 3.1; Dai et al. 2023, section 2.3).
  - "tiny": some minutes on two CPU cores.
"""

from typing import Any

from vqa_cross_attention import CONTEXT, TINY_BLOCK, classifier, full, tiny

from vljax.recipes import AdamW, QFormer, Run, TextTransformer, WarmupCosine, choose, presets


def recipe(variant: str = "") -> Run:
    """Visual question answering by learned queries."""
    if choose(variant, {"": False, "tiny": True}):
        block = {**TINY_BLOCK, "mlp_dim": 144}
        former = QFormer(text="question", num_queries=8, depth=2, cross_every=1, **block)
        return tiny({"fusion": former}, answer=classifier("fusion.question"))
    sizes: dict[str, Any] = {"width": 768, "heads": 12, "mlp_dim": 3072, "scan": False}
    words = TextTransformer(
        vocab_size=2048,
        context_length=CONTEXT,
        depth=0,
        pooling="first",
        embedding_norm=True,
        post_norm=True,
        **sizes,
    )
    return full(
        {"fusion": QFormer(text="question", num_queries=32, depth=12, **sizes)},
        image=presets.vit("L/14", image_size=224, pooling="mean", scan=False),
        question=words,
        answer=classifier("fusion", hidden=1536),
        optim=AdamW(
            learning_rate=1e-4,
            weight_decay=0.05,
            b2=0.98,
            clip_norm=1.0,
            schedule=WarmupCosine(warmup_steps=2000),
        ),
    )
