"""VL-BERT (Su et al. 2020): features of the image and words in one BERT.

The features are those of a CNN's grid instead of an object detector's regions, as in grid features
(Jiang et al. 2020), so that no other model is needed.

Variants:
  - "": ResNet-101 at 224 pixels, whose grid of 7 x 7 features joins the words in a BERT-base
    (section 3.2: 12 blocks, a norm after each branch).
  - "tiny": some minutes on two CPU cores.
"""

from typing import Any

from vqa_cross_attention import CONTEXT, TINY_BLOCK, classifier, full, tiny, tiny_question

from vljax.recipes import AdamW, Run, SingleStream, TextTransformer, WarmupCosine, choose, presets

STREAMS = ("question", "image")
BERT: dict[str, Any] = {"post_norm": True, "embedding_norm": True}


def recipe(variant: str = "") -> Run:
    """Visual question answering by a BERT that reads features of the image too."""
    if choose(variant, {"": False, "tiny": True}):
        fusion = SingleStream(streams=STREAMS, depth=4, pooling="mean", **BERT, **TINY_BLOCK)
        return tiny({"fusion": fusion}, question=tiny_question(depth=0))
    sizes: dict[str, Any] = {"width": 768, "heads": 12, "mlp_dim": 3072, "scan": False}
    sizes |= {"activation": "gelu", "norm_epsilon": 1e-12}
    words = TextTransformer(
        vocab_size=2048, context_length=CONTEXT, depth=0, pooling="first", **BERT, **sizes
    )
    optim = AdamW(
        # As the authors' configuration for VQA, which states the rate for each example of a batch.
        learning_rate=6.25e-7 * 256,
        weight_decay=1e-4,
        clip_norm=1.0,
        schedule=WarmupCosine(warmup_steps=500),
    )
    return full(
        {
            "fusion": SingleStream(
                streams=STREAMS, depth=12, projected=("image",), dropout=0.1, **BERT, **sizes
            )
        },
        image=presets.resnet(101, image_size=224),
        question=words,
        answer=classifier(hidden=768),
        optim=optim,
    )
