"""Makes `data/idefics.npz`: gated cross-attention and Perceiver resamplers of Idefics 1.

Run by hand, never by the tests, in an environment of its own, since vljax does not need PyTorch:

    pip install torch==2.14.1 transformers==5.23.0 numpy==2.4.6
    python tests/parity/make_idefics.py

Every weight is random and exact in float16, in which it is stored. Outputs are in float64. The
resampler of transformers has no mask, so each row is computed alone. The last row of the gated
block attends to no image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import IdeficsConfig
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

WIDTH, CONTEXT_WIDTH, HEADS, QUERIES, DEPTH = 32, 24, 4, 3, 2
LENGTHS, CONTEXT_LENGTHS = (6, 4, 5), (5, 3, 0)
VARIANTS = {
    "a": {"qk_layer_norms": True, "alpha_type": "float", "rms_norm_eps": 1e-6},
    "b": {"qk_layer_norms": False, "alpha_type": "vector", "rms_norm_eps": 1e-3},
}


def config(fields: dict) -> IdeficsConfig:
    return IdeficsConfig(
        hidden_size=WIDTH,
        intermediate_size=40,
        num_attention_heads=HEADS,
        num_hidden_layers=1,
        hidden_act="silu",
        dropout=0.0,
        alpha_initializer="zeros",
        vision_config={"embed_dim": CONTEXT_WIDTH},
        perceiver_config={"qk_layer_norms_perceiver": fields["qk_layer_norms"]},
        attn_implementation="eager",
        **fields,
    )


def randomised(module: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    module = module.double().eval()
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if "norm" in name or ".ln." in name:
            value = 0.3 * noise + (1 if name.endswith("weight") else 0)
        elif "alpha" in name or "latents" in name:
            value = noise
        else:
            value = noise / weight.shape[1] ** 0.5
        weight.data = value.half().double()
    return module


def main() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).half().double()

    rows = len(LENGTHS)
    x, context = (
        normal(rows, max(LENGTHS), WIDTH),
        normal(rows, max(CONTEXT_LENGTHS), CONTEXT_WIDTH),
    )
    stored = {"x": x.half().numpy(), "context": context.half().numpy()}
    stored |= {"lengths": np.array(LENGTHS), "context_lengths": np.array(CONTEXT_LENGTHS)}
    for variant, fields in VARIANTS.items():
        of = config(fields)
        gated = randomised(IdeficsGatedCrossAttentionLayer(of, layer_idx=0), generator)
        resampler = randomised(
            IdeficsPerceiverResampler(
                of, CONTEXT_WIDTH, DEPTH, HEADS, CONTEXT_WIDTH // HEADS, QUERIES
            ),
            generator,
        )
        for name, module in (("gated", gated), ("resampler", resampler)):
            stored |= {
                f"{variant}/{name}/{k}": v.data.half().numpy() for k, v in module.named_parameters()
            }
        seen = torch.arange(max(CONTEXT_LENGTHS)) < torch.tensor(CONTEXT_LENGTHS)[:, None]
        bias = torch.where(seen, 0.0, torch.finfo(torch.float32).min).double()[:, None, None]
        with torch.no_grad():
            out = gated(
                x,
                image_hidden_states=context,
                image_attention_mask=bias.expand(-1, 1, max(LENGTHS), -1),
                cross_attention_gate=seen.any(1)[:, None].expand(-1, max(LENGTHS)).double(),
            )
            stored[f"{variant}/gated_out"] = out.numpy()
            stored[f"{variant}/resampler_out"] = np.concatenate(
                [
                    resampler(context[row : row + 1, :keys]).numpy()
                    for row, keys in enumerate(CONTEXT_LENGTHS)
                ]
            )
    np.savez_compressed(Path(__file__).parent / "data" / "idefics.npz", **stored)


if __name__ == "__main__":
    main()
