"""The histograms of an inspection as charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from vljax.data_commands.inspection_table import amount
from vljax.report.text import in_bytes
from vljax.web import Bars, Markup, bar_chart, element, heat_map

Write = Callable[[float], str]


def charts(result: Mapping[str, Any]) -> Markup:
    """A card for each quantity that the data set has."""
    captions, images = result["captions"], result["images"]
    cards = [
        _card("Captions per image", captions.get("per_image"), amount),
        _card("Characters per caption", captions.get("characters"), amount),
        _card("Words per caption", captions.get("words"), amount),
        _tokens(captions.get("tokens")),
        _card("Image width, pixels", images.get("width"), _whole),
        _card("Image height, pixels", images.get("height"), _whole),
        _card("Width / height", images.get("aspect_ratio"), _ratio),
        _card("Megapixels", images.get("megapixels"), amount),
        _card("Image file", images.get("file_size"), lambda size: in_bytes(round(size))),
        _sizes(images.get("sizes")),
    ]
    return element("div", *(card for card in cards if card is not None), class_="cards")


def _whole(value: float) -> str:
    return f"{round(value):,}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _card(title: str, found: Mapping[str, Any] | None, write: Write) -> Markup | None:
    if found is None:
        return None
    numbers = ", ".join(
        f"{name} {write(found[name])}" for name in ("smallest", "median", "95%", "largest")
    )
    chart = bar_chart(_bars(found["histogram"], write), f"Histogram: {title}")
    return element(
        "div", element("h4", title), chart, element("span", numbers, class_="soft"), class_="card"
    )


def _tokens(found: Mapping[str, Any] | None) -> Markup | None:
    if found is None:
        return None
    title = f"Tokens per caption ({found['tokenizer']}, cut at {found['context_length']})"
    return _card(title, found, amount)


def _bars(histogram: Mapping[str, Any], write: Write) -> Bars:
    """Whole numbers in bins of one are written below their bar, else edges between bars."""
    edges, counts = histogram["edges"], histogram["counts"]
    if all(isinstance(low, int) and low + 1 == high for low, high in pairwise(edges)):
        names = [write(edge) for edge in edges[:-1]]
        ticks = [(i + 0.5, name) for i, name in enumerate(names)]
    else:
        names = [f"{write(low)} to {write(high)}" for low, high in pairwise(edges)]
        ticks = [(float(i), write(edge)) for i, edge in enumerate(edges)]
    return Bars(counts, names, ticks)


def _sizes(found: Mapping[str, Any] | None) -> Markup | None:
    if found is None:
        return None
    edges, counts = found["grid"]["edges"], found["grid"]["counts_by_height_and_width"]
    # Only powers of 2 are numbers that a reader knows.
    ticks = [f"{edge:g}" if float(edge).is_integer() else "" for edge in edges]
    names = [f"{edge:.0f} to {after:.0f}" for edge, after in pairwise(edges)]
    chart = heat_map(counts, names, ticks, "Images by width (across) and height (up)")
    common = ", ".join(
        f"{size['width']} x {size['height']} ({size['count']:,})"
        for size in found["most_frequent"][:3]
    )
    return element(
        "div",
        element("h4", "Width (across) and height (up), pixels"),
        chart,
        element("span", f"{found['distinct']:,} sizes; most frequent {common}", class_="soft"),
        class_="card",
    )
