"""open_clip's model, loss and optimizer, in PyTorch, as its `train_one_epoch` uses them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable

import open_clip
import torch
from open_clip.loss import ClipLoss

from benchmarks.peers import gemm, inputs
from benchmarks.peers.worker import Spec, Workloads, serve

MODELS = {(32, "gelu"): "ViT-B-32", (16, "gelu"): "ViT-B-16"}
MODELS |= {(patch, "quick_gelu"): f"ViT-B-{patch}-quickgelu" for patch in (16, 32)}


def optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW with the groups and defaults of `open_clip_train.main.main` for ViTs."""
    exclude = lambda n, p: p.ndim < 2 or any(x in n for x in ("bn", "ln", "bias", "logit_scale"))  # noqa: E731
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if exclude(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not exclude(n, p)], "weight_decay": 0.2},
    ]
    return torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)


def make(spec: Spec) -> Workloads:
    """The step, its forward pass, each tower's training alone, and encoding."""
    name = MODELS[spec.patch_size, spec.activation]
    model = open_clip.create_model(name, output_dict=True)
    moves, loss = optimizer(model), ClipLoss()
    arrays = inputs.batch(spec)
    raw = torch.from_numpy(arrays["image"])
    mean, std = (torch.tensor(x) for x in (inputs.MEAN, inputs.STD))

    def normalised() -> torch.Tensor:
        return ((raw / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

    # open_clip's loader normalises in worker processes, so normalising is not part of a step.
    image, text = normalised(), torch.from_numpy(arrays["text"]).long()

    def train() -> None:
        model.train()
        moves.zero_grad()
        total = loss(**model(image, text), output_dict=True)["contrastive_loss"]
        total.backward()
        moves.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        total.item()

    def forward() -> None:
        model.eval()
        with torch.inference_mode():
            model(image, text)

    def encode() -> None:
        model.eval()
        with torch.inference_mode():
            model.encode_image(normalised(), normalize=True).numpy()

    folder = tempfile.TemporaryDirectory()
    file = f"{folder.name}/epoch.pt"

    def save() -> None:
        # As `open_clip_train.main` does.
        state = {"epoch": 1, "name": "", "state_dict": model.state_dict()}
        torch.save({**state, "optimizer": moves.state_dict()}, file)

    def restore() -> None:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        model.load_state_dict(stored["state_dict"])
        moves.load_state_dict(stored["optimizer"])
        assert folder

    def tower(encoder: Callable[..., torch.Tensor], inputs: torch.Tensor) -> Callable[[], None]:
        def run() -> None:
            model.train()
            embedding = encoder(inputs, normalize=True)
            (embedding * torch.arange(embedding.shape[-1])).sum().backward()
            moves.zero_grad()

        return run

    return {
        "step": train,
        "forward": forward,
        "image tower": tower(model.encode_image, image),
        "text tower": tower(model.encode_text, text),
        "encode images": encode,
        "save checkpoint": save,
        "restore checkpoint": restore,
        **gemm.workloads("torch", torch.from_numpy, lambda a, b: a @ b.T),
    }


if __name__ == "__main__":
    serve(make)
