"""What was found in data sets, as one HTML file with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vljax import __version__
from vljax.data.inspection.inspect import How, Inspection
from vljax.data_commands.contact_sheet import Sheet
from vljax.data_commands.inspection_charts import charts
from vljax.data_commands.inspection_table import share, special, statement
from vljax.web import Markup, element, page

_LABELS = 40


def inspection_page(found: Sequence[Inspection], how: How, pictures: int) -> str:
    """The file's content.

    Args:
      found: by data set.
      how: they were looked through.
      pictures: examples shown of each at most, beside duplicates.
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


def _section(number: int, inspection: Inspection, how: How, pictures: int) -> Markup:
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
    """Short tables side by side."""
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
    """The first column is text, the others are numbers."""

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
        said = (
            f"{found['groups']:,} groups of {found['images']:,} images; {found['superfluous']:,} "
            "are left over once each group keeps one."
        )
        parts += [element("h3", title), element("p", said), *sheet.groups(found["largest"])]
    return parts


def _repeated(captions: Mapping[str, Any]) -> list[Markup]:
    repeated = captions.get("repeated")
    if not repeated or not repeated["most_frequent"]:
        return []
    rows = [(each["caption"][:200], f"{each['count']:,}") for each in repeated["most_frequent"]]
    said = (
        f"{repeated['occurring_repeatedly']:,} captions occur more than once, "
        f"{repeated['captions']:,} times in all; letter case and white space "
        "do not count. The most frequent:"
    )
    return [
        element("h3", "The same caption"),
        element("p", said),
        _table(("caption", "times"), rows),
    ]
