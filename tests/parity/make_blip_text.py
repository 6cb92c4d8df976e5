"""Makes `data/blip_text.npz`: a tiny random text model of BLIP, which attends to an image.

Run by hand, never by the tests, in an environment of its own, since vljax does not need PyTorch:

    pip install torch==2.13.0 transformers==5.23.0 numpy==2.4.6
    python tests/parity/make_blip_text.py

Every weight is random and exact in float16, in which it is stored. Outputs are in float64, of
bidirectional and of causal attention. BLIP of transformers ignores the mask of the context (its
layers pass it on under another name), so each row is computed alone, with its own context.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextModel

WIDTH, CONTEXT_WIDTH, VOCAB = 32, 24, 50
LENGTHS, CONTEXT_LENGTHS = (7, 4, 6), (5, 3, 4)


def main() -> None:
    config = BlipTextConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        encoder_hidden_size=CONTEXT_WIDTH,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=max(LENGTHS),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        is_decoder=True,  # without it, layers have no cross-attention
        use_cache=False,
    )
    model = BlipTextModel(config, add_pooling_layer=False).double().eval()
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if name.endswith("LayerNorm.weight"):
            value = 1 + 0.3 * noise
        elif name.endswith("bias") or "embeddings" in name:
            value = 0.5 * noise
        else:
            value = noise / weight.shape[1] ** 0.5
        weight.data = value.half().double()

    rows = len(LENGTHS)
    ids = torch.randint(0, VOCAB, (rows, max(LENGTHS)), generator=generator)
    shape = (rows, max(CONTEXT_LENGTHS), CONTEXT_WIDTH)
    context = torch.randn(shape, generator=generator, dtype=torch.float64).half().double()
    stored = {f"weights/{k}": v.data.half().numpy() for k, v in model.named_parameters()}
    stored |= {"ids": ids.int().numpy(), "context": context.half().numpy()}
    stored |= {"lengths": np.array(LENGTHS), "context_lengths": np.array(CONTEXT_LENGTHS)}
    for name, causal in (("bidirectional", False), ("causal", True)):
        tokens = np.zeros((rows, max(LENGTHS), WIDTH))
        for row, (length, keys) in enumerate(zip(LENGTHS, CONTEXT_LENGTHS, strict=True)):
            with torch.no_grad():
                out = model(
                    input_ids=ids[row : row + 1, :length],
                    encoder_hidden_states=context[row : row + 1, :keys],
                    is_decoder=causal,
                )
            tokens[row, :length] = out.last_hidden_state[0].numpy()
        stored[name] = tokens
    np.savez_compressed(Path(__file__).parent / "data" / "blip_text.npz", **stored)


if __name__ == "__main__":
    main()
