"""Charts as SVG inside a page, in the colours of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vljax.web.markup import Markup, element

_WIDTH, _HEIGHT, _BOTTOM = 300.0, 110.0, 18.0
_LETTER = 6.0  # width, at the size of the labels


@dataclass(frozen=True)
class Bars:
    """A bar chart's content."""

    counts: Sequence[int]
    """The heights."""
    names: Sequence[str]
    """What each bar stands for, shown when it is pointed at."""
    ticks: Sequence[tuple[float, str]]
    """Place on the axis, counted in bars, and what is written below it."""


def bar_chart(bars: Bars, text: str) -> Markup:
    """Bars side by side, the highest marked with its count.

    Args:
      bars: what to draw.
      text: what it shows, for who cannot see it.
    """
    step, highest = _WIDTH / len(bars.counts), max(*bars.counts, 1)
    room = _HEIGHT - _BOTTOM - 14
    drawn = []
    for i, (count, name) in enumerate(zip(bars.counts, bars.names, strict=True)):
        # What is there can be seen, however little it is.
        height = max(room * count / highest, 1.0) if count else 0.0
        hint = element("title", f"{name}: {count:,}")
        area = {"x": i * step, "width": step}
        drawn += [
            element(
                "rect",
                x=i * step + 0.5,
                width=max(step - 1, 1.0),
                y=14 + room - height,
                height=height,
                fill="var(--mark)",
            ),
            element("rect", hint, y=0, height=14 + room, fill="transparent", **area),
        ]
    peak = list(bars.counts).index(max(bars.counts))
    top = _label((peak + 0.5) * step, 11, f"{highest:,}" if max(bars.counts) else "0")
    axis = element(
        "line", x1=0, x2=_WIDTH, y1=14 + room, y2=14 + room, stroke="var(--soft)", stroke_width=0.5
    )
    ticks = [_label(x, _HEIGHT - 4, name) for x, name in _spaced(bars.ticks, step)]
    return _svg(_WIDTH, _HEIGHT, text, *drawn, axis, top, *ticks)


def heat_map(
    counts: Sequence[Sequence[int]], names: Sequence[str], edges: Sequence[str], text: str
) -> Markup:
    """Counts over two axes with the same bins; the more, the denser.

    Args:
      counts: by row, from the bottom, and column.
      names: of the bins, shown when a cell is pointed at: column x row.
      edges: of the bins, one more than these, written at both axes as far as there is room.
      text: what it shows, for who cannot see it.
    """
    left, size = 36.0, _WIDTH - 36.0 - 6
    step, highest = size / len(names), max(max(*row, 1) for row in counts)
    cells = [
        element(
            "rect",
            element("title", f"{names[x]} x {names[y]}: {count:,}"),
            x=left + x * step,
            y=4 + size - (y + 1) * step,
            width=step - 0.5,
            height=step - 0.5,
            fill="var(--mark)",
            fill_opacity=0.15 + 0.85 * (count / highest) ** 0.5,
        )
        for y, row in enumerate(counts)
        for x, count in enumerate(row)
        if count
    ]
    frame = element("rect", x=left, y=4, width=size, height=size, fill="none", stroke="var(--line)")
    places = _spaced([(i, name) for i, name in enumerate(edges) if name], step)
    across = [_label(left + x, size + 18, name) for x, name in places]
    down = [_label(left - 4, 8 + size - x, name, anchor="end") for x, name in places]
    return _svg(_WIDTH, size + 24, text, frame, *cells, *across, *down)


def _spaced(ticks: Sequence[tuple[float, str]], step: float) -> list[tuple[float, str]]:
    """Where the ticks are drawn, without those that would touch the one before."""
    kept: list[tuple[float, str]] = []
    for place, name in ticks:
        half = len(name) * _LETTER / 2
        x = min(max(place * step, half), _WIDTH - half)
        if not kept or x - half > kept[-1][0] + len(kept[-1][1]) * _LETTER / 2 + 6:
            kept.append((x, name))
    return kept


def _label(x: float, y: float, text: str, anchor: str = "middle") -> Markup:
    if anchor == "middle":
        half = len(text) * _LETTER / 2
        x = min(max(x, half), _WIDTH - half)
    return element("text", text, x=x, y=y, text_anchor=anchor, font_size=11, fill="var(--soft)")


def _svg(width: float, height: float, text: str, *content: Markup) -> Markup:
    return element(
        "svg", *content, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=text
    )
