"""Makes the reference towers in `data/`: tiny random CLIP and SigLIP models of Hugging Face.

Run by hand, never by the tests, in an environment of its own, since vljax does not need PyTorch:

    pip install torch==2.13.0 transformers==5.23.0 numpy==2.4.6
    python tests/parity/make_towers.py

It is kept so that the files can be made again when a reference changes, and so that a reader sees
how they came about. Every weight is random (biases, norms and positions too: a wrong mapping then
shows) and exact in float16, in which it is stored. The outputs are computed in float64, so the
deviation that the tests measure is that of vljax alone.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

DATA = Path(__file__).parent / "data"
CONTEXT, VOCAB = 9, 50
# Widths, heads and hidden sizes differ, so that a transposed kernel does not fit.
IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every weight random, of a size that keeps activations near 1, and exact in float16."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if name in ("logit_scale", "logit_bias"):
            value = noise * 0.1 + (math.log(10) if name == "logit_scale" else -5)
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.3 * noise
        elif "bias" in name or "probe" in name or ("embedding" in name and "patch" not in name):
            value = 0.5 * noise
        else:
            value = noise / math.sqrt(weight[0].numel())
        weight.data = value.half().double()


def pixels(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """What the preprocessors of both families make of uint8 images: [batch, 3, height, width]."""
    scaled = (images.astype(np.float64) / 255 - np.asarray(mean)) / np.asarray(std)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2)


def save(name: str, model: torch.nn.Module, arrays: dict[str, np.ndarray | torch.Tensor]) -> None:
    weights = {f"weights/{k}": v.half() for k, v in model.named_parameters()}
    everything = {k: np.asarray(v) for k, v in {**weights, **arrays}.items()}
    for key, value in everything.items():
        if value.dtype == np.float64:
            everything[key] = value.astype(np.float32)
    np.savez_compressed(DATA / f"{name}.npz", **everything)


def clip(name: str, image_size: int, seed: int) -> None:
    """CLIP: quick GELU, norm before the blocks, CLS and end-of-text pooling, causal text."""
    eos = VOCAB - 1
    tower = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    config = CLIPConfig(
        vision_config={**IMAGE, **tower, "image_size": image_size},
        text_config={**TEXT, **tower, "eos_token_id": eos, "bos_token_id": 0, "pad_token_id": 0},
        projection_dim=20,
    )
    config._attn_implementation = "sdpa"  # the eager one computes softmax in float32
    model = CLIPModel(config).double().eval()
    randomise(model, seed)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, image_size, image_size, 3), dtype=np.uint8)
    ids = rng.integers(1, eos, (4, CONTEXT))
    lengths = np.array([CONTEXT, 5, 2, 7])  # with the end-of-text token
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1] = eos
        row[length:] = 0
    out = model(input_ids=torch.from_numpy(ids), pixel_values=pixels(images, CLIP_MEAN, CLIP_STD))
    # `out` holds projected vectors as pooled ones, and image tokens before the last norm, which
    # transformers applies to the pooled one only; vljax gives all of them normed.
    image = model.vision_model(pixels(images, CLIP_MEAN, CLIP_STD))
    text = model.text_model(torch.from_numpy(ids))
    save(
        name,
        model,
        {
            "image": images,
            "text": ids.astype(np.int32),
            "text_mask": np.arange(CONTEXT) < lengths[:, None],
            "image/tokens": model.vision_model.post_layernorm(image.last_hidden_state),
            "image/pooled": image.pooler_output,
            "image/embedding": out.image_embeds,
            "text/tokens": text.last_hidden_state,
            "text/pooled": text.pooler_output,
            "text/embedding": out.text_embeds,
            "logits": out.logits_per_image,
        },
    )


def siglip(name: str, image_size: int, seed: int) -> None:
    """SigLIP: tanh GELU, attention pooling, bidirectional text that sees its padding."""
    tower = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    config = SiglipConfig(
        vision_config={**IMAGE, **tower, "image_size": image_size},
        text_config={**TEXT, **tower, "projection_size": IMAGE["hidden_size"]},
    )
    config._attn_implementation = "sdpa"
    model = SiglipModel(config).double().eval()
    randomise(model, seed)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, image_size, image_size, 3), dtype=np.uint8)
    ids = rng.integers(2, VOCAB, (4, CONTEXT))
    lengths = np.array([CONTEXT, 5, 2, 7])
    ids[np.arange(CONTEXT) >= lengths[:, None]] = 1  # SigLIP's padding
    half = (0.5, 0.5, 0.5)
    out = model(input_ids=torch.from_numpy(ids), pixel_values=pixels(images, half, half))
    save(
        name,
        model,
        {
            "image": images,
            "text": ids.astype(np.int32),
            "text_mask": np.arange(CONTEXT) < lengths[:, None],
            "image/tokens": out.vision_model_output.last_hidden_state,
            "image/pooled": out.vision_model_output.pooler_output,
            "image/embedding": out.image_embeds,
            "text/tokens": out.text_model_output.last_hidden_state,
            # transformers counts the projection as part of the tower; vljax keeps it in the head.
            "text/pooled": out.text_model_output.last_hidden_state[:, -1],
            "text/embedding": out.text_embeds,
            "logits": out.logits_per_image,
        },
    )


@torch.no_grad()
def main() -> None:
    DATA.mkdir(exist_ok=True)
    clip("clip_32", 32, seed=0)
    siglip("siglip_32", 32, seed=1)
    siglip("siglip_30", 30, seed=2)  # 6 pixels at the right and bottom edges are left over


if __name__ == "__main__":
    main()
