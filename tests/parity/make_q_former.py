"""Makes `data/q_former.npz`: tiny random Q-Formers of BLIP-2 and InstructBLIP.

Run by hand, never by the tests, in an environment of its own, since vljax does not need PyTorch:

    pip install torch==2.14.1 transformers==5.23.0 numpy==2.4.6
    python tests/parity/make_q_former.py

Every weight is random and exact in float16, in which it is stored. Outputs are in float64.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import Blip2QFormerConfig, InstructBlipQFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel
from transformers.models.instructblip.modeling_instructblip import InstructBlipQFormerModel

WIDTH, CONTEXT_WIDTH, VOCAB, QUERIES = 32, 24, 20, 3
LENGTHS, CONTEXT_LENGTHS = (6, 4, 5), (5, 3, 4)
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "encoder_hidden_size": CONTEXT_WIDTH,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "max_position_embeddings": max(LENGTHS),
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def randomised(model: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    model = model.double().eval()
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if name.lower().endswith("layernorm.weight"):
            value = 1 + 0.3 * noise
        elif name.endswith("bias") or "embeddings." in name:
            value = 0.5 * noise
        else:
            value = noise / weight.shape[1] ** 0.5
        weight.data = value.half().double()
    return model


def main() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).half().double()

    rows = len(LENGTHS)
    queries, context = normal(QUERIES, WIDTH), normal(rows, max(CONTEXT_LENGTHS), CONTEXT_WIDTH)
    ids = torch.randint(0, VOCAB, (rows, max(LENGTHS)), generator=generator)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    seen = torch.arange(max(CONTEXT_LENGTHS)) < torch.tensor(CONTEXT_LENGTHS)[:, None]
    both = torch.cat([torch.ones(rows, QUERIES), mask], 1).long()
    inputs = {
        "query_embeds": queries.expand(rows, -1, -1),
        "encoder_hidden_states": context,
        "encoder_attention_mask": seen.long(),
    }
    blip2 = Blip2QFormerModel(
        Blip2QFormerConfig(**SIZES, num_hidden_layers=4, cross_attention_frequency=2)
    )
    instruct = InstructBlipQFormerModel(
        InstructBlipQFormerConfig(
            **SIZES, num_hidden_layers=2, cross_attention_frequency=1, layer_norm_eps=1e-5
        )
    )
    models = {"blip2": randomised(blip2, generator), "instruct": randomised(instruct, generator)}
    stored = {"queries": queries.half().numpy(), "context": context.half().numpy()}
    stored |= {"ids": ids.numpy(), "lengths": np.array(LENGTHS)}
    stored |= {"context_lengths": np.array(CONTEXT_LENGTHS)}
    for name, model in models.items():
        stored |= {f"{name}/{k}": v.data.half().numpy() for k, v in model.named_parameters()}
        rest = {"input_ids": ids, "attention_mask": both} if name == "instruct" else {}
        with torch.no_grad():
            stored[f"{name}_out"] = model(**inputs, **rest).last_hidden_state.numpy()
    np.savez_compressed(Path(__file__).parent / "data" / "q_former.npz", **stored)


if __name__ == "__main__":
    main()
