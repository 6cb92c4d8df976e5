"""Two streams that attend to each other, as in ViLBERT and LXMERT.

Variants:
  - "": ViT-B/16, a text transformer of 6 blocks, and 6 blocks of co-attention: the connected layers
    of ViLBERT (Lu et al. 2019, section 3.1).
  - "tiny": some minutes on two CPU cores; both directions share the weights of cross-attention, as
    in LXMERT (Tan & Bansal 2019, section 2.2).
"""

from vqa_cross_attention import TINY_BLOCK, classifier, full, tiny

from vljax.recipes import CoAttention, Run, choose

STREAMS = ("question", "image")


def recipe(variant: str = "") -> Run:
    """Visual question answering by co-attention."""
    if choose(variant, {"": False, "tiny": True}):
        block = {**TINY_BLOCK, "mlp_dim": 64}
        fusion = CoAttention(
            streams=STREAMS, depth=2, shared=True, cross_attention="before_self", **block
        )
        return tiny({"fusion": fusion}, answer=classifier("fusion.question"))
    fusion = CoAttention(
        streams=STREAMS, width=768, depth=6, heads=12, mlp_dim=3072, pooling="first", scan=False
    )
    return full({"fusion": fusion}, answer=classifier("fusion.question", hidden=1536))
