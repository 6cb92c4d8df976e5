"""Low-rank bilinear fusion of one vector of the image and one of the question: MUTAN and MFB.

Variants:
  - "": MUTAN (Ben-younes et al. 2017, section 4: vectors of 360, rank 10) of a ResNet-152 and a
    GRU of 2400, the size of the paper's skip-thought vectors.
  - "tiny": MUTAN, some minutes on two CPU cores. "tiny_mfb": MFB (Yu et al. 2017).
"""

from vqa_cross_attention import CONTEXT, classifier, full, tiny

from vljax.recipes import GRU, AdamW, Mfb, Mutan, Run, WarmupCosine, choose, presets

STREAMS = ("image", "question")


def recipe(variant: str = "") -> Run:
    """Visual question answering by a bilinear form."""
    small = {
        "": None,
        "tiny": Mutan(streams=STREAMS, width=224, projected=96, rank=5),
        "tiny_mfb": Mfb(streams=STREAMS, width=240, factor=5),
    }
    fusion = choose(variant, small)
    if fusion is not None:
        return tiny({"fusion": fusion})
    return full(
        {"fusion": Mutan(streams=STREAMS, width=360, projected=360, rank=10, dropout=0.5)},
        image=presets.resnet(152, image_size=448),
        question=GRU(vocab_size=2048, context_length=CONTEXT, width=2400, word_width=620),
        answer=classifier(),
        optim=AdamW(learning_rate=1e-4, clip_norm=1.0, schedule=WarmupCosine(warmup_steps=1000)),
        batch=512,
    )
