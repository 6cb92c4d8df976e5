"""A weighted sum of one vector for each modality: f = a_image f_image + a_question f_question.

The weights are a softmax of scores that depend on both vectors, and an output that can be looked
at. The vector of the image is the mean of its tokens, weighted by the question (Yang et al. 2016).

Variants:
  - "": ViT-B/16 and a text transformer of 6 blocks.
  - "tiny": some minutes on two CPU cores.
"""

from vqa_cross_attention import TINY_WIDTH, full, tiny

from vljax.recipes import AttentionWeighted, GuidedAttention, Run, choose

STREAMS = ("looked", "question")


def recipe(variant: str = "") -> Run:
    """Visual question answering by attention weights."""
    if choose(variant, {"": False, "tiny": True}):
        looked = GuidedAttention(
            query="question", width=TINY_WIDTH, hidden=192, hops=2, activation="none"
        )
        fusion = AttentionWeighted(streams=STREAMS, width=224, score="learned", hidden=224)
        return tiny({"looked": looked, "fusion": fusion}, attention="looked/attention")
    return full(
        {
            "looked": GuidedAttention(query="question", width=768, hidden=512, hops=2),
            "fusion": AttentionWeighted(streams=STREAMS, width=1024, score="learned"),
        },
        attention="looked/attention",
    )
