"""A small CLIP on images in their native aspect ratio: minutes on two CPU cores.

The quickstart with NaFlex (docs/naflex.md): the built-in clip art, which is rarely square, becomes
sequences of up to 64 patches. `naflex.py:tiny` takes seconds.
"""

from quickstart import evaluators

from vljax.recipes import (
    BUILTIN_VOCABULARY,
    AdamW,
    Builtin,
    ChooseText,
    ColourJitter,
    Data,
    Decode,
    Embedding,
    Flip,
    HuggingFace,
    ModelConfig,
    NaFlexViT,
    Patchify,
    Run,
    SoftmaxContrastive,
    TextTransformer,
    Tokenize,
    WarmupCosine,
    choose,
)

PATCH = 8
SIDE = 8  # side of the position table, and of the patch grid of a square image at full length
LENGTHS = (16, 36, SIDE**2)  # square numbers, so that square images have no padding
CONTEXT = 16


def recipe(variant: str = "") -> Run:
    """NaFlex with three sequence lengths; the variant `tiny` takes seconds."""
    tiny = choose(variant, {"": False, "tiny": True})
    width, depth, steps, batch = (32, 2, 20, 64) if tiny else (128, 4, 270, 256)
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
                "image": NaFlexViT(
                    image_size=SIDE * PATCH, patch_size=PATCH, depth=depth, pooling="map", **tower
                ),
                "text": TextTransformer(
                    vocab_size=2048, context_length=CONTEXT, depth=2, pooling="mean", **tower
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
                Flip(),
                ColourJitter(0.2, 0.2, 0.2),
                Patchify(PATCH, lengths=LENGTHS),
                ChooseText("random", tags=0.3, caption_and_tags=0.3),
                Tokenize(),
            ),
            eval_transforms=(
                Decode(),
                Patchify(PATCH, lengths=LENGTHS[-1:]),
                ChooseText(),
                Tokenize(),
            ),
        ),
        objectives={"contrastive": SoftmaxContrastive()},
        optim=AdamW(
            learning_rate=1e-3,
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
