"""The classical baseline: a CNN for the image, an LSTM for the question, and their product.

As "deeper LSTM Q + norm I" of Antol et al. 2015 (VQA, section 4), with a ResNet in place of VGG:
both vectors are brought to one size, multiplied element by element, and classified by an MLP.

Variants:
  - "": ResNet-50 at 224 pixels, an LSTM of 2 layers, both projected to 1024.
  - "tiny": some minutes on two CPU cores.
"""

from vqa_cross_attention import (
    CONTEXT,
    TINY_CONTEXT,
    TINY_SIZE,
    TINY_WIDTH,
    classifier,
    full,
    tiny,
)

from vljax.recipes import LSTM, AdamW, Product, ResNet, Run, WarmupCosine, choose, presets

STREAMS = ("image", "question")


def recipe(variant: str = "") -> Run:
    """Visual question answering by a CNN and an LSTM."""
    if choose(variant, {"": False, "tiny": True}):
        return tiny(
            {"fusion": Product(streams=STREAMS, width=256)},
            image=ResNet(
                image_size=TINY_SIZE,
                repeats=(1, 3),
                block="basic",
                stem_width=TINY_WIDTH // 2,
                norm="group",
                groups=8,
            ),
            question=LSTM(vocab_size=2048, context_length=TINY_CONTEXT, width=TINY_WIDTH),
        )
    question = LSTM(vocab_size=2048, context_length=CONTEXT, width=512, word_width=300, depth=2)
    return full(
        {"fusion": Product(streams=STREAMS, width=1024, dropout=0.5)},
        image=presets.resnet(50, image_size=224),
        question=question,
        answer=classifier(hidden=1000),
        optim=AdamW(learning_rate=3e-4, clip_norm=1.0, schedule=WarmupCosine(warmup_steps=1000)),
        batch=512,
        steps=50_000,
    )
