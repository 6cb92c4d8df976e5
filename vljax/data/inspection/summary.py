"""What was measured of a data set, summed up as JSON data."""

from __future__ import annotations

from typing import Any

import numpy as np

from vljax.data.image_header import GREY_MODES, MODES
from vljax.data.inspection.distribution import distribution, histogram, log_edges
from vljax.data.inspection.measure import OUTCOMES, Measured, caption_digest
from vljax.data.inspection.scripts import SCRIPTS
from vljax.data.source_base import ExampleError, Records
from vljax.data.transform_decode import FORMATS

_MOST_FREQUENT = 10


def captions(
    measured: Measured, records: Records, tokenizer: str | None, context_length: int
) -> dict[str, Any]:
    """How many captions images have, how long these are, in which scripts, and which repeat.

    Args:
      measured: of the data set.
      records: where the most frequent captions are read again.
      tokenizer: its name; None if no tokens were counted.
      context_length: past which a caption is cut, tokens.
    """
    rows, read = measured.captions, measured.examples[measured.examples["bytes"] >= 0]
    summary: dict[str, Any] = {"number": len(rows), "blank": int(read["blank"].sum())}
    if len(read):
        summary["per_image"] = distribution(read["captions"])
    if not len(rows):
        return summary
    for unit in ("characters", "words"):
        summary[unit] = distribution(rows[unit])
    if tokenizer is not None:
        cut = int((rows["tokens"] > context_length).sum())
        summary["tokens"] = {
            **distribution(rows["tokens"]),
            "tokenizer": tokenizer,
            "context_length": context_length,
            "cut": cut,
            "cut_share": cut / len(rows),
        }
    summary["scripts"] = _named(rows["script"], SCRIPTS)
    summary["repeated"] = _repeated(rows, records)
    return summary


def _named(codes: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    """Name -> how many rows have its code, the most frequent first."""
    counts = np.bincount(codes, minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    return {names[i]: int(counts[i]) for i in order if counts[i]}


def _repeated(rows: np.ndarray, records: Records) -> dict[str, Any]:
    digests, first, counts = np.unique(rows["digest"], return_index=True, return_counts=True)
    order = sorted(np.flatnonzero(counts > 1), key=lambda i: (-counts[i], first[i]))
    return {
        "distinct": len(digests),
        "occurring_repeatedly": len(order),
        "captions": int(counts[counts > 1].sum()),
        "most_frequent": [
            {
                "caption": _caption(records, int(rows["index"][first[i]]), int(digests[i])),
                "count": int(counts[i]),
            }
            for i in order[:_MOST_FREQUENT]
        ],
    }


def _caption(records: Records, index: int, digest: int) -> str:
    try:
        written = records.annotation(index).captions
    except ExampleError:  # a remote file that could be read before
        written = ()
    found = (text for text in written if caption_digest(text) == digest)
    return next(found, f"(a caption of example {index})")


def images(measured: Measured) -> dict[str, Any]:
    """Sizes, proportions, formats and colours, of all images whose header can be read."""
    rows = measured.examples[measured.examples["width"] > 0]
    if not len(rows):
        return {"number": 0}
    width, height = rows["width"].astype(np.int64), rows["height"].astype(np.int64)
    modes = _named(rows["mode"], MODES)
    return {
        "number": len(rows),
        "width": distribution(width, "log"),
        "height": distribution(height, "log"),
        "megapixels": distribution(width * height / 1e6, "log"),
        "aspect_ratio": _aspect_ratio(width / height),
        "file_size": distribution(rows["bytes"], "log"),
        "sizes": _sizes(width, height),
        "formats": _named(rows["format"], FORMATS),
        "modes": modes,
        "grey": sum(modes.get(mode, 0) for mode in GREY_MODES),
        "cmyk": modes.get("CMYK", 0),
        "alpha": int(rows["alpha"].sum()),
        "turned": int((rows["orientation"] != 1).sum()),
    }


def _aspect_ratio(ratios: np.ndarray) -> dict[str, Any]:
    """Bins around 1, each a fourth of an octave wide, from 1:4 to 4:1."""
    edges = 2.0 ** ((np.arange(-8, 10) - 0.5) / 4)
    return {**distribution(ratios, "log"), "histogram": histogram(ratios, edges).as_dict()}


def _sizes(width: np.ndarray, height: np.ndarray) -> dict[str, Any]:
    """The most frequent sizes, and counts by width and height together."""
    sizes, counts = np.unique(np.stack([width, height], 1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_FREQUENT]
    edges = log_edges(np.concatenate([width, height]))
    grid, _, _ = np.histogram2d(height, width, (edges, edges))
    return {
        "distinct": len(sizes),
        "most_frequent": [
            {"width": int(sizes[i, 0]), "height": int(sizes[i, 1]), "count": int(counts[i])}
            for i in order
        ],
        "grid": {"edges": edges.tolist(), "counts_by_height_and_width": grid.astype(int).tolist()},
    }


def labels(measured: Measured, class_names: tuple[str, ...]) -> dict[str, Any] | None:
    """How many examples each class has, the most frequent first; None where none has a label."""
    found = measured.examples["label"]
    found = found[found >= 0]
    if not len(found):
        return None
    values, counts = np.unique(found, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    names = dict(enumerate(class_names))
    return {
        "labelled": len(found),
        "classes": len(values),
        "without_example": [names[i] for i in sorted(names.keys() - set(values.tolist()))],
        "counts": {names.get(int(values[i]), str(values[i])): int(counts[i]) for i in order},
    }


def unusable(measured: Measured) -> dict[str, Any]:
    """How many examples training would reject, by kind, with the first of each."""
    kinds = _named(measured.examples["kind"], OUTCOMES)
    usable = kinds.pop(OUTCOMES[0], 0)
    return {
        "usable": usable,
        "number": sum(kinds.values()),
        "kinds": {
            kind: {
                "count": count,
                "first": [{"example": i, "reason": why} for i, why in measured.reasons[kind]],
            }
            for kind, count in kinds.items()
        },
    }
