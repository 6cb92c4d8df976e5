"""Makes the reference images and texts of transforms in `data/`: torchvision and open_clip.

Run by hand, never by the tests, in an environment of its own, since vljax does not need PyTorch:

    pip install torch==2.14.1 torchvision==0.29.1 open_clip_torch==3.3.0 pillow==13.0.0
    python tests/parity/make_transforms.py

It is kept so that the files can be made again when a reference changes, and so that a reader sees
how they came about.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from open_clip.tokenizer import _clean_canonicalize, _clean_lower
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment, functional
from torchvision.transforms.autoaugment import _apply_op

DATA = Path(__file__).parent / "data"
HEIGHT, WIDTH = 20, 30
MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")

TEXTS = (
    "  A  Photo\tof\n a CAT ",
    "fish &amp;amp; chips &lt;b&gt;bold",
    "<i> &amp;amp; <br/>",
    "schÃ¶n, doesnâ€™t “quoted” ﬁsh a&nbsp;b",
    "It's, really_good! snake_case {} {x}",
    "ÜBER—straße İSTANBUL ΣΊΣΥΦΟΣ",
    "中文　全角ＡＢＣ！ 日本語。",
    "العربية، ١٢٣ עברית हिन्दी ไทย",
    "👩‍👩‍👧‍👦 🇩🇪 ❤️ e\u0301 \u200b zero\u00adwidth",
    "tab\tbell\x07 escape\x1b[31mred\x1b[0m null\x00 \x85 \u2028",
    "&#39;&#x27; &copy &unknown; & AT&T",
    "",
    " \n\t ",
    "_" * 5 + "-" * 5,
    "a" * 300,
    "Café naïve Ｆｕｌｌ \ud7ff \ue000",
    "voilÃ  le travail &eacute;",
)


def picture() -> Image.Image:
    """Smooth colours, an edge, and fine grain."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(20, 220, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
    smooth[:, WIDTH // 2 :] //= 2
    return Image.fromarray((smooth + rng.integers(0, 20, smooth.shape)).astype(np.uint8))


def rand_augment(image: Image.Image) -> dict[str, np.ndarray]:
    """Each operation at two strengths, in both directions, as RandAugment.forward does it."""
    results = {}
    for magnitude in (9, 30):
        space = RandAugment()._augmentation_space(31, (HEIGHT, WIDTH))
        for name, (magnitudes, signed) in space.items():
            value = float(magnitudes[magnitude].item()) if magnitudes.ndim > 0 else 0.0
            for sign in (1, -1) if signed else (1,):
                for mode in ("nearest", "bilinear") if name in MOVES else ("nearest",):
                    changed = _apply_op(
                        image, name, sign * value, InterpolationMode(mode), fill=[9, 80, 200]
                    )
                    results[f"rand_augment/{name}/{magnitude}/{sign}/{mode}"] = np.asarray(changed)
    return results


def colours(image: Image.Image) -> dict[str, np.ndarray]:
    """What ColorJitter and RandomGrayscale do for given draws."""
    changes = {
        "brightness": functional.adjust_brightness,
        "contrast": functional.adjust_contrast,
        "saturation": functional.adjust_saturation,
    }
    results = {
        f"jitter/{name}/{factor}": np.asarray(change(image, factor))
        for name, change in changes.items()
        for factor in (0.3, 0.85, 1.4)
    }
    for share in (-0.4, -0.03, 0.1, 0.47):
        results[f"jitter/hue/{share}"] = np.asarray(functional.adjust_hue(image, share))
    results["greyscale"] = np.asarray(functional.to_grayscale(image, 3))
    return results


def crops(image: Image.Image) -> dict[str, np.ndarray]:
    """What RandomResizedCrop does for given rectangles, and GaussianBlur for given sigmas."""
    results = {}
    for box in ((3, 5, 17, 20), (0, 0, HEIGHT, WIDTH), (10, 24, 4, 5)):
        cropped = functional.resized_crop(image, *box, [16, 16], InterpolationMode.BICUBIC)
        results[f"crop/{'/'.join(map(str, box))}"] = np.asarray(cropped)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for sigma in (0.4, 1.0, 2.3):
        size = 2 * int(np.ceil(3 * sigma)) + 1
        blurred = functional.gaussian_blur(pixels, [size, size], [sigma, sigma])
        results[f"blur/{sigma}"] = blurred.permute(1, 2, 0).numpy()
    return results


def main() -> None:
    """Writes both files."""
    image = picture()
    arrays = {"image": np.asarray(image), **rand_augment(image), **colours(image), **crops(image)}
    np.savez_compressed(DATA / "transforms.npz", **arrays)
    cleaned = {
        "clip": _clean_lower,
        "siglip_open_clip": _clean_canonicalize,
    }
    texts = {"text": TEXTS} | {name: [f(text) for text in TEXTS] for name, f in cleaned.items()}
    (DATA / "cleaning.json").write_text(json.dumps(texts, indent=1) + "\n")


if __name__ == "__main__":
    main()
