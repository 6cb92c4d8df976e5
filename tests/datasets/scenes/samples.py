"""A small set of objects whose names, shapes and colours are known."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# Name -> colour, RGB, width and height. Shapes go with names, so that a scene whose layout
# depended on shapes would give names away. Colours are not equally frequent.
OBJECTS = {
    "apple": ("red", (220, 20, 20), 60, 60),
    "brick": ("red", (200, 10, 10), 90, 36),
    "tomato": ("red", (240, 30, 30), 64, 50),
    "lobster": ("red", (210, 25, 20), 100, 50),
    "frog": ("green", (20, 160, 30), 80, 40),
    "cucumber": ("green", (30, 140, 40), 96, 34),
    "leaf": ("green", (40, 180, 40), 34, 90),
    "whale": ("blue", (20, 60, 220), 100, 40),
    "umbrella": ("blue", (40, 80, 200), 70, 90),
    "lemon": ("yellow", (250, 230, 30), 60, 44),
    "rabbit": ("white", (250, 250, 250), 40, 80),
    "owl": (None, (190, 160, 130), 44, 70),
}


def write_objects(folder: Path) -> str:
    """A JSON-lines file with one picture of each object: an ellipse, transparent around it."""
    lines = []
    for name, (_, colour, width, height) in OBJECTS.items():
        image = Image.new("RGBA", (width + 10, height + 6))
        ImageDraw.Draw(image).ellipse((5, 3, width + 4, height + 2), fill=(*colour, 255))
        image.save(folder / f"{name}.png")
        caption = f"{'an' if name[0] in 'aou' else 'a'} {name}"
        lines.append(json.dumps({"image": f"{name}.png", "caption": caption}) + "\n")
    path = folder / "objects.jsonl"
    path.write_text("".join(lines))
    return str(path)


def boxes_of(masks: np.ndarray) -> dict[int, tuple[int, int, int, int]]:
    """Number in the masks -> left, top, right, bottom; computed without code of vljax."""
    boxes = {}
    for number in np.unique(masks[masks > 0]).tolist():
        left, top, right, bottom = Image.fromarray(masks == number).getbbox()
        boxes[number] = (left, top, right, bottom)
    return boxes
