"""Makes the references `data/finetuning_NAME.npz`: 50 steps of fine-tuning in PyTorch and float64.

Run by hand, never by the tests, in the environment of `make_interop.py`:

    python -m tests.parity.make_finetuning

The models are the stored folders `data/interop/NAME.zip`, loaded by the software that wrote them.
The losses are those of transformers (`return_loss=True`) and open_clip (`ClipLoss`), the optimizer
is PyTorch's AdamW, and the schedule is open_clip's. Three things are those of the recipe that
`vljax finetune` makes, written out here:

- Weight decay of 0.1 for kernels and token embeddings; none for biases, norms, positions, the class
  token, the probe, the logit scale and the logit bias.
- A warm-up of a tenth of the steps, then a cosine to zero.
- Gradients clipped to norm 1 by 1 / norm; PyTorch's own function divides by norm + 1e-6.

A file holds `loss` by step, and in `change` the change of all parameters over the whole run, packed
by `finetuning.pack`.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from open_clip_train.scheduler import cosine_lr
from transformers import AutoModel

from tests.parity import finetuning as of

DATA = Path(__file__).parent / "data"

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From pixels, token ids and the token mask."""


def of_transformers(folder: Path) -> tuple[torch.nn.Module, Loss, dict[str, Any]]:
    """A model, its loss, and its pixel mean and standard deviation."""
    # "eager" would compute the softmax in float32.
    model = AutoModel.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="sdpa"
    ).train()
    masked = model.config.model_type == "clip"  # SigLIP is trained without a mask

    def loss(pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        given = {"attention_mask": mask} if masked else {}
        made: torch.Tensor = model(ids, pixels, return_loss=True, **given).loss
        return made

    settings = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    return model, loss, {"mean": settings["image_mean"], "std": settings["image_std"]}


def of_open_clip(folder: Path) -> tuple[torch.nn.Module, Loss, dict[str, Any]]:
    """As `of_transformers`."""
    model = open_clip.create_model(f"local-dir:{folder}", precision="fp64").double().train()
    contrastive = ClipLoss()

    def loss(pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = contrastive(*model(pixels, ids))
        return made

    return model, loss, open_clip.get_model_preprocess_cfg(model)


def decays(name: str, weight: torch.nn.Parameter) -> bool:
    return weight.ndim >= 2 and "position" not in name and "probe" not in name


def clip_gradients(weights: list[torch.nn.Parameter]) -> None:
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    scale = 1 / torch.clamp(torch.nn.utils.get_total_norm(gradients), min=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


def run(name: str, folder: Path) -> dict[str, np.ndarray]:
    load = of_open_clip if name.startswith("open_clip") else of_transformers
    model, loss_of, pixels_of = load(folder)
    named = dict(model.named_parameters())
    assert all(weight.dtype == torch.float64 for weight in named.values())
    start = {key: weight.detach().clone() for key, weight in named.items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for k, w in named.items() if decays(k, w)], "weight_decay": 0.1},
            {"params": [w for k, w in named.items() if not decays(k, w)], "weight_decay": 0.0},
        ],
        lr=of.LEARNING_RATE,
        betas=(0.9, 0.98),
        eps=1e-8,
    )
    steps = of.STEPS
    schedule = cosine_lr(optimizer, of.LEARNING_RATE, steps // 10, steps)
    mean, std = (torch.tensor(pixels_of[key], dtype=torch.float64) for key in ("mean", "std"))
    losses = []
    for step, batch in enumerate(of.batches(name)):
        schedule(step)
        images = (torch.from_numpy(batch["image"]).double() / 255 - mean) / std
        ids, mask = (torch.from_numpy(batch[key]).long() for key in ("text", "text_mask"))
        optimizer.zero_grad()
        loss = loss_of(images.permute(0, 3, 1, 2), ids, mask)
        loss.backward()
        clip_gradients(list(named.values()))
        optimizer.step()
        losses.append(loss.item())
    changes = {key: (weight.detach() - start[key]).numpy() for key, weight in named.items()}
    return {"loss": np.asarray(losses), "change": of.pack(changes)}


def main() -> None:
    torch.set_num_threads(1)  # sums in one order, however many cores there are
    for name in of.MODELS:
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(DATA / "interop" / f"{name}.zip") as archive:
                archive.extractall(folder)
            made = run(name, Path(folder))
        file = DATA / f"finetuning_{name}.npz"
        np.savez_compressed(file, **made)
        loss = made["loss"]
        print(f"{name}: loss {loss[0]:.4f} to {loss[-1]:.4f}, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
