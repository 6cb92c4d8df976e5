"""Makes the folders of transformers and open_clip in `data/interop`, and what they compute.

Run by hand, never by the tests, in an environment of its own, since PyTorch is no dependency here:

    pip install torch==2.14.1 torchvision==0.29.1 open_clip_torch==3.3.0 timm==1.0.31 \
        transformers==5.23.0 sentencepiece==0.2.3 protobuf numpy==2.4.6
    python -m tests.parity.make_interop

Every folder is written by the software itself: a tiny model with random weights (of a size that
keeps activations near 1, in bfloat16, so that it is small), its tokenizer and its preprocessing.
`outputs.npz` in it holds what the software computes in float32 from the files and texts of
`tests.parity.interop_inputs`: the whole pipeline, from a file to an embedding.
"""

from __future__ import annotations

import io
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.parity import interop_inputs as inputs

DATA = Path(__file__).parent / "data" / "interop"


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every weight random and exact in bfloat16: biases, norms and positions too."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "logit_scale" in name or "logit_bias" in name:
            value = noise * 0.1 + (math.log(10) if "scale" in name else -5)
        elif ("norm" in name or "ln_" in name) and name.endswith("weight"):
            value = 1 + 0.3 * noise
        elif weight.ndim < 2 or "embedding" in name and "patch" not in name:
            value = 0.5 * noise
        elif name.endswith(("probe", "latent", "pos_embed", "positional_embedding")):
            value = 0.5 * noise
        else:
            value = noise / math.sqrt(weight[0].numel())
        weight.data = value.bfloat16().float()


def pictures() -> list[Image.Image]:
    return [Image.open(io.BytesIO(file)).convert("RGB") for file in inputs.images()]


def transformers_folder(name: str, case: dict[str, Any], seed: int) -> None:
    """A folder by `save_pretrained`, and its outputs by AutoModel and AutoProcessor."""
    from transformers import (
        AutoModel,
        AutoProcessor,
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
        SiglipConfig,
        SiglipImageProcessorPil,
        SiglipModel,
        SiglipProcessor,
        SiglipTokenizer,
    )

    folder = DATA / name
    side = {"height": case["vision"]["image_size"], "width": case["vision"]["image_size"]}
    if case["kind"] == "clip":
        vocabulary, merges = inputs.byte_pairs()
        tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=case["context"])
        text = {**case["text"], "vocab_size": len(vocabulary)}
        text |= {f"{role}_token_id": tokenizer.convert_tokens_to_ids(token) for role, token in (
            ("bos", "<|startoftext|>"), ("eos", "<|endoftext|>"), ("pad", "<|endoftext|>"))}
        if case.get("old_eos"):
            text["eos_token_id"] = 2
        config = CLIPConfig(
            vision_config=case["vision"], text_config=text, projection_dim=case["projection"]
        )
        model = CLIPModel(config)
        images = CLIPImageProcessorPil(
            size={"shortest_edge": side["height"]}, crop_size=side, resample=case["resample"]
        )
        processor: Any = CLIPProcessor(images, tokenizer)
    else:
        (DATA / "spiece.model").write_bytes(inputs.sentence_pieces())
        tokenizer = SiglipTokenizer(
            str(DATA / "spiece.model"),
            model_max_length=case["context"],
            model_input_names=["input_ids"],
        )
        text = {**case["text"], "vocab_size": tokenizer.vocab_size}
        text |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
        text |= {"projection_size": case["vision"]["hidden_size"]}
        model = SiglipModel(SiglipConfig(vision_config=case["vision"], text_config=text))
        images = SiglipImageProcessorPil(
            size=side, resample=case["resample"], image_mean=case["mean"], image_std=case["std"]
        )
        processor = SiglipProcessor(images, tokenizer)
    randomise(model, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    (DATA / "spiece.model").unlink(missing_ok=True)

    loaded, report = AutoModel.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    outputs = run_transformers(loaded.eval(), AutoProcessor.from_pretrained(folder, backend="pil"))
    np.savez(folder / "outputs.npz", **outputs)


@torch.no_grad()
def run_transformers(model: Any, processor: Any) -> dict[str, np.ndarray]:
    """Embeddings and logits of the inputs."""
    batch = processor(
        text=inputs.TEXTS,
        images=pictures(),
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    )
    made = model(**batch)
    return {
        "image": made.image_embeds.numpy(),
        "text": made.text_embeds.numpy(),
        "logits": made.logits_per_image.numpy(),
        "ids": batch["input_ids"].numpy(),
    }


CASES: dict[str, dict[str, Any]] = {
    "transformers_clip_a": {
        "kind": "clip",
        "vision": {
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "image_size": 32,
            "patch_size": 8,
        },
        "text": {
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 36,
            "max_position_embeddings": 12,
        },
        "projection": 20,
        "context": 12,
        "resample": 3,
    },
    "transformers_clip_b": {
        "kind": "clip",
        "vision": {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "image_size": 30,
            "patch_size": 6,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
        },
        "text": {
            "hidden_size": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 5,
            "intermediate_size": 28,
            "max_position_embeddings": 8,
            "hidden_act": "gelu",
        },
        "projection": 12,
        "context": 8,
        "resample": 2,
        "old_eos": True,
    },
    "transformers_siglip_a": {
        "kind": "siglip",
        "vision": {
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "image_size": 32,
            "patch_size": 8,
        },
        "text": {
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 36,
            "max_position_embeddings": 12,
        },
        "context": 12,
        "resample": 3,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
    "transformers_siglip_b": {
        "kind": "siglip",
        "vision": {
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 28,
            "image_size": 34,
            "patch_size": 7,
            "layer_norm_eps": 1e-5,
        },
        "text": {
            "hidden_size": 20,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 44,
            "max_position_embeddings": 7,
            "hidden_act": "gelu",
        },
        "context": 7,
        "resample": 2,
        "mean": [0.48, 0.45, 0.4],
        "std": [0.27, 0.26, 0.28],
    },
}


def main() -> None:
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    for seed, (name, case) in enumerate(CASES.items()):
        transformers_folder(name, case, seed)
        size = sum(file.stat().st_size for file in (DATA / name).iterdir())
        print(f"{name}: {size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
