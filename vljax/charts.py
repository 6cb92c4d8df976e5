"""All charts: drawn with matplotlib, saved as PNG files or put into HTML pages as SVG.

matplotlib is imported only to draw, since it takes half a second.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from vljax.web.markup import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito. People with any colour vision can tell its colours apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
TEXT, LINE = "#5B6470", "#D9DEE4"

# In a page, charts take the colours of its light or dark style.
_PAGE_COLOURS = {BLUE: "var(--mark)", TEXT: "var(--soft)", LINE: "var(--line)"}
_INCH = 100.0  # pixels of a page
_LETTER = 0.065  # width in inches of a letter of a label
_HINT = "hint:"


# Matplotlib's warning of each character that its font does not have, and of scripts such as
# Devanagari, whose letters it does not join.
_NO_GLYPH = r"Glyph \d+ .*missing from|Matplotlib currently does not support"

logger = logging.getLogger(__name__)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches. It belongs to no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as a PNG file and returns its path; makes the folder if needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", _NO_GLYPH)
        figure.savefig(path, dpi=120, format="png")
    missing = [each for each in caught if re.match(_NO_GLYPH, str(each.message))]
    if missing:
        logger.warning("%s: characters that its font does not have are drawn as boxes", path)
    for each in caught:
        if each not in missing:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return path


def svg(figure: Figure, text: str) -> Markup:
    """A figure as an SVG element for a page, as wide as its container.

    Args:
      figure: of `bar_chart` or `heat_map`. Lines with markers and clipped artists do not work:
        they refer to definitions by an id, which would have to be unique in the page.
      text: what the figure shows, for screen readers.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # texts stay texts
        figure.savefig(file, format="svg", transparent=True, dpi=72)
    drawn = ElementTree.fromstring(file.getvalue())
    for parent in list(drawn.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        for child in list(parent):
            # Metadata holds URLs. The style in the definitions would apply to the whole page.
            if child.tag.rpartition("}")[2] in ("metadata", "defs"):
                parent.remove(child)
        name = parent.attrib.pop("id", "")
        if name.startswith(_HINT):
            hint = ElementTree.Element("title")
            hint.text = name.removeprefix(_HINT)
            parent.insert(0, hint)
        if "style" in parent.attrib:
            style = parent.attrib["style"]
            for colour, variable in _PAGE_COLOURS.items():
                style = style.replace(colour.lower(), variable)
            parent.attrib["style"] = style
    drawn.attrib = {"viewBox": drawn.attrib["viewBox"], "role": "img", "aria-label": text}
    return Markup(ElementTree.tostring(drawn, encoding="unicode"))


@dataclass(frozen=True)
class Bars:
    """The content of a bar chart."""

    counts: Sequence[int]
    """The heights."""
    names: Sequence[str]
    """What each bar stands for; shown when the mouse is over it."""
    ticks: Sequence[tuple[float, str]]
    """Labels below the axis with their position, in bars from the left edge."""


def bar_chart(bars: Bars) -> Figure:
    """Draws bars side by side; the highest one has its count above it."""
    width, height = 300 / _INCH, 110 / _INCH
    figure = new_figure(width, height)
    axes = _plain_axes(figure)
    highest = max(*bars.counts, 1)
    positions = [i + 0.5 for i in range(len(bars.counts))]
    # Bars of counts above 0 have a minimum height, so that they can be seen.
    heights = [max(count, highest / 70) if count else 0 for count in bars.counts]
    axes.bar(positions, heights, width=0.9, color=BLUE, clip_on=False)
    # Almost invisible bars of full height show the hints of small and empty bars too. With alpha 0,
    # the SVG would have no fill, and no hint.
    areas = axes.bar(positions, highest, width=1.0, color=BLUE, alpha=0.001, clip_on=False)
    for area, name, count in zip(areas, bars.names, bars.counts, strict=True):
        area.set_gid(f"{_HINT}{name}: {count:,}")
    peak = list(bars.counts).index(max(bars.counts))
    axes.annotate(
        f"{max(bars.counts):,}",
        (positions[peak], highest),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=TEXT,
        annotation_clip=False,
    )
    axes.spines["bottom"].set(visible=True, color=LINE)
    axes.set(xlim=(0, len(bars.counts)), ylim=(0, highest), yticks=[])
    _set_ticks(axes, "x", bars.ticks, width)
    return figure


def heat_map(counts: Sequence[Sequence[int]], names: Sequence[str], edges: Sequence[str]) -> Figure:
    """Draws counts over two axes with the same bins; more opaque cells have higher counts.

    Args:
      counts: by row, from the bottom, then by column.
      names: the names of the bins; a cell shows those of its column and row as a hint.
      edges: labels of the bin edges on both axes, one more than `names`; empty ones are left out.
    """
    from matplotlib.patches import Rectangle

    width = 300 / _INCH
    figure = new_figure(width, width)
    axes = _plain_axes(figure)
    highest = max(max(*row, 1) for row in counts)
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            if count:
                alpha = 0.15 + 0.85 * (count / highest) ** 0.5
                cell = Rectangle((x, y), 0.97, 0.97, color=BLUE, alpha=alpha, linewidth=0)
                cell.set_gid(f"{_HINT}{names[x]} x {names[y]}: {count:,}")
                axes.add_patch(cell)
                cell.set_clip_on(False)
    axes.spines[:].set(visible=True, color=LINE)
    axes.set(xlim=(0, len(names)), ylim=(0, len(names)), aspect="equal")
    ticks = [(float(i), name) for i, name in enumerate(edges) if name]
    _set_ticks(axes, "x", ticks, width)
    _set_ticks(axes, "y", ticks, width)
    return figure


def _plain_axes(figure: Figure) -> Axes:
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
    # Ticks without length need no markers, see `svg`.
    axes.tick_params(length=0, labelsize=8, labelcolor=TEXT, pad=2)
    return axes


def _set_ticks(axes: Axes, axis: str, ticks: Sequence[tuple[float, str]], width: float) -> None:
    """Labels an axis with as many evenly chosen ticks as there is room for."""
    longest = max((len(name) for _, name in ticks), default=1)
    room = max(int(width / (_LETTER * (longest + 2))), 1)
    kept = ticks[:: -(-len(ticks) // room)] if ticks else []
    set_ticks = axes.set_xticks if axis == "x" else axes.set_yticks
    set_ticks([position for position, _ in kept], labels=[name for _, name in kept])
