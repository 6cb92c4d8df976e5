"""CLIP ViT-B/16 (Radford et al. 2021, arXiv 2103.00020, tables 18 to 20).

Where it differs from the paper:
  - The data of the paper (WIT, 400M pairs) are not public: `data.source.path` is unset.
  - `precision`: bfloat16 in place of float16 with loss scaling.
  - Initial values: Xavier uniform in place of the paper's scaled normal ones.
  - `train_transforms`: to which size images are resized before the random square crop is not
    published; here the shortest side gets the size of the crop. JPEGs are decoded no finer than
    that and resized by means (`interpolation="area"`), within 2 of 255 levels of the bicubic
    filter on photographs (`benchmarks/data.py`). Evaluation is exact.
"""

from typing import Any, Literal

from vljax.recipes import (
    AdamW,
    ChooseText,
    Clip,
    Data,
    Decode,
    Embedding,
    JsonLines,
    ModelConfig,
    RandomCrop,
    Resize,
    Run,
    SoftmaxContrastive,
    Transform,
    WarmupCosine,
    choose,
    presets,
)

IMAGE_SIZE = 224
EXAMPLES = 32 * 400_000_000  # 32 epochs
BATCH = 32_768


def clip(
    image: str,
    text: dict[str, Any],
    *,
    dim: int,
    activation: Literal["gelu", "quick_gelu"],
    crop: Transform,
    optim: AdamW,
    examples: int,
    batch: int,
) -> Run:
    """CLIP with a ViT of a named size (`vljax.models.presets`) at 224 pixels.

    Args:
      image: size and patch of the image tower.
      text: `size` and other fields of the text tower.
      dim: of the shared embedding.
      activation: of both towers.
      crop: how training images get their size.
      optim: the optimizer.
      examples: how many are seen in all.
      batch: how many of them at once.
    """
    tower = {"activation": activation, "norm_epsilon": 1e-5}
    return Run(
        model=ModelConfig(
            encoders={
                "image": presets.vit(
                    image,
                    image_size=IMAGE_SIZE,
                    pooling="cls",
                    cls_position=True,
                    input_norm=True,
                    patch_bias=False,
                    pixel_mean=(0.48145466, 0.4578275, 0.40821073),
                    pixel_std=(0.26862954, 0.26130258, 0.27577711),
                    **tower,
                ),
                "text": presets.text(
                    text["size"],
                    vocab_size=49_408,
                    context_length=77,
                    causal=True,
                    mask_padding=False,  # causal attention never reaches padding
                    pooling="eos",
                    **tower,
                    **{name: value for name, value in text.items() if name != "size"},
                ),
            },
            heads={"embedding": Embedding(dim=dim)},
        ),
        data=Data(
            source=JsonLines(),
            tokenizer=Clip(),
            train_transforms=(Decode(scaled=True), crop, ChooseText("random")),
            eval_transforms=(Decode(), Resize(IMAGE_SIZE, mode="shortest"), ChooseText()),
        ),
        objectives={"contrastive": SoftmaxContrastive(temperature=0.07, max_scale=100.0)},
        optim=optim,
        steps=examples // batch,
        global_batch=batch,
        log_every=50,
        evaluate_every=5000,
        checkpoint_every=1000,
    )


# "All weights that are not gains or biases" (2.5).
DECAY_RULES = ((".*(bias|scale)", 0.0), (".*", 1.0))


def recipe(variant: str = "") -> Run:
    """The published hyper-parameters; there are no variants."""
    choose(variant, {"": None})
    return clip(
        "B/16",
        # Width 512, 8 heads: table 19, the text transformer of ViT-B models.
        {"size": "B", "width": 512, "heads": 8, "mlp_dim": 2048},
        dim=512,
        activation="quick_gelu",
        # "A random square crop from resized images is the only data augmentation used during
        # training" (2.3).
        crop=RandomCrop(IMAGE_SIZE, interpolation="area"),
        optim=AdamW(
            learning_rate=5e-4,
            b1=0.9,
            b2=0.98,
            epsilon=1e-6,
            weight_decay=0.2,
            decay_rules=DECAY_RULES,
            clip_norm=None,  # the paper limits the logit scale only: `max_scale`
            schedule=WarmupCosine(warmup_steps=2000),
        ),
        examples=EXAMPLES,
        batch=BATCH,
    )
