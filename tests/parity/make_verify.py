"""Makes `data/verify.json`: numbers of other software for the stored models of `make_interop`.

Run by hand, never by the tests, in the environment of `make_interop`:

    python -m tests.parity.make_verify

The models are random, so about half of the data is made to fit them: the class or captions that the
model itself would choose. The rest is random. The numbers are those of transformers and open_clip
in PyTorch, by the arithmetic of open_clip's `build_zero_shot_classifier_legacy` (normalised
embeddings, mean over prompts, normalised again) and of recall@1 with several captions for each
image. No decision is
closer than `MARGIN`, so that rounding cannot change it.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.parity import verify_inputs as inputs
from tests.parity.make_interop import DATA, register_trunks

MARGIN = 3e-6
Towers = tuple[Callable[[list[Image.Image]], torch.Tensor], Callable[[list[str]], torch.Tensor]]


def of_transformers(folder: Path) -> Towers:
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")

    def image(pictures: list[Image.Image]) -> torch.Tensor:
        return model.get_image_features(**processor(images=pictures, return_tensors="pt"))

    def text(texts: list[str]) -> torch.Tensor:
        options: Any = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return model.get_text_features(**processor(text=texts, **options))

    return lambda x: pooled(image(x)), lambda x: pooled(text(x))


def pooled(made: Any) -> torch.Tensor:
    return made if isinstance(made, torch.Tensor) else made.pooler_output


def of_open_clip(folder: Path) -> Towers:
    import open_clip

    local = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(local)
    tokenizer = open_clip.get_tokenizer(local)
    model.eval()
    return (
        lambda pictures: model.encode_image(torch.stack([preprocess(p) for p in pictures])),
        lambda texts: model.encode_text(tokenizer(texts)),
    )


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


def decided(similarity: torch.Tensor) -> np.ndarray:
    """The best candidate of each row, which is better than the next by the margin."""
    best, second = similarity.topk(2, dim=1).values.unbind(1)
    assert (best - second).min() > MARGIN, (best - second).min()
    return similarity.argmax(1).numpy()


@torch.no_grad()
def made(towers: Towers, seed: int) -> dict[str, Any]:
    """Labels, captions, and the numbers that they give."""
    encode_image, encode_text = towers
    pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in inputs.images()]
    image, text = unit(encode_image(pictures)), unit(encode_text(inputs.texts()))
    prompts = [
        unit(encode_text([prompt.format(c=name) for prompt in inputs.PROMPTS]))
        for name in inputs.CLASSES
    ]
    classes = unit(torch.stack([each.mean(0) for each in prompts]))
    rng = np.random.default_rng(seed)
    predicted, count = decided(image @ classes.T), len(inputs.CLASSES)
    labels = np.where(rng.random(len(image)) < 0.5, predicted, rng.integers(0, count, len(image)))
    labels[rng.permutation(len(image))[:count]] = np.arange(count)  # every class has an image
    to_text, to_image = decided(image @ text.T), decided(text @ image.T)
    owner = owners(to_text, to_image, rng)
    return {
        "labels": labels.tolist(),
        "captions": [np.flatnonzero(owner == i).tolist() for i in range(len(image))],
        "accuracy@1": percent(predicted == labels),
        "image_to_text/recall@1": percent(owner[to_text] == np.arange(len(image))),
        "text_to_image/recall@1": percent(to_image == owner),
    }


def owners(to_text: np.ndarray, to_image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image of each text: one that finds it, one that it finds, or any. Each image has a text.

    Args:
      to_text: the text that each image finds.
      to_image: the image that each text finds.
      rng: chooses.
    """
    count = len(to_text)
    draw, anyone = rng.random(len(to_image)), rng.integers(0, count, len(to_image))
    owner = np.where(draw < 0.4, to_image, anyone)
    for image in rng.permutation(count):
        if rng.random() < 0.7:
            owner[to_text[image]] = image
    lonely = np.setdiff1d(np.arange(count), owner)
    spare = np.setdiff1d(np.arange(len(owner)), to_text)
    owner[rng.permutation(spare)[: len(lonely)]] = lonely
    assert len(set(owner)) == count
    return owner


def percent(right: np.ndarray) -> float:
    return 100 * float(np.mean(right))


def main() -> None:
    register_trunks()
    result = {}
    for seed, name in enumerate(inputs.MODELS):
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(DATA / f"{name}.zip") as archive:
                archive.extractall(folder)
            load = of_transformers if name.startswith("transformers") else of_open_clip
            result[name] = made(load(Path(folder)), seed)
        print(name, {key: value for key, value in result[name].items() if "@" in key})
    (DATA.parent / "verify.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
