"""CLIP ViT-g/14 at 224 pixels, as open_clip trained it on LAION-2B (Cherti et al. 2023).

Sizes, activation and epsilon are from open_clip's model configuration `ViT-g-14`. Batch and number
of examples are from the name of its released weights, `laion2b_s34b_b88k`.

Differences:
  - Data: LAION-2B is no longer published. `data.source.path` is unset.
  - `learning_rate`, `warmup_steps` and `weight_decay` are not verified against the paper's table
    for large models: check them before a long run.
  - Crop: `RandomResizedCrop(scale=(0.9, 1))`, the default of open_clip's training transform, with
    another filter, see `clip_vit_b16.py`.
"""

from clip_vit_b16 import DECAY_RULES, IMAGE_SIZE, clip

from vljax.recipes import AdamW, RandomResizedCrop, Run, WarmupCosine, choose

EXAMPLES = 34_000_000_000
BATCH = 88_064


def recipe(variant: str = "") -> Run:
    """The released model's sizes; there are no variants."""
    choose(variant, {"": None})
    return clip(
        "g/14",
        {"size": "L"},
        dim=1024,
        activation="gelu",
        crop=RandomResizedCrop(IMAGE_SIZE, scale=(0.9, 1.0), interpolation="area"),
        optim=AdamW(
            learning_rate=1e-3,
            b1=0.9,
            b2=0.98,
            epsilon=1e-6,
            weight_decay=0.2,
            decay_rules=DECAY_RULES,
            clip_norm=1.0,
            schedule=WarmupCosine(warmup_steps=13_000),
        ),
        examples=EXAMPLES,
        batch=BATCH,
    )
