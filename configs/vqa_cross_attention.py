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

from typing import Any

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
    Objective,
    PadRegions,
    Questions,
    Regions,
    Resize,
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


def recipe(variant: str = "") -> Run:
    """Visual question answering; see above for the variants."""
    hidden = choose(
        variant,
        {"": None, "tiny": (), "tiny_question": ("image",), "tiny_image": ("question",)},
    )
    return full() if hidden is None else tiny(hidden)


def full() -> Run:
    """ViT-B/16 and a fusion of six layers, sizes as in ALBEF (Li et al. 2021, section 3.1)."""
    size, grid = 224, 14
    source = Scenes(Builtin("train"), size=size, examples=1_000_000)
    answers = answer_vocabulary(source, examples=20_000)
    names = object_names(source, examples=20_000)
    # Unrolled: with scanned blocks, the predicted step on TPU takes 1.4 times as long
    # (docs/tpu_performance.md).
    text: dict[str, Any] = {"vocab_size": 2048, "context_length": CONTEXT, "depth": 6}
    text |= {"pooling": "first", "scan": False}
    fusion: dict[str, Any] = {"width": 768, "depth": 6, "heads": 12, "mlp_dim": 3072, "scan": False}
    image = presets.vit("B/16", image_size=size, pooling="mean")
    return visual_questions(
        {
            "image": image,
            "question": presets.text("B", **text),
            "fusion": CrossAttention(queries="question", pooling="first", **fusion),
        },
        source=source,
        evaluation=Scenes(Builtin("train"), size=size, examples=5000, seed=1),
        answers=answers,
        names=names,
        cells=grid,
        hidden=(),
        optim=AdamW(
            learning_rate=1e-4,
            weight_decay=0.02,
            clip_norm=1.0,
            schedule=WarmupCosine(warmup_steps=1000),
        ),
        batch=256,
        steps=100_000,
        answer_hidden=1536,
    )


def tiny(hidden: tuple[str, ...]) -> Run:
    """A model of a million parameters."""
    left_out = tuple(name for name in Builtin("train").open().class_names if name not in KEPT)
    scenes: dict[str, Any] = {"size": 64, "max_objects": 3, "leave_out": left_out}
    source = Scenes(Builtin("train"), examples=30_000, **scenes)
    width = 96
    block: dict[str, Any] = {"width": width, "heads": 4, "mlp_dim": 3 * width, "scan": False}
    return visual_questions(
        {
            "image": ConvGrid(width=width, image_size=64, patch_size=4, merge=2, depth=3),
            "question": TextTransformer(
                vocab_size=2048,
                context_length=TINY_CONTEXT,
                depth=1,
                pooling="mean",
                embedding_norm=True,
                **block,
            ),
            "fusion": CrossAttention(
                queries="question", pooling="mean", depth=2, cross_attention="before_self", **block
            ),
        },
        source=source,
        evaluation=Scenes(Builtin("train"), examples=400, seed=1, **scenes),
        answers=answer_vocabulary(source, examples=5000),
        names=object_names(source, examples=5000),
        cells=8,
        hidden=hidden,
        # Embeddings start small: at the rate of the matrices, a name would change with each step
        # that shows it, and words never match what the image shows.
        optim=Muon(
            learning_rate=8e-3,
            rate_rules=(
                ("image/.*kernel|.*/blocks/.*kernel", 1.0),
                ("question/(embedding|positions)", 0.12),
                (".*", 0.35),
            ),
            schedule=WarmupCosine(warmup_steps=30),
        ),
        batch=64,
        steps=600,
        answer_hidden=None,
        look=0.25,
    )


def visual_questions(
    nodes: dict[str, Any],
    *,
    source: Scenes,
    evaluation: Scenes,
    answers: tuple[str, ...],
    names: tuple[str, ...],
    cells: int,
    hidden: tuple[str, ...],
    optim: AdamW,
    batch: int,
    steps: int,
    answer_hidden: int | None,
    look: float | None = None,
) -> Run:
    """A run that answers questions, and names the object in each cell of the image.

    Args:
      nodes: image, question and fusion.
      source: the training scenes.
      evaluation: other scenes of the same objects.
      answers: the classes.
      names: the names of objects.
      cells: rows and columns of image tokens.
      hidden: what the model does not see: "image", "question".
      optim: the optimizer.
      batch: images in a batch.
      steps: of training.
      answer_hidden: size of the classifier's hidden layer; None for none.
      look: weight of the loss by which the question attends to the object that answers it.
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
        "answer": Classification(logits="answer/logits", targets="answer")
    }
    extra: tuple[Transform, ...] = ()
    evaluated: tuple[Transform, ...] = ()
    if not blind:
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
        attention=None if blind else "fusion/attention",
    )
    answer = Classifier(stream="fusion", classes=len(answers), hidden=answer_hidden)

    return Run(
        model=ModelConfig({**nodes, "answer": answer}),
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
