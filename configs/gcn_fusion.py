"""A graph of patches and words, whose edges are their similarities.

Variants:
  - "": ViT-B/16, a text transformer of 6 blocks, and 3 graph convolutions (Kipf & Welling 2017)
    over the 16 most similar nodes of each.
  - "tiny": some minutes on two CPU cores. "tiny_attention": graph attention (Velickovic et al.
    2018) instead of convolution.
"""

from vqa_cross_attention import full, tiny

from vljax.recipes import GraphFusion, Run, choose

STREAMS = ("image", "question")


def recipe(variant: str = "") -> Run:
    """Visual question answering by a graph."""
    small = {
        "": None,
        "tiny": GraphFusion(streams=STREAMS, width=160, depth=7, readout=("question",)),
        "tiny_attention": GraphFusion(
            streams=STREAMS,
            width=160,
            depth=8,
            layer="attention",
            heads=4,
            readout=("question",),
        ),
    }
    fusion = choose(variant, small)
    if fusion is not None:
        return tiny({"fusion": fusion})
    return full(
        {
            "fusion": GraphFusion(
                streams=STREAMS, width=1024, depth=3, neighbours=16, readout=("question",)
            )
        }
    )
