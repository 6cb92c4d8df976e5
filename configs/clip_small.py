"""A small CLIP in the layout of OpenAI's, which every format of `vljax export` can express.

It is trained from scratch on the built-in clip art, as `quickstart.py` is, in minutes on two CPU
cores. `clip_small.py:tiny` takes seconds. What differs from the quickstart is what CLIP in
transformers and open_clip has: a class token with a position, a layer norm before the first block,
patches without a bias, causal text pooled at its end token, and evaluation on squashed images.
"""

from vljax.recipes import (
    BUILTIN_VOCABULARY,
    Builtin,
    ChooseText,
    ColourJitter,
    Data,
    Decode,
    Embedding,
    Evaluator,
    Flip,
    HuggingFace,
    ModelConfig,
    Muon,
    RandomResizedCrop,
    Resize,
    Retrieval,
    Run,
    SoftmaxContrastive,
    TextTransformer,
    Tokenize,
    ViT,
    WarmupCosine,
    ZeroShot,
    choose,
)

IMAGE_SIZE = 60
CONTEXT = 16


def evaluators(source: Builtin) -> dict[str, Evaluator]:
    """Retrieval and zero-shot classification by bare class names, which are like the captions."""
    return {
        "retrieval": Retrieval(source),
        "zero_shot": ZeroShot(source, templates=("{}",)),
    }


def recipe(variant: str = "") -> Run:
    """The quickstart in CLIP's layout; the variant `tiny` takes seconds."""
    tiny = choose(variant, {"": False, "tiny": True})
    width, depth, steps, batch = (32, 2, 20, 64) if tiny else (128, 4, 240, 128)
    tower = {
        "width": width,
        "heads": width // 32,
        "mlp_dim": 4 * width,
        "dropout": 0.1,
        "scan": False,
    }
    return Run(
        model=ModelConfig(
            {
                "image": ViT(
                    image_size=IMAGE_SIZE,
                    patch_size=12,
                    depth=depth,
                    pooling="cls",
                    cls_position=True,
                    input_norm=True,
                    patch_bias=False,
                    **tower,
                ),
                "text": TextTransformer(
                    vocab_size=2048,
                    context_length=CONTEXT,
                    depth=2,
                    causal=True,
                    pooling="eos",
                    **tower,
                ),
                "embedding": Embedding(dim=width),
            }
        ),
        data=Data(
            source=Builtin("train"),
            tokenizers={
                "text": HuggingFace(
                    str(BUILTIN_VOCABULARY), context_length=CONTEXT, cleaning="lower"
                )
            },
            train_transforms=(
                Decode(random_background=True),
                Resize(66),
                RandomResizedCrop(IMAGE_SIZE, scale=(0.6, 1.0)),
                Flip(),
                ColourJitter(0.2, 0.2, 0.2),
                ChooseText("random", tags=0.3, caption_and_tags=0.3),
                Tokenize(),
            ),
            eval_transforms=(Decode(), Resize(IMAGE_SIZE), ChooseText(), Tokenize()),
        ),
        objectives={"contrastive": SoftmaxContrastive()},
        optim=Muon(
            learning_rate=3e-3,
            weight_decay=0.3,
            b2=0.98,
            schedule=WarmupCosine(warmup_steps=steps // 10),
        ),
        evaluators=evaluators(Builtin("validation")),
        final_evaluators=evaluators(Builtin("test")),
        steps=steps,
        global_batch=batch,
        log_every=max(1, steps // 60),
        evaluate_every=steps // (2 if tiny else 6),
        checkpoint_every=steps // (4 if tiny else 6),
    )
