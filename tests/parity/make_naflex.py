"""Makes the reference of NaFlex in `data/`: a tiny random Siglip2 vision tower of Hugging Face.

Run by hand, never by the tests, in an environment of its own, since vljax does not need PyTorch:

    pip install torch==2.14.1 transformers==5.23.0 numpy==2.4.6 pillow==12.0.0
    python tests/parity/make_naflex.py

`naflex.npz` holds the tower's weights (random, exact in float16), a batch as Siglip2's own image
processor makes it, and the outputs in float64; `naflex_positions.npz` a table of positions and what
`torch.nn.functional.interpolate` makes of it for grids up to 128 a side; `naflex_sizes.npz` image
sizes, budgets and the grids that the processor chooses.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate
from transformers import Siglip2VisionConfig, Siglip2VisionModel
from transformers.models.siglip2 import image_processing_pil_siglip2 as processing
from transformers.models.siglip2 import modeling_siglip2 as modeling

DATA = Path(__file__).parent / "data"
PATCH, BUDGET, SIDE = 4, 12, 5
# Height and width of images: square, wide, one row of patches, one column, smaller than a patch.
IMAGES = [(16, 16), (23, 61), (5, 90), (120, 7), (3, 2)]
GRIDS = [(16, 16), (7, 3), (1, 1), (1, 40), (40, 1), (100, 1), (1, 128), (23, 11), (17, 64)]
LARGE_GRID = (128, 128)


class Functional:
    """`torch.nn.functional` as Siglip2 uses it, without the fault at one column."""

    @staticmethod
    def interpolate(table: torch.Tensor, size: tuple[int, int], **options: object) -> torch.Tensor:
        if size[1] > 1:
            return interpolate(table, size, **options)
        return interpolate(table.mT, size[::-1], **options).mT


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Every weight random, of a size that keeps activations near 1, and exact in float16."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if "norm" in name and name.endswith("weight"):
            value = 1 + 0.3 * noise
        elif "bias" in name or "probe" in name or "position_embedding" in name:
            value = 0.5 * noise
        else:
            value = noise / math.sqrt(weight[0].numel())
        weight.data = value.half().double()


def tower() -> None:
    """Images of several shapes through Siglip2's processor and tower, computed in float64."""
    config = Siglip2VisionConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        patch_size=PATCH,
        num_patches=SIDE**2,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
    )
    config._attn_implementation = "sdpa"  # the eager one computes softmax in float32
    model = Siglip2VisionModel(config).double().eval()
    randomise(model, torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in IMAGES]
    processor = processing.Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=BUDGET)
    # uint8, since batches of vljax hold pixels before normalisation.
    made = processor(
        images,
        do_rescale=False,
        do_normalize=False,
        input_data_format="channels_last",
        return_tensors="pt",
    )
    pixels = made["pixel_values"]
    assert pixels.shape[1:] == (BUDGET, 3 * PATCH**2)
    out = model(
        pixel_values=pixels.double() / 127.5 - 1,
        pixel_attention_mask=made["pixel_attention_mask"],
        spatial_shapes=made["spatial_shapes"],
    )
    arrays = {f"weights/{k}": v.half().numpy() for k, v in model.named_parameters()}
    arrays |= {f"source/{i}": image for i, image in enumerate(images)}
    np.savez_compressed(
        DATA / "naflex.npz",
        **arrays,
        image=pixels.numpy().astype(np.uint8),
        image_mask=made["pixel_attention_mask"].numpy().astype(bool),
        image_grid=made["spatial_shapes"].numpy().astype(np.int32),
        tokens=out.last_hidden_state.numpy().astype(np.float32),
        pooled=out.pooler_output.numpy().astype(np.float32),
    )
    print("grids", made["spatial_shapes"].tolist(), "pooled up to", float(out.pooler_output.max()))


def positions() -> None:
    """Tables resampled by the call that Siglip2 makes, in float64."""
    generator = torch.Generator().manual_seed(1)
    tables = {
        "table": torch.randn(3, 16, 16, generator=generator, dtype=torch.float64),
        # A larger table, so that every grid downsamples it along a side.
        "fine": torch.randn(1, 64, 64, generator=generator, dtype=torch.float64),
    }
    arrays = {}
    for name, table in tables.items():
        arrays[name] = table.permute(1, 2, 0).numpy().astype(np.float32)
        exact = torch.from_numpy(arrays[name]).double().permute(2, 0, 1)[None]
        for grid in GRIDS + ([LARGE_GRID] if name == "fine" else []):
            options = {"mode": "bilinear", "align_corners": False, "antialias": True}
            new = Functional.interpolate(exact, grid, **options)
            rows = new[0].permute(1, 2, 0).reshape(-1, len(table))
            arrays[f"{name}/{grid[0]}x{grid[1]}"] = rows.numpy().astype(np.float32)
    np.savez_compressed(DATA / "naflex_positions.npz", **arrays)


def sizes() -> None:
    """Image size, patch, budget -> the rows and columns that the processor resizes to."""
    rng = np.random.default_rng(2)
    rows = []
    for _ in range(400):
        height, width = np.exp(rng.uniform(0, math.log(5000), 2)).astype(int).tolist()
        patch, budget = int(rng.choice([8, 14, 16])), int(rng.choice([1, 2, 7, 64, 256, 1024]))
        tall, wide = processing.get_image_size_for_max_num_patches(height, width, patch, budget)
        rows.append([height, width, patch, budget, tall // patch, wide // patch])
    np.savez_compressed(DATA / "naflex_sizes.npz", rows=np.array(rows, np.int32))


@torch.no_grad()
def main() -> None:
    DATA.mkdir(exist_ok=True)
    modeling.F = Functional
    tower()
    positions()
    sizes()


if __name__ == "__main__":
    main()
