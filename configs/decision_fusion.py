"""Each modality answers by itself, and a rule combines the answers.

Besides the combined answer, each modality is trained by a loss of its own.

Variants:
  - "": ViT-B/16 and a text transformer of 6 blocks, combined by a learned map (stacking).
  - "tiny", "tiny_product", "tiny_maximum", "tiny_stacking": some minutes on two CPU cores; a
    weighted vote, a product of experts, the maximum, stacking.
  - "tiny_agreement": answers only if both modalities agree, and abstains otherwise. Its logits are
    those of "tiny_product"; evaluation also measures how often it answers, and the accuracy there.
"""

import dataclasses
from typing import Any

from vqa_cross_attention import TINY_SIZE, TINY_WIDTH, Answer, full, tiny

from vljax.recipes import Classification, ConvGrid, Decision, Run, choose

STREAMS = ("image", "question")


def recipe(variant: str = "") -> Run:
    """Visual question answering by late fusion."""
    rule: Any = choose(
        variant,
        {
            "": None,
            "tiny": "vote",
            "tiny_product": "product",
            "tiny_maximum": "maximum",
            "tiny_stacking": "stacking",
            "tiny_agreement": "agreement",
        },
    )
    if rule is None:
        run = full({}, answer=decision("stacking"))
    else:
        # The fusion has few parameters; the image tower has those that other fusions have.
        image = ConvGrid(width=TINY_WIDTH, image_size=TINY_SIZE, depth=6)
        run = tiny({}, image=image, answer=decision(rule))
    each = {
        stream: Classification(logits=f"answer/{stream}_logits", targets="answer", weight=0.5)
        for stream in STREAMS
    }
    run = dataclasses.replace(run, objectives={**run.objectives, **each})
    if rule != "agreement":
        return run
    evaluators: Any = {
        name: dataclasses.replace(evaluator, decided="answer/decided", curve=True)
        for name, evaluator in run.final_evaluators.items()
    }
    return dataclasses.replace(run, final_evaluators=evaluators)


def decision(rule: Any) -> Answer:
    """The answers by a rule."""
    return lambda classes: Decision(streams=STREAMS, classes=classes, rule=rule)
