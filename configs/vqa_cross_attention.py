"""Answering questions about images by cross-attention from the question to the image.

A text transformer reads the question, an image encoder makes tokens, and fusion layers let the
words of the question attend to these. The answer is one of those of the training questions. Images
are composed scenes, which come with questions (docs/scenes.md).

Variants:
  - "": ViT-B/16 at 224 pixels, a text transformer of 6 and a fusion of 6 layers.
  - "tiny": some minutes on two CPU cores; small scenes of animals and food. Two auxiliary losses
    use the masks of the scene: one names the object in each cell of the image, one has the question
    attend to the object that answers it.
  - "tiny_question" and "tiny_image": the same model without the image, or without the question.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from vljax.recipes import (
    SCENES_VOCABULARY,
    AdamW,
    AnswerCells,
    AttentionTarget,
    Builtin,
    ChooseQuestions,
    Classification,
    Classifier,
    ConvGrid,
    CrossAttention,
    Data,
    Decode,
    EncodeAnswers,
    Expand,
    GridLabels,
    Hide,
    HuggingFace,
    ModelConfig,
    Muon,
    Node,
    Objective,
    PadRegions,
    Questions,
    Regions,
    Resize,
    ResNet,
    Run,
    Scenes,
    TextTransformer,
    Tokenize,
    Transform,
    WarmupCosine,
    answer_vocabulary,
    choose,
    object_names,
    presets,
)

CONTEXT = 20
"""Tokens of the longest question."""
QUESTIONS = 4
"""Questions for each image of a batch: the image is encoded once for all of them."""
TINY_CONTEXT = 18
"""Tokens of the longest question about the scenes of the tiny recipe."""
# What most scenes of the tiny recipe show; the other classes of the built-in pictures are left out.
KEPT = ("animals", "food")
TINY_WIDTH, TINY_SIZE = 96, 64
TINY_BLOCK: dict[str, Any] = {
    "width": TINY_WIDTH,
    "heads": 4,
    "mlp_dim": 3 * TINY_WIDTH,
    "scan": False,
}
"""Sizes of the blocks of towers and fusions in the tiny recipes."""


Answer = Callable[[int], Node]
"""Makes the node of the answers from their number."""


def recipe(variant: str = "") -> Run:
    """Visual question answering; see above for the variants."""
    hidden = choose(
        variant,
        {"": None, "tiny": (), "tiny_question": ("image",), "tiny_image": ("question",)},
    )
    if hidden is None:
        sizes: dict[str, Any] = {"width": 768, "depth": 6, "heads": 12, "mlp_dim": 3072}
        fusion = CrossAttention(queries="question", pooling="first", scan=False, **sizes)
        return full({"fusion": fusion}, attention="fusion/attention")
    fusion = CrossAttention(
        queries="question", pooling="mean", depth=2, cross_attention="before_self", **TINY_BLOCK
    )
    return tiny({"fusion": fusion}, hidden=hidden, look=0.25, attention="fusion/attention")


def classifier(stream: str = "fusion", hidden: int | None = None) -> Answer:
    """The answers as classes of the pooled vector of a stream."""
    return lambda classes: Classifier(stream=stream, classes=classes, hidden=hidden)


def full(
    fusion: dict[str, Node],
    *,
    image: Any = None,
    question: Any = None,
    answer: Answer | None = None,
    optim: AdamW | None = None,
    batch: int = 256,
    steps: int = 100_000,
    attention: str | None = None,
    loss: Literal["softmax", "sigmoid"] = "softmax",
) -> Run:
    """Towers of published sizes, by default those of ALBEF (Li et al. 2021, section 3.1).

    Args:
      fusion: the nodes between the towers and the answer.
      image: the image tower, by default ViT-B/16; it may make a grid of any size.
      question: the tower of the question, by default a transformer of six blocks.
      answer: makes the node `answer`, by default a classifier with a hidden layer.
      optim: by default AdamW as in ALBEF.
      batch: images in a batch.
      steps: of training.
      attention: output with the attention of the question to the image, for a figure.
      loss: of the answers.
    """
    image = presets.vit("B/16", image_size=224, pooling="mean") if image is None else image
    source = Scenes(Builtin("train"), size=image.image_size, examples=1_000_000)
    # Answers and names do not depend on the size of images.
    named = dataclasses.replace(source, size=224)
    if question is None:
        # Unrolled: with scanned blocks, the predicted step on TPU takes 1.4 times as long
        # (docs/tpu_performance.md).
        text: dict[str, Any] = {"vocab_size": 2048, "context_length": CONTEXT, "depth": 6}
        question = presets.text("B", **text, pooling="first", scan=False)
    if optim is None:
        schedule = WarmupCosine(warmup_steps=1000)
        optim = AdamW(learning_rate=1e-4, weight_decay=0.02, clip_norm=1.0, schedule=schedule)
    return visual_questions(
        {"image": image, "question": question, **fusion},
        source=source,
        evaluation=dataclasses.replace(source, examples=5000, seed=1),
        answers=answer_vocabulary(named, examples=20_000),
        names=object_names(named, examples=20_000),
        answer=answer or classifier(hidden=1536),
        optim=optim,
        batch=batch,
        steps=steps,
        attention=attention,
        loss=loss,
    )


def tiny(
    fusion: dict[str, Node],
    *,
    image: Any = None,
    question: Any = None,
    answer: Answer | None = None,
    hidden: tuple[str, ...] = (),
    look: float | None = None,
    attention: str | None = None,
) -> Run:
    """A model of a million parameters, some minutes on two CPU cores.

    Args:
      fusion: the nodes between the towers and the answer.
      image: the image tower, by default convolutions of a grid of 8 x 8 tokens.
      question: the tower of the question, by default a transformer of one block.
      answer: makes the node `answer`, by default a linear classifier.
      hidden: what the model does not see: "image", "question".
      look: weight of the loss by which the question attends to the object that answers it.
      attention: output with the attention of the question to the image.
    """
    left_out = tuple(name for name in Builtin("train").open().class_names if name not in KEPT)
    scenes: dict[str, Any] = {"size": TINY_SIZE, "max_objects": 3, "leave_out": left_out}
    source = Scenes(Builtin("train"), examples=30_000, **scenes)
    return visual_questions(
        {
            "image": ConvGrid(width=TINY_WIDTH, image_size=TINY_SIZE) if image is None else image,
            "question": tiny_question() if question is None else question,
            **fusion,
        },
        source=source,
        evaluation=Scenes(Builtin("train"), examples=400, seed=1, **scenes),
        answers=answer_vocabulary(source, examples=5000),
        names=object_names(source, examples=5000),
        answer=answer or classifier(),
        hidden=hidden,
        # Embeddings start small: at the rate of the matrices, a name would change with each step
        # that shows it, and words never match what the image shows.
        optim=Muon(
            learning_rate=8e-3,
            rate_rules=(
                ("(image|question|fusion)/.*kernel", 1.0),
                ("question/(embedding|positions)", 0.12),
                (".*", 0.35),
            ),
            schedule=WarmupCosine(warmup_steps=30),
        ),
        batch=64,
        steps=600,
        look=look,
        attention=attention,
    )


def tiny_question(**fields: Any) -> TextTransformer:
    """The tower of the question in the tiny recipes."""
    sizes = {"vocab_size": 2048, "context_length": TINY_CONTEXT, "depth": 1, **TINY_BLOCK}
    return TextTransformer(**{"pooling": "mean", "embedding_norm": True, **sizes, **fields})


def visual_questions(
    nodes: dict[str, Any],
    *,
    source: Scenes,
    evaluation: Scenes,
    answers: tuple[str, ...],
    names: tuple[str, ...],
    answer: Answer,
    optim: AdamW,
    batch: int,
    steps: int,
    hidden: tuple[str, ...] = (),
    look: float | None = None,
    attention: str | None = None,
    loss: Literal["softmax", "sigmoid"] = "softmax",
) -> Run:
    """A run that answers questions, and names the object in each cell of the image.

    Args:
      nodes: image, question and fusion.
      source: the training scenes.
      evaluation: other scenes of the same objects.
      answers: the classes.
      names: the names of objects.
      answer: makes the node `answer`.
      optim: the optimizer.
      batch: images in a batch.
      steps: of training.
      hidden: what the model does not see: "image", "question".
      look: weight of the loss by which the question attends to the object that answers it.
      attention: output with the attention of the question to the image.
      loss: of the answers.
    """
    size = nodes["image"].image_size
    hide: tuple[Transform, ...] = tuple(Hide(entry) for entry in hidden)
    blind = "image" in hidden

    def transforms(count: int, *extra: Transform) -> tuple[Transform, ...]:
        return (
            Decode(),
            *extra[:1],
            Resize(size, mode="squash"),
            ChooseQuestions(count=count),
            *extra[1:],
            EncodeAnswers(answers),
            *hide,
            Tokenize("question", tokenizer="text"),
        )

    objectives: dict[str, Objective] = {
        "answer": Classification(logits="answer/logits", targets="answer", loss=loss)
    }
    extra: tuple[Transform, ...] = ()
    evaluated: tuple[Transform, ...] = ()
    if not blind:
        cells = _cells(nodes["image"])
        nodes = {**nodes, "cell": Classifier(stream="image", classes=len(names), features="tokens")}
        objectives["cell"] = Classification(logits="cell/logits", targets="grid_labels")
        extra = (Regions(), GridLabels(cells, names=names))
        if look is not None and not hidden:
            objectives["look"] = AttentionTarget(weight=look)
            extra += (AnswerCells(cells),)
        evaluated = (Regions(), PadRegions(most=8))
    questions = Questions(
        source=Expand(evaluation, by="question"),
        batch_size=256,
        attention=None if blind else attention,
    )

    return Run(
        model=ModelConfig({**nodes, "answer": answer(len(answers))}),
        data=Data(
            source=source,
            tokenizers={
                "text": HuggingFace(
                    str(SCENES_VOCABULARY),
                    context_length=nodes["question"].context_length,
                    cleaning="lower",
                )
            },
            train_transforms=transforms(QUESTIONS, *extra),
            eval_transforms=transforms(1, *evaluated),
        ),
        objectives=objectives,
        optim=optim,
        final_evaluators={"questions": questions},
        steps=steps,
        global_batch=batch,
        log_every=max(1, steps // 60),
        checkpoint_every=max(1, steps // 4),
    )


def _cells(image: Any) -> int:
    """Rows, and columns, of an image's tokens."""
    if isinstance(image, ResNet):
        return image.side if image.grid is None else image.grid[0]
    side: int = image.grid
    return side
