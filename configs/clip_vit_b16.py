"""CLIP ViT-B/16 (Radford et al. 2021, arXiv 2103.00020, tables 18 to 20).

Differences from the paper:
  - Data: the paper's data (WIT, 400M pairs) are not public. `data.source.path` is unset.
  - `precision`: bfloat16 instead of float16 with loss scaling.
  - Initial values: Xavier uniform instead of the paper's scaled normal distribution.
  - `train_transforms`: the paper does not say to which size images are resized before the random
    square crop. Here the shortest side becomes the crop size. JPEGs are decoded at the smallest
    scale that is large enough and resized with `interpolation="area"`: on photographs, within 2
    of 255 levels of the bicubic filter (`benchmarks/data.py`). Evaluation uses the paper's filter.
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
    Tokenize,
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
      image: size and patch size of the image tower, such as "B/16".
      text: `size` of the text tower, and fields that replace those of that size.
      dim: size of the shared embedding.
      activation: activation function of both towers.
      crop: transform that gives training images their size.
      optim: optimizer.
      examples: total number of training examples.
      batch: global batch.
    """
    tower = {"activation": activation, "norm_epsilon": 1e-5}
    return Run(
        model=ModelConfig(
            {
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
                "embedding": Embedding(dim=dim),
            }
        ),
        data=Data(
            source=JsonLines(),
            tokenizers={"text": Clip()},
            train_transforms=(Decode(scaled=True), crop, ChooseText("random"), Tokenize()),
            eval_transforms=(
                Decode(),
                Resize(IMAGE_SIZE, mode="shortest"),
                ChooseText(),
                Tokenize(),
            ),
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
