"""Any fusion on easy-vqa: 5,000 images of one shape, 48,248 questions, 13 answers.

The model and the training are those of a fusion's `:tiny` recipe. `vljax data build easy-vqa` makes
the files:

    python train.py configs/easy_vqa.py:vilt --data.source.path data/easy-vqa/train.jsonl \
        --final_evaluators.questions.source.source.path data/easy-vqa/test.jsonl

Variants: the name of a recipe of a fusion (`vilt`, `gcn_fusion`, ...), or one of the names with
which such a recipe has several (`early_concat.sum`). Without a variant, it is
`vqa_cross_attention`.
"""

import dataclasses
import importlib

from vqa_cross_attention import QUESTIONS, TINY_SIZE

from vljax.recipes import (
    ChooseQuestions,
    Decode,
    EncodeAnswers,
    Expand,
    JsonLines,
    Resize,
    Run,
    Tokenize,
    Transform,
    choose,
)

ANSWERS = (
    *("circle", "rectangle", "triangle"),
    *("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
    *("no", "yes"),
)
FUSIONS = {
    "vqa_cross_attention": (),
    "vqa_co_attention": (),
    "gated_cross_attention": (),
    "q_former_vqa": (),
    "vilt": (),
    "vl_bert": (),
    "early_concat": ("sum", "product"),
    "vqa_cnn_lstm": (),
    "bilinear_fusion": ("mfb",),
    "attention_weighted_fusion": (),
    "gcn_fusion": ("attention",),
    "decision_fusion": ("product", "maximum", "stacking", "agreement"),
    "semantic_embedding": (),
}
"""Recipe -> the names that follow `tiny_` in its variants."""
RECIPES = {name: importlib.import_module(name).recipe for name in FUSIONS}


def recipe(variant: str = "") -> Run:
    """A fusion on easy-vqa; see above for the variants."""
    variants = {name: (name, "tiny") for name in FUSIONS}
    variants |= {f"{name}.{x}": (name, f"tiny_{x}") for name, xs in FUSIONS.items() for x in xs}
    variants[""] = variants["vqa_cross_attention"]
    name, which = choose(variant, variants)
    run: Run = RECIPES[name](which)

    # Nothing names what each cell of an image shows.
    nodes = {name: node for name, node in run.model.nodes.items() if name != "cell"}
    nodes["answer"] = dataclasses.replace(nodes["answer"], classes=len(ANSWERS))
    objectives = {n: o for n, o in run.objectives.items() if n not in ("cell", "look")}
    source = JsonLines(question="questions")
    asked = dataclasses.replace(
        run.final_evaluators["questions"], source=Expand(source, by="question"), pointing=()
    )
    return dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, nodes=nodes),
        data=dataclasses.replace(
            run.data,
            source=source,
            train_transforms=transforms(QUESTIONS),
            eval_transforms=transforms(1),
        ),
        objectives=objectives,
        final_evaluators={"questions": asked},
    )


def transforms(count: int) -> tuple[Transform, ...]:
    """Of an image with so many of its questions."""
    return (
        Decode(),
        Resize(TINY_SIZE, mode="squash"),
        ChooseQuestions(count=count),
        EncodeAnswers(ANSWERS),
        Tokenize("question", tokenizer="text"),
    )
