"""A picture of what a model finds: queries with the images it ranks first."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from vljax.evaluation.evaluator import Encode, EvaluationData, embed_images, embed_texts
from vljax.evaluation.metrics.ranking import Similarity, embedding_ranks, similarities
from vljax.evaluation.plots import GREEN, GREY, figure, save
from vljax.evaluation.retrieval import captioned, distinct_captions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THUMBNAIL = 128


@dataclass(frozen=True)
class GridRow:
    """One query and what was found for it."""

    query: str
    """The caption."""
    truth: UInt8[np.ndarray, "size size 3"]
    """An image with the caption."""
    found: tuple[UInt8[np.ndarray, "size size 3"], ...]
    """The images ranked first, best first."""
    hits: tuple[bool, ...]
    """Which of these have the caption."""
    rank: int
    """Of the first image with the caption, from 1, ties against the model."""


def retrieval_grid(
    encode: Encode,
    data: EvaluationData,
    batch_size: int,
    *,
    queries: int = 8,
    top: int = 5,
    similarity: Similarity = "cosine",
) -> list[GridRow]:
    """Text-to-image retrieval for captions spread evenly over the data, the same for every model.

    Args:
      encode: the model.
      data: what to search with and in.
      batch_size: examples encoded at a time.
      queries: how many distinct captions to ask at most.
      top: how many images to show for each at most.
      similarity: what the model was trained to compare embeddings by.

    Returns:
      A row a query; none if no readable example has a caption.
    """
    images = embed_images(encode, data, batch_size, where=captioned(data))
    if not len(images.index):
        return []
    captions, groups = distinct_captions([data.captions[i] for i in images.index])
    count = min(queries, len(captions))
    asked = np.linspace(0, len(captions) - 1, count).round().astype(np.int64)
    texts = embed_texts(encode, data, [captions[i] for i in asked], batch_size)
    ranks = embedding_ranks(texts, images.embedding, asked, groups, similarity=similarity)
    order = np.argsort(-similarities(texts, images.embedding, similarity), axis=1, kind="stable")

    def thumbnail(row: int) -> UInt8[np.ndarray, "size size 3"]:
        return data.thumbnail(int(images.index[row]), THUMBNAIL)

    return [
        GridRow(
            query=captions[caption],
            truth=thumbnail(int(np.flatnonzero(groups == caption)[0])),
            found=tuple(thumbnail(row) for row in found),
            hits=tuple(bool(groups[row] == caption) for row in found),
            rank=rank,
        )
        for caption, found, rank in zip(
            asked.tolist(), order[:, :top].tolist(), ranks.tolist(), strict=True
        )
    ]


def plot_retrieval_grid(rows: Sequence[GridRow], path: str | Path) -> Path | None:
    """Draws queries with the images found for them as a PNG file; hits have a thick green frame.

    Returns:
      The path, or None if there are no rows and so nothing was written.
    """
    if not rows:
        return None
    columns = 2 + max(len(row.found) for row in rows)
    drawn = figure(2.6 + 1.25 * (columns - 1), 0.7 + 1.2 * len(rows))
    drawn.suptitle("Images found for captions (thick green frame: right)", fontsize=11)
    ratios = [2.0, *[1.0] * (columns - 1)]
    grid = drawn.subplots(len(rows), columns, squeeze=False, width_ratios=ratios)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for line, row in zip(grid, rows, strict=True):
        _caption(line[0], row)
        _image(line[1], row.truth, "black", 1.0)
        for axes, image, hit in zip(line[2:], row.found, row.hits, strict=False):
            _image(axes, image, GREEN if hit else GREY, 5.0 if hit else 1.0)
    grid[0][1].set_title("true image", fontsize=9)
    for place, axes in enumerate(grid[0][2:], start=1):
        axes.set_title(f"found {place}", fontsize=9)
    return save(drawn, Path(path))


def _caption(axes: Axes, row: GridRow) -> None:
    lines = textwrap.wrap(row.query, width=24, max_lines=5, placeholder=" …")
    text = "\n".join([*lines, f"(first hit at rank {row.rank:,})"])
    # A dollar sign in a caption is no formula.
    axes.text(0, 0.5, text, fontsize=9, va="center", transform=axes.transAxes, parse_math=False)


def _image(axes: Axes, image: UInt8[np.ndarray, "size size 3"], colour: str, width: float) -> None:
    axes.imshow(image, interpolation="antialiased")
    axes.spines[:].set(visible=True, color=colour, linewidth=width)
