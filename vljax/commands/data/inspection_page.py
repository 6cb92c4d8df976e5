"""The results of inspections as one HTML file with images and charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from vljax import __version__
from vljax.charts import Bars, bar_chart, heat_map, svg
from vljax.commands.data.inspection_table import amount, share, special, statement
from vljax.data.images import read_header
from vljax.data.records import Annotation, ExampleError
from vljax.data_tools.inspection.inspect import Inspection, InspectionOptions
from vljax.data_tools.inspection.measure import thumbnail
from vljax.files import format_bytes
from vljax.web import Markup, element, page, picture

_LABELS = 40


def inspection_page(found: Sequence[Inspection], how: InspectionOptions, pictures: int) -> str:
    """The content of the HTML file.

    Args:
      found: the inspections, one for each data set.
      how: the options of the inspections.
      pictures: most examples to show for each data set, not counting duplicates.
    """
    names = [inspection.result["source"] for inspection in found]
    links = [element("a", name, href=f"#set{i}") for i, name in enumerate(names)]
    return page(
        f"Data: {', '.join(names)}",
        element("h1", "What is in the data"),
        element("p", f"vljax {__version__}, data inspect", class_="soft"),
        element("nav", *links),
        *(_section(i, each, how, pictures) for i, each in enumerate(found)),
    )


def _section(number: int, inspection: Inspection, how: InspectionOptions, pictures: int) -> Markup:
    result, sheet = inspection.result, Sheet(inspection, how.max_pixels)
    return element(
        "section",
        element("h2", result["source"]),
        element("p", statement(result)),
        _counts(result),
        *_unusable(result, sheet),
        element("h3", "Lengths and sizes"),
        element("p", "The first and last bar hold what lies beyond, too.", class_="soft"),
        charts(result),
        *_labels(result["labels"]),
        *_duplicates(result["duplicates"], sheet),
        *_repeated(result["captions"]),
        element("h3", f"Examples, drawn with seed {how.seed}"),
        sheet.sample(pictures, how.seed),
        id=f"set{number}",
    )


def _counts(result: Mapping[str, Any]) -> Markup:
    """Small tables of counts, side by side."""
    whole, images, captions = result["examined"], result["images"], result["captions"]
    usable = result["unusable"]["usable"]
    files = [] if result["files"] is None else [("files", result["files"], None)]
    columns = [(f"with {name}", n, result["examples"]) for name, n in result["columns"].items()]
    left_out = [(f"left out on opening: {why}", n, None) for why, n in result["left_out"].items()]
    number = images["number"]
    formats = [(name, n, number) for name, n in images.get("formats", {}).items()]
    kinds = [(name, n, number) for name, n in special(images)]
    texts = [("captions", captions["number"], None), ("blank captions", captions["blank"], None)]
    scripts = [
        (f"in {name}", n, captions["number"]) for name, n in captions.get("scripts", {}).items()
    ]
    if tokens := captions.get("tokens"):
        name = f"cut at {tokens['context_length']} tokens ({tokens['tokenizer']})"
        scripts.append((name, tokens["cut"], captions["number"]))
    looked = [("looked at", whole, result["examples"]), ("usable", usable, whole)]
    return element(
        "div",
        _card("Examples", [*files, ("examples", result["examples"], None), *looked, *left_out]),
        *([_card("Columns", columns)] if columns else []),
        _card("Images", [("images", number, None), *formats, *kinds]),
        _card("Captions", [*texts, *scripts]),
        class_="cards",
    )


def _card(title: str, rows: Sequence[tuple[str, int, int | None]]) -> Markup:
    written = [
        (name, f"{n:,}", "" if whole is None else share(n, whole)) for name, n, whole in rows
    ]
    return element("div", element("h4", title), _table((), written), class_="card")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table whose first column is text and whose other columns are numbers."""

    def line(tag: str, cells: Sequence[str]) -> Markup:
        kinds = [None, *["number"] * len(cells)]
        found = zip(cells, kinds, strict=False)
        return element("tr", *(element(tag, cell, class_=kind) for cell, kind in found))

    top = [element("thead", line("th", head))] if head else []
    body = element("tbody", *(line("td", row) for row in rows))
    return element("div", element("table", *top, body), class_="scroll")


def _unusable(result: Mapping[str, Any], sheet: Sheet) -> list[Markup]:
    unusable = result["unusable"]
    if not unusable["number"]:
        return []
    parts = [
        element("h3", "What cannot be used"),
        element("p", "Training masks these examples out. The first of each kind:", class_="soft"),
    ]
    for kind, about in unusable["kinds"].items():
        many = f"{about['count']:,} ({share(about['count'], result['examined'])})"
        parts.append(element("h4", f"{kind.replace('_', ' ')}: {many}"))
        figures = [sheet.figure(each["example"], each["reason"]) for each in about["first"]]
        parts.append(element("div", *figures, class_="row"))
    return parts


def _labels(labels: Mapping[str, Any] | None) -> list[Markup]:
    if labels is None:
        return []
    counts = list(labels["counts"].items())
    rows = [(name, f"{count:,}", share(count, labels["labelled"])) for name, count in counts]
    if len(rows) > _LABELS:
        rows = [*rows[: _LABELS - 5], (f"... {len(rows) - _LABELS:,} more", "", ""), *rows[-5:]]
    unused = labels["without_example"]
    names = ", ".join(unused[:_LABELS]) + (", ..." if len(unused) > _LABELS else "")
    note = [element("p", f"{len(unused):,} classes without example: {names}")] if unused else []
    return [
        element("h3", f"Classes ({labels['classes']:,} in use)"),
        _table(("class", "examples", "share"), rows),
        *note,
    ]


def _duplicates(duplicates: Mapping[str, Any], sheet: Sheet) -> list[Markup]:
    parts = []
    for kind, title in (("exact", "The same file"), ("near", "Images that look alike")):
        found = duplicates[kind]
        if found is None:
            parts += [
                element("h3", title),
                element("p", "Not looked for: images were not decoded."),
            ]
            continue
        summary = (
            f"{found['groups']:,} groups of {found['images']:,} images; {found['superfluous']:,} "
            "are left over once each group keeps one."
        )
        parts += [element("h3", title), element("p", summary), *sheet.groups(found["largest"])]
    return parts


def _repeated(captions: Mapping[str, Any]) -> list[Markup]:
    repeated = captions.get("repeated")
    if not repeated or not repeated["most_frequent"]:
        return []
    rows = [(each["caption"][:200], f"{each['count']:,}") for each in repeated["most_frequent"]]
    summary = (
        f"{repeated['occurring_repeatedly']:,} captions occur more than once, "
        f"{repeated['captions']:,} times in all; letter case and white space "
        "do not count. The most frequent:"
    )
    return [
        element("h3", "The same caption"),
        element("p", summary),
        _table(("caption", "times"), rows),
    ]


# --- Thumbnails of examples ---

_LONGEST = 192  # pixels
_CAPTIONS, _CHARACTERS = 5, 400
_GROUPS, _IN_GROUP = 30, 8


class Sheet:
    """Renders thumbnails of examples of one inspected data set.

    Args:
      inspection: the inspection of the data set.
      max_pixels: larger images are not shown.
    """

    def __init__(self, inspection: Inspection, max_pixels: int):
        self._records, self._max_pixels = inspection.records, max_pixels
        self._examples = inspection.examples

    def sample(self, count: int, seed: int) -> Markup:
        """A random sample of usable examples, in the order of the data set."""
        usable = self._examples["index"][self._examples["kind"] == 0]
        drawn = np.random.default_rng(seed).permutation(usable)[:count]
        return element("div", *(self.figure(i) for i in np.sort(drawn).tolist()), class_="pictures")

    def groups(self, groups: Sequence[dict[str, Any]]) -> list[Markup]:
        """The images of each group of duplicates side by side, at most the first few."""
        rows = []
        for group in groups[:_GROUPS]:
            figures = [self.figure(i) for i in group["examples"][:_IN_GROUP]]
            if group["size"] > _IN_GROUP:
                more = f"and {group['size'] - _IN_GROUP:,} more"
                figures.append(element("figure", element("div", more, class_="missing")))
            rows.append(element("div", *figures, class_="row"))
        if len(groups) > _GROUPS:
            rows.append(element("p", f"The {_GROUPS} largest groups are shown.", class_="soft"))
        return rows

    def figure(self, index: int, reason: str | None = None) -> Markup:
        """One example: its image (or why it cannot be shown), captions, size and format."""
        about: Annotation | None = None
        try:
            about = self._records.annotation(index)
            content = self._records.image(index)
            header = read_header(content)
            pixels = thumbnail(content, header, _LONGEST, self._max_pixels)
        except ExampleError as error:
            shown = element("div", "no picture" if reason else str(error), class_="missing")
            facts = f"example {index}"
        else:
            first = about.first_caption[:_CHARACTERS]
            shown = picture(pixels, first or f"example {index}")
            size = f"{header.width} x {header.height} {header.format}, {format_bytes(len(content))}"
            facts = f"example {index}: {size}"
        captions = self._captions(about) if about else []
        notes = [element("span", reason, class_="warn")] if reason else []
        return element(
            "figure",
            shown,
            element("figcaption", *captions, *notes, element("div", facts, class_="soft")),
        )

    def _captions(self, about: Annotation) -> list[Markup]:
        written = [text for text in about.captions if text.strip()]
        lines = [element("div", _short(text), dir="auto") for text in written[:_CAPTIONS]]
        if len(written) > _CAPTIONS:
            lines.append(element("div", f"and {len(written) - _CAPTIONS} more", class_="soft"))
        if about.label is not None:
            names = self._records.class_names
            name = names[about.label] if about.label < len(names) else str(about.label)
            lines.append(element("div", f"class: {name}", class_="soft"))
        return lines


def _short(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]} …"


# --- Charts ---

Write = Callable[[float], str]


def charts(result: Mapping[str, Any]) -> Markup:
    """A card with a chart for each quantity of the data set."""
    captions, images = result["captions"], result["images"]
    cards = [
        _chart("Captions per image", captions.get("per_image"), amount),
        _chart("Characters per caption", captions.get("characters"), amount),
        _chart("Words per caption", captions.get("words"), amount),
        _tokens(captions.get("tokens")),
        _chart("Image width, pixels", images.get("width"), _whole),
        _chart("Image height, pixels", images.get("height"), _whole),
        _chart("Width / height", images.get("aspect_ratio"), _ratio),
        _chart("Megapixels", images.get("megapixels"), amount),
        _chart("Image file", images.get("file_size"), lambda size: format_bytes(round(size))),
        _sizes(images.get("sizes")),
    ]
    return element("div", *(card for card in cards if card is not None), class_="cards")


def _whole(value: float) -> str:
    return f"{round(value):,}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _chart(title: str, found: Mapping[str, Any] | None, write: Write) -> Markup | None:
    if found is None:
        return None
    numbers = ", ".join(
        f"{name} {write(found[name])}" for name in ("smallest", "median", "95%", "largest")
    )
    chart = svg(bar_chart(_bars(found["histogram"], write)), f"Histogram: {title}")
    return element(
        "div", element("h4", title), chart, element("span", numbers, class_="soft"), class_="card"
    )


def _tokens(found: Mapping[str, Any] | None) -> Markup | None:
    if found is None:
        return None
    title = f"Tokens per caption ({found['tokenizer']}, cut at {found['context_length']})"
    return _chart(title, found, amount)


def _bars(histogram: Mapping[str, Any], write: Write) -> Bars:
    """Bars with labels: below each bar for bins of one integer, otherwise at the bin edges."""
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
    # Label integer edges only: the edges between powers of 2 are not round numbers.
    ticks = [f"{edge:g}" if float(edge).is_integer() else "" for edge in edges]
    names = [f"{edge:.0f} to {after:.0f}" for edge, after in pairwise(edges)]
    chart = svg(heat_map(counts, names, ticks), "Images by width (across) and height (up)")
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
