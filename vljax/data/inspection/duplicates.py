"""Images that a data set has more than once."""

from __future__ import annotations

from typing import Any

import numpy as np

from vljax.data.inspection.likeness import alike
from vljax.data.inspection.measure import Measured

_NAMED_GROUPS = 100
_NAMED_IMAGES = 12


def duplicates(measured: Measured) -> dict[str, Any]:
    """Groups of images with the same file, and of different files that look alike; as JSON data.

    Of each group of two or more: `groups` counts them, `images` those in them, and `superfluous`
    those that are left once each group keeps one. The largest groups are named by example.

    Returns:
      `exact`, and `near`, which is None where images were not decoded.
    """
    rows = measured.examples[measured.examples["bytes"] >= 0]
    order = np.argsort(rows["digest"], kind="stable")
    starts = np.flatnonzero(rows["digest"][order][1:] != rows["digest"][order][:-1]) + 1
    same = np.split(order, starts) if len(rows) else []
    exact = [rows["index"][group] for group in same if len(group) > 1]
    firsts = rows[np.sort([group[0] for group in same])] if same else rows
    seen = firsts[firsts["decoded"]]
    near = [seen["index"][group] for group in alike(seen["hash"], seen["colours"])]
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
