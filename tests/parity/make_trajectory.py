"""Makes the reference trajectories in `data/`: 200 steps of open_clip's own training.

Run by hand, never by the tests, in an environment of its own, since vljax does not need PyTorch:

    pip install torch==2.14.1 torchvision==0.29.1 open_clip_torch==3.3.0 timm==1.0.31 numpy==2.4.6
    python -m tests.parity.make_trajectory

These come from open_clip: the models (CLIP with its ViT; CustomTextCLIP with timm's ViT, as in its
ViT-B-16-SigLIP), ClipLoss and SigLipLoss, the schedule, and `train_one_epoch`, which calls
PyTorch's AdamW, clips gradients and limits the logit scale. Only the groups of weight decay are
written out here, since open_clip makes them in the middle of `open_clip_train.main.main`.

Each file holds, by step, `loss` and `gradient_norm` (before clipping) in float64 and float32
(`float32/...`); the parameters after the last step in float64 (`final/NAME`); and `float32/drift`,
the relative L2 distance from them to the final parameters of the float32 run, all arrays together.
`trajectory_clip_clipped` is the first run with gradients clipped to norm 1, without parameters.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip.model import CLIP, CustomTextCLIP
from open_clip_train import train
from open_clip_train.scheduler import cosine_lr
from timm.models.vision_transformer import VisionTransformer

from tests.parity import trajectory as of

DATA = Path(__file__).parent / "data"


@timm.models.register_model
def vit_parity_siglip(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """timm's vit_base_patch16_siglip_224, smaller."""
    return VisionTransformer(
        img_size=of.IMAGE_SIZE,
        patch_size=of.IMAGE["patch_size"],
        embed_dim=of.IMAGE["width"],
        depth=of.IMAGE["depth"],
        num_heads=of.IMAGE["heads"],
        mlp_ratio=of.IMAGE["mlp_dim"] / of.IMAGE["width"],
        class_token=False,
        global_pool=kwargs["global_pool"],
        num_classes=kwargs["num_classes"],
    )


def model(family: str) -> torch.nn.Module:
    """The model with the initial values of both sides."""
    text = {
        "context_length": of.CONTEXT,
        "vocab_size": of.VOCAB,
        "width": of.TEXT["width"],
        "heads": of.TEXT["heads"],
        "layers": of.TEXT["depth"],
        "mlp_ratio": of.TEXT["mlp_dim"] / of.TEXT["width"],
    }
    if family == "clip":
        image = {
            "image_size": of.IMAGE_SIZE,
            "patch_size": of.IMAGE["patch_size"],
            "width": of.IMAGE["width"],
            "head_width": of.IMAGE["width"] // of.IMAGE["heads"],
            "layers": of.IMAGE["depth"],
            "mlp_ratio": of.IMAGE["mlp_dim"] / of.IMAGE["width"],
        }
        made = CLIP(of.EMBEDDING, image, text, quick_gelu=True, output_dict=True)
    else:
        image = {"timm_model_name": "vit_parity_siglip", "timm_pool": "map", "timm_proj": "none"}
        image["image_size"] = of.IMAGE_SIZE
        text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
        text["norm_kwargs"] = {"eps": 1e-6}
        made = CustomTextCLIP(
            of.IMAGE["width"], image, text, init_logit_bias=of.LOGIT_BIAS, output_dict=True
        )
    for name, weight in made.named_parameters():
        weight.data = torch.from_numpy(of.initial(family, name, tuple(weight.shape)))
    return made


class Loader:
    """The batches as open_clip's loop takes them, normalised as torchvision does."""

    num_batches, num_samples = of.STEPS, of.STEPS * of.BATCH

    def __init__(self, family: str, dtype: torch.dtype) -> None:
        self.mean, self.std = (torch.tensor(x, dtype=dtype) for x in of.PIXELS[family])
        self.dtype = dtype

    def __iter__(self) -> Any:
        for batch in of.batches():
            pixels = torch.from_numpy(batch["image"]).to(self.dtype) / 255
            normalised = (pixels - self.mean) / self.std
            yield normalised.permute(0, 3, 1, 2), torch.from_numpy(batch["text"]).long()


def optimizer(trained: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW with the groups of `open_clip_train.main.main`."""

    def exclude(name: str, weight: torch.nn.Parameter) -> bool:
        parts = ("bn", "ln", "bias", "logit_scale")
        return weight.ndim < 2 or any(part in name for part in parts)

    named = list(trained.named_parameters())
    groups = [
        {"params": [p for n, p in named if exclude(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not exclude(n, p)], "weight_decay": of.WEIGHT_DECAY},
    ]
    return torch.optim.AdamW(groups, lr=of.LEARNING_RATE, betas=(of.B1, of.B2), eps=of.EPSILON)


def run(family: str, dtype: torch.dtype, clip_norm: float | None = None) -> dict[str, np.ndarray]:
    """One run: `loss` and `gradient_norm` by step, and `final/NAME`."""
    trained = model(family).to(dtype)
    moves = optimizer(trained)
    record: dict[str, list[float]] = {"loss": [], "gradient_norm": []}
    backward = train.backward

    def recorded(total_loss: torch.Tensor, scaler: Any) -> None:
        backward(total_loss, scaler)
        gradients = [p.grad for p in trained.parameters()]
        record["loss"].append(total_loss.item())
        record["gradient_norm"].append(torch.nn.utils.get_total_norm(gradients).item())

    train.backward = recorded
    train.train_one_epoch(
        trained,
        {"train": SimpleNamespace(set_epoch=lambda _: None, dataloader=Loader(family, dtype))},
        ClipLoss() if family == "clip" else SigLipLoss(),
        epoch=0,
        optimizer=moves,
        scaler=None,
        scheduler=cosine_lr(moves, of.LEARNING_RATE, of.WARMUP, of.STEPS),
        dist_model=None,
        args=SimpleNamespace(
            device="cpu",
            precision="fp32",  # no autocast: computed in the format of the parameters
            accum_freq=1,
            distill=False,
            grad_clip_norm=clip_norm,
            horovod=False,
            rank=1,  # logs nothing
            local_rank=1,
            log_local=False,
            skip_scheduler=False,
        ),
    )
    train.backward = backward
    final = {f"final/{name}": p.detach().numpy() for name, p in trained.named_parameters()}
    return {name: np.asarray(values) for name, values in record.items()} | final


def drift(run: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    """The relative L2 distance of all final parameters together."""

    def flat(arrays: dict[str, np.ndarray]) -> np.ndarray:
        chosen = [arrays[key] for key in exact if key.startswith("final/")]
        return np.concatenate([array.ravel().astype(np.float64) for array in chosen])

    return float(np.linalg.norm(flat(run) - flat(exact)) / np.linalg.norm(flat(exact)))


def make(family: str, clip_norm: float | None = None) -> None:
    name = f"trajectory_{family}" + ("_clipped" if clip_norm else "")
    exact, single = (run(family, dtype, clip_norm) for dtype in (torch.float64, torch.float32))
    stored = exact | {f"float32/{key}": single[key] for key in ("loss", "gradient_norm")}
    stored["float32/drift"] = np.asarray(drift(single, exact))
    if clip_norm:
        stored = {key: value for key, value in stored.items() if not key.startswith("final/")}
    np.savez_compressed(DATA / f"{name}.npz", **stored)
    loss, norm = exact["loss"], exact["gradient_norm"]
    print(
        f"{name}: loss {loss[0]:.4f} to {loss[-1]:.4f}, norm {norm.min():.3f} to {norm.max():.3f}"
    )
    for key, value in (("loss", loss), ("gradient_norm", norm)):
        print(f"  float32 {key}: off by up to {np.max(abs(single[key] / value - 1)):.1e}")
    print(f"  float32 parameters: {stored['float32/drift']:.1e}", flush=True)


def main() -> None:
    DATA.mkdir(exist_ok=True)
    torch.set_num_threads(1)  # sums in one order, however many cores there are
    make("clip")
    make("siglip")
    make("clip", clip_norm=1.0)


if __name__ == "__main__":
    main()
