"""Makes reference outputs of small random encoders in `data/encoders.npz`.

Run by hand, never by the tests, in an environment of its own, since vljax does not need PyTorch:

    pip install torch==2.14.1 transformers==5.23.0
    python tests/parity/make_encoders.py

Everything is computed in float64: the ResNet, BiT and GPT-2 of transformers, and the LSTM and GRU
of PyTorch on packed sequences. Weights are exact in float16.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import BitConfig, BitModel, GPT2Config, GPT2Model, ResNetConfig, ResNetModel

DATA = Path(__file__).parent / "data"
SIDE, GRID = 45, (2, 3)
LENGTHS = np.array([7, 4, 1, 6])


def randomise(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Random weights and statistics, and their values by name."""
    generator = torch.Generator().manual_seed(0)
    arrays: Iterable[tuple[str, torch.Tensor]] = model.state_dict().items()
    made = {}
    for name, value in arrays:
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            new = 0.5 + noise.abs()
        elif value.ndim == 1 and "norm" in name and name.endswith("weight"):
            new = 1 + 0.3 * noise
        elif value.ndim == 1:
            new = 0.5 * noise
        else:
            new = noise / value[0].numel() ** 0.5
        value.copy_(new.half().double())
        made[f"weights/{name}"] = value.half().numpy()
    return made


def network(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Features, their mean, and their means over the cells of a grid."""
    model = model.double().eval()
    weights = randomise(model)
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255
    features = model(pixels).last_hidden_state
    cells = torch.nn.functional.adaptive_avg_pool2d(features, GRID)
    return {
        **weights,
        "image": images,
        "tokens": features.flatten(2).mT.numpy(),
        "pooled": features.mean((2, 3)).numpy(),
        "grid": cells.flatten(2).mT.numpy(),
    }


def ids_and_mask() -> tuple[np.ndarray, np.ndarray]:
    mask = np.arange(max(LENGTHS)) < LENGTHS[:, None]
    ids = np.random.default_rng(0).integers(1, 20, mask.shape)
    return np.where(mask, ids, 0).astype(np.int32), mask


def recurrent(kind: type[torch.nn.LSTM | torch.nn.GRU], directions: int) -> dict[str, np.ndarray]:
    """Two layers; the states of the last layer, and its last state in each direction."""
    words = torch.nn.Embedding(20, 5).double()
    cells = kind(5, 6, num_layers=2, batch_first=True, bidirectional=directions == 2).double()
    weights = randomise(torch.nn.ModuleDict({"words": words, "cells": cells}))
    ids, mask = ids_and_mask()
    packed = pack_padded_sequence(
        words(torch.from_numpy(ids).long()), LENGTHS, batch_first=True, enforce_sorted=False
    )
    states, last = cells(packed)
    last = last[0] if isinstance(last, tuple) else last
    return {
        **weights,
        "text": ids,
        "text_mask": mask,
        "tokens": pad_packed_sequence(states, batch_first=True)[0].numpy(),
        "last": torch.cat([*last[-directions:]], dim=-1).numpy(),
    }


def gpt2() -> dict[str, np.ndarray]:
    config = GPT2Config(vocab_size=20, n_positions=7, n_embd=12, n_layer=2, n_head=3)
    model = GPT2Model(config).double().eval()
    weights = randomise(model)
    ids, mask = ids_and_mask()
    hidden = model(
        input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long()
    ).last_hidden_state.numpy()
    last = hidden[np.arange(len(ids)), LENGTHS - 1]
    return {**weights, "text": ids, "text_mask": mask, "tokens": hidden, "last": last}


@torch.no_grad()
def main() -> None:
    sizes = {"embedding_size": 8, "depths": [2, 1, 1]}
    kinds = {"bottleneck": [32, 64, 128], "basic": [8, 16, 32]}
    made = {
        f"resnet_{kind}": network(
            ResNetModel(ResNetConfig(layer_type=kind, hidden_sizes=h, **sizes))
        )
        for kind, h in kinds.items()
    }
    bit = BitConfig(hidden_sizes=kinds["bottleneck"], num_groups=4, **sizes)
    made["bit"] = network(BitModel(bit))
    for kind in (torch.nn.LSTM, torch.nn.GRU):
        for directions in (1, 2):
            made[f"{kind.__name__.lower()}_{directions}"] = recurrent(kind, directions)
    made["gpt2"] = gpt2()
    arrays = {
        f"{name}/{key}": value.astype(np.float32) if value.dtype == np.float64 else value
        for name, each in made.items()
        for key, value in each.items()
    }
    np.savez_compressed(DATA / "encoders.npz", **arrays)


if __name__ == "__main__":
    main()
