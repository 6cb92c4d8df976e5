"""CLIP ViT-B/16 (Radford et al. 2021, arXiv 2103.00020, tables 18 to 20).

Where it differs from the paper:
  - The data of the paper (WIT, 400M pairs) are not public: `data.source.path` is unset.
  - `precision`: bfloat16 in place of float16 with loss scaling.
  - Initial values: Xavier uniform in place of the paper's scaled normal ones.
  - `train_transforms`: to which size images are resized before the random square crop is not
    published; here the shortest side gets the size of the crop.
"""

from vljax.config import choose
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import Clip
from vljax.data.transforms import ChooseText, Decode, RandomCrop, Resize
from vljax.models import presets
from vljax.models.heads import Embedding
from vljax.run import AdamW, Data, ModelConfig, Run, SoftmaxContrastive
from vljax.training.schedules import WarmupCosine

IMAGE_SIZE = 224
EXAMPLES = 32 * 400_000_000  # 32 epochs
BATCH = 32_768


def recipe(variant: str = "") -> Run:
    """The published hyper-parameters; there are no variants."""
    choose(variant, {"": None})
    tower = {"activation": "quick_gelu", "norm_epsilon": 1e-5}
    return Run(
        model=ModelConfig(
            encoders={
                "image": presets.vit(
                    "B/16",
                    image_size=IMAGE_SIZE,
                    pooling="cls",
                    cls_position=True,
                    input_norm=True,
                    patch_bias=False,
                    pixel_mean=(0.48145466, 0.4578275, 0.40821073),
                    pixel_std=(0.26862954, 0.26130258, 0.27577711),
                    **tower,
                ),
                # Width 512, 8 heads: table 19, the text transformer of ViT-B models.
                "text": presets.text(
                    "B",
                    width=512,
                    heads=8,
                    mlp_dim=2048,
                    vocab_size=49_408,
                    context_length=77,
                    causal=True,
                    mask_padding=False,  # causal attention never reaches padding
                    pooling="eos",
                    **tower,
                ),
            },
            heads={"embedding": Embedding(dim=512)},
        ),
        data=Data(
            source=JsonLines(),
            tokenizer=Clip(),
            # "A random square crop from resized images is the only data augmentation used during
            # training" (2.3).
            train_transforms=(Decode(), RandomCrop(IMAGE_SIZE), ChooseText("random")),
            eval_transforms=(Decode(), Resize(IMAGE_SIZE, mode="shortest"), ChooseText()),
        ),
        objectives={"contrastive": SoftmaxContrastive(temperature=0.07, max_scale=100.0)},
        optim=AdamW(
            learning_rate=5e-4,
            b1=0.9,
            b2=0.98,
            epsilon=1e-6,
            weight_decay=0.2,
            # "All weights that are not gains or biases" (2.5).
            decay_rules=((".*(bias|scale)", 0.0), (".*", 1.0)),
            clip_norm=None,  # the paper limits the logit scale only: `max_scale`
            schedule=WarmupCosine(warmup_steps=2000),
        ),
        steps=EXAMPLES // BATCH,
        global_batch=BATCH,
        log_every=50,
        evaluate_every=5000,
        checkpoint_every=1000,
    )
