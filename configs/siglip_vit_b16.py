"""SigLIP ViT-B/16 at 224 pixels (Zhai et al. 2023, arXiv 2303.15343).

Differences from the paper:
  - Data: WebLI (English) is not public. `data.source.path` is unset, and so is the path of the
    tokenizer, the 32k SentencePiece model of C4 (`c4_en`).
  - `optim`: AdamW instead of Adafactor, with the paper's beta2 of 0.95 and clipping to norm 1.
  - `weight_decay` is 0.1. The paper subtracts 1e-4 directly; here the value is multiplied by the
    learning rate (1e-3), so that a step subtracts the same.
  - `context_length` is 64 as in the released model; most experiments of the paper use 16.
  - `warmup_steps` and the number of examples are choices of this recipe: the paper has several
    runs.
  - `tokenizer.cleaning` is "ascii_lower", as in big_vision's training (`tokenize` in
    pp/ops_text.py, and the SigLIP demo), which keeps punctuation. Only big_vision's evaluations
    remove it from class names and prompts ("siglip"); here one tokenizer serves both.
  - Resizing is bilinear without antialiasing, as `resize` of big_vision's pp/ops_image.py does and
    as its SigLIP demo uses; the training configuration of the released models is not public.
    OpenCV rounds to whole levels and TensorFlow truncates: at most one level of difference.
    open_clip and transformers use an antialiased bicubic filter instead.
"""

from vljax.recipes import (
    AdamW,
    ChooseText,
    Data,
    Decode,
    Embedding,
    JsonLines,
    ModelConfig,
    Resize,
    Run,
    SentencePiece,
    SigmoidContrastive,
    Tokenize,
    WarmupCosine,
    choose,
    presets,
)

EXAMPLES = 9_000_000_000
BATCH = 32_768
VOCABULARY = 32_000
CONTEXT = 64


def siglip(
    image: str, text: str, image_size: int, *, width: int, examples: int, scan: bool = True
) -> Run:
    """SigLIP with towers of named sizes (`vljax.models.presets`), both of the given width."""
    resize = Resize(image_size, mode="squash", interpolation="bilinear", antialias=False)
    return Run(
        model=ModelConfig(
            {
                "image": presets.vit(image, image_size=image_size, pooling="map", scan=scan),
                # Bidirectional; padding (more end tokens) is not masked, as in the released models.
                "text": presets.text(
                    text,
                    vocab_size=VOCABULARY,
                    context_length=CONTEXT,
                    mask_padding=False,
                    pooling="last",
                    scan=scan,
                ),
                "embedding": Embedding(width, projections={"image": "none", "text": "affine"}),
            }
        ),
        data=Data(
            source=JsonLines(),
            tokenizers={"text": SentencePiece(context_length=CONTEXT, cleaning="ascii_lower")},
            train_transforms=(Decode(), resize, ChooseText("random"), Tokenize()),
            eval_transforms=(Decode(), resize, ChooseText(), Tokenize()),
        ),
        objectives={"contrastive": SigmoidContrastive(temperature=0.1, bias=-10.0)},
        optim=AdamW(
            learning_rate=1e-3,
            b2=0.95,
            weight_decay=0.1,
            decay_rules=((".*kernel|.*patch_embedding", 1.0), (".*", 0.0)),
            clip_norm=1.0,
            schedule=WarmupCosine(warmup_steps=10_000),
        ),
        steps=examples // BATCH,
        global_batch=BATCH,
        log_every=50,
        evaluate_every=5000,
        checkpoint_every=1000,
    )


def recipe(variant: str = "") -> Run:
    """The published hyper-parameters; there are no variants."""
    choose(variant, {"": None})
    # Unrolled blocks compile more slowly and run faster (docs/tpu_performance.md).
    return siglip("B/16", "B", 224, width=768, examples=EXAMPLES, scan=False)
