"""Summaries of measurements as JSON data: captions, images, labels, rejections, duplicates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vljax.data.images import GREY_MODES, MODES
from vljax.data.opened_images import FORMATS
from vljax.data.records import ExampleError, Records
from vljax.data_tools.inspection.measure import OUTCOMES, SCRIPTS, Measurements, caption_digest
from vljax.data_tools.inspection.near_duplicates import near_duplicate_groups

_MOST_FREQUENT = 10


def captions(
    measured: Measurements, records: Records, tokenizer: str | None, context_length: int
) -> dict[str, Any]:
    """Captions per image, their lengths and scripts, and repeated captions.

    `only_tags` is the number of examples that have tags, such as a class, and no caption.

    Args:
      measured: measurements of the data set.
      records: the data set, to read the most frequent captions again.
      tokenizer: name of the tokenizer; None if no tokens were counted.
      context_length: number of tokens after which a caption is truncated.
    """
    rows, read = measured.captions, measured.examples[measured.examples["bytes"] >= 0]
    summary: dict[str, Any] = {"number": len(rows), "blank": int(read["blank"].sum())}
    summary["only_tags"] = int(((read["captions"] == 0) & (read["tags"] > 0)).sum())
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
    """The number of rows with the code of each name, most frequent first."""
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


def images(measured: Measurements) -> dict[str, Any]:
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


def labels(measured: Measurements, class_names: tuple[str, ...]) -> dict[str, Any] | None:
    """The number of examples of each class, most frequent first; None if no example has a label."""
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


def unusable(measured: Measurements) -> dict[str, Any]:
    """The number of examples that training would reject, by kind, with the first few of each."""
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


# --- Distributions --------------------------------------------------------------------------------

_BINS = 24


@dataclass(frozen=True)
class Histogram:
    """Numbers of values in bins."""

    edges: tuple[float, ...]
    """Edges of the bins, ascending; a bin includes its lower edge."""
    counts: tuple[int, ...]
    """Number of values in each bin."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"edges": list(self.edges), "counts": list(self.counts)}


def distribution(values: np.ndarray, scale: Literal["linear", "log"] = "linear") -> dict[str, Any]:
    """Number, smallest, 5 %, median, mean, 95 %, largest, and a histogram; as JSON data.

    >>> found = distribution(np.array([1, 2, 2, 9]))
    >>> found["number"], found["median"], found["mean"]
    (4, 2, 3.5)

    Args:
      values: one or more finite values; positive if the scale is log.
      scale: scale of the bins.
    """
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95), method="inverted_cdf").tolist()
    edges = log_edges(values) if scale == "log" else linear_edges(values)
    return {
        "number": len(values),
        "smallest": values.min().item(),
        "5%": low,
        "median": middle,
        "mean": values.mean().item(),
        "95%": high,
        "largest": values.max().item(),
        "histogram": histogram(values, edges).as_dict(),
    }


def histogram(values: np.ndarray, edges: np.ndarray) -> Histogram:
    """A histogram; values outside the edges are counted in the first or last bin."""
    inner = np.searchsorted(edges[1:-1], values, side="right")
    counts = np.bincount(inner, minlength=len(edges) - 1)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def linear_edges(values: np.ndarray) -> np.ndarray:
    """Round edges that cover all values but the largest 0.5 %."""
    lowest, highest = math.floor(values.min()), float(np.quantile(values, 0.995))
    step = _round_up(max(highest - lowest, 1) / _BINS)
    first = math.floor(lowest / step) * step
    count = max(1, math.floor((highest - first) / step) + 1)
    return first + step * np.arange(count + 1)


def log_edges(values: np.ndarray) -> np.ndarray:
    """Edges at powers of 2, 2^(1/2) or 2^(1/4): the finest that need at most `_BINS` bins."""
    low, high = math.log2(values.min()), math.log2(values.max())
    parts = next((parts for parts in (4, 2, 1) if (high - low) * parts <= _BINS), 1)
    first, last = math.floor(low * parts + 1e-9), math.floor(high * parts + 1e-9) + 1
    return 2.0 ** (np.arange(first, last + 1) / parts)


def _round_up(step: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that is not below `step`."""
    power = 10 ** max(0, math.floor(math.log10(step)))
    return next(int(power * digit) for digit in (1, 2, 5, 10) if power * digit >= step - 1e-9)


# --- Duplicates -----------------------------------------------------------------------------------

_NAMED_GROUPS = 100
_NAMED_IMAGES = 12


def duplicates(measured: Measurements) -> dict[str, Any]:
    """Groups of identical image files, and of near duplicates; as JSON data.

    For both: `groups`, the number of groups of two or more; `images`, the number of images in them;
    `superfluous`, the images beyond one per group; and examples of the largest groups.

    Returns:
      `exact` and `near`; `near` is None if images were not decoded.
    """
    rows = measured.examples[measured.examples["bytes"] >= 0]
    order = np.argsort(rows["digest"], kind="stable")
    starts = np.flatnonzero(rows["digest"][order][1:] != rows["digest"][order][:-1]) + 1
    same = np.split(order, starts) if len(rows) else []
    exact = [rows["index"][group] for group in same if len(group) > 1]
    firsts = rows[np.sort([group[0] for group in same])] if same else rows
    seen = firsts[firsts["decoded"]]
    near = [seen["index"][group] for group in near_duplicate_groups(seen["hash"], seen["colours"])]
    return {
        "exact": _groups(exact),
        "near": _groups(near) if rows["decoded"].any() or not len(rows) else None,
    }


def _groups(groups: list[np.ndarray]) -> dict[str, Any]:
    ranked = sorted(groups, key=lambda group: (-len(group), int(group[0])))
    images = sum(map(len, groups))
    return {
        "groups": len(groups),
        "images": images,
        "superfluous": images - len(groups),
        "largest": [
            {"size": len(group), "examples": group[:_NAMED_IMAGES].tolist()}
            for group in ranked[:_NAMED_GROUPS]
        ],
    }
