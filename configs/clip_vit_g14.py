"""CLIP ViT-g/14 at 224 pixels, as open_clip trained it on LAION-2B (Cherti et al. 2023).

Sizes, activation and epsilon are those of open_clip's model configuration `ViT-g-14`; batch and
examples are in the name of its released weights, `laion2b_s34b_b88k`.

Where it differs:
  - LAION-2B is no longer published: `data.source.path` is unset.
  - `learning_rate`, `warmup_steps` and `weight_decay` are what the paper's table gives for large
    models, from memory: check them before a long run.
  - The crop is `RandomResizedCrop(scale=(0.9, 1))`: the default of open_clip's training transform.
"""

from vljax.config import choose
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import Clip
from vljax.data.transforms import ChooseText, Decode, RandomResizedCrop, Resize
from vljax.models import presets
from vljax.models.heads import Embedding
from vljax.run import AdamW, Data, ModelConfig, Run, SoftmaxContrastive
from vljax.training.schedules import WarmupCosine

IMAGE_SIZE = 224
EXAMPLES = 34_000_000_000
BATCH = 88_064


def recipe(variant: str = "") -> Run:
    """The released model's sizes; there are no variants."""
    choose(variant, {"": None})
    tower = {"activation": "gelu", "norm_epsilon": 1e-5}
    return Run(
        model=ModelConfig(
            encoders={
                "image": presets.vit(
                    "g/14",
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
                    "L",
                    vocab_size=49_408,
                    context_length=77,
                    causal=True,
                    mask_padding=False,  # causal attention never reaches padding
                    pooling="eos",
                    **tower,
                ),
            },
            heads={"embedding": Embedding(dim=1024)},
        ),
        data=Data(
            source=JsonLines(),
            tokenizer=Clip(),
            train_transforms=(
                Decode(),
                RandomResizedCrop(IMAGE_SIZE, scale=(0.9, 1.0)),
                ChooseText("random"),
            ),
            eval_transforms=(Decode(), Resize(IMAGE_SIZE, mode="shortest"), ChooseText()),
        ),
        objectives={"contrastive": SoftmaxContrastive(temperature=0.07, max_scale=100.0)},
        optim=AdamW(
            learning_rate=1e-3,
            b1=0.9,
            b2=0.98,
            epsilon=1e-6,
            weight_decay=0.2,
            decay_rules=((".*(bias|scale)", 0.0), (".*", 1.0)),
            clip_norm=1.0,
            schedule=WarmupCosine(warmup_steps=13_000),
        ),
        steps=EXAMPLES // BATCH,
        global_batch=BATCH,
        log_every=50,
        evaluate_every=5000,
        checkpoint_every=1000,
    )
