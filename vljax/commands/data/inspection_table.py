"""The results of an inspection as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from vljax.commands.output import cell, print_line
from vljax.files import format_bytes

_SHOWN = 8
_BLOCKS = " ▁▂▃▄▅▆▇█"
_QUANTILES = ("smallest", "5%", "median", "mean", "95%", "largest")


def statement(result: Mapping[str, Any]) -> str:
    """A sentence that says exactly which examples were inspected."""
    if result["seed"] is None:
        return f"All {result['examples']:,} examples were looked at."
    return (
        f"{result['examined']:,} of {result['examples']:,} examples were looked at, drawn at "
        f"random without replacement with seed {result['seed']}; all numbers are of these, "
        "and duplicates were looked for among these alone."
    )


def print_inspection(console: Console, result: Mapping[str, Any]) -> None:
    """Prints all results of an inspection."""
    print_line(console, f"\n{result['source']}")
    print_line(console, statement(result))
    console.print(_counts(result))
    console.print(_distributions(result, wide=console.width >= 100))
    if result["labels"]:
        _print_labels(console, result["labels"])
    _print_repeated(console, result)
    _print_unusable(console, result["unusable"])


def amount(value: float) -> str:
    """A number with at most four digits and thousands separators."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    digits = 0 if value >= 1000 else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:,.{digits}f}"


def share(part: int, whole: int) -> str:
    """A fraction in percent. It is shown as 0 or 100 only if it is exactly that."""
    percent = 100 * part / whole if whole else 0.0
    if part and percent < 0.1:
        return "< 0.1 %"
    if part < whole and percent > 99.9:
        return "> 99.9 %"
    return f"{percent:.1f} %" if 0 < part < whole else f"{percent:.0f} %"


def _counts(result: Mapping[str, Any]) -> Table:
    images, captions, whole = result["images"], result["captions"], result["examined"]
    table = Table(box=box.HORIZONTALS)
    table.add_column("", overflow="fold")
    table.add_column("number", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    if result["files"] is not None:
        table.add_row("files", f"{result['files']:,}")
    table.add_row("examples", f"{result['examples']:,}")
    for name, count in sorted(result["columns"].items()):
        table.add_row(f"with {cell(name)}", f"{count:,}", share(count, result["examples"]))
    for reason, count in sorted(result["left_out"].items()):
        table.add_row(f"left out on opening: {cell(reason)}", f"{count:,}")
    table.add_section()
    table.add_row("looked at", f"{whole:,}", share(whole, result["examples"]))
    usable = result["unusable"]["usable"]
    table.add_row("usable", f"{usable:,}", share(usable, whole))
    table.add_section()
    for name, count in [*images.get("formats", {}).items(), *special(images)]:
        table.add_row(name, f"{count:,}", share(count, images["number"]))
    table.add_section()
    table.add_row("captions", f"{captions['number']:,}")
    if captions["blank"]:
        table.add_row("blank captions", f"{captions['blank']:,}")
    if only_tags := captions["only_tags"]:
        name = "only tags, no caption: set the field tags of choose_text above 0"
        table.add_row(name, f"{only_tags:,}", share(only_tags, whole))
    for name, count in captions.get("scripts", {}).items():
        table.add_row(f"captions in {name}", f"{count:,}", share(count, captions["number"]))
    if tokens := captions.get("tokens"):
        longer = f"captions cut at {tokens['context_length']} tokens ({tokens['tokenizer']})"
        table.add_row(longer, f"{tokens['cut']:,}", share(tokens["cut"], captions["number"]))
    return table


def special(images: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Counts of images of unusual kinds, such as images with alpha, with a name for each."""
    names = {
        "alpha": "with alpha channel",
        "grey": "greyscale",
        "cmyk": "CMYK",
        "turned": "turned by EXIF orientation",
    }
    return [(name, images[key]) for key, name in names.items() if images.get(key) is not None]


def _distributions(result: Mapping[str, Any], *, wide: bool) -> Table:
    table = Table(box=box.HORIZONTALS)
    table.add_column("", no_wrap=True)
    quantiles = [name for name in _QUANTILES if wide or name != "mean"]
    for name in quantiles:
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("histogram", no_wrap=True)
    captions, images = result["captions"], result["images"]
    rows: list[tuple[str, Any, Callable[[float], str]]] = [
        ("captions per image", captions.get("per_image"), amount)
    ]
    rows += [
        (f"{unit} per caption", captions.get(unit), amount) for unit in ("characters", "words")
    ]
    rows += [("tokens per caption", captions.get("tokens"), amount)]
    rows += [(f"image {side}", images.get(side), amount) for side in ("width", "height")]
    rows += [("width / height", images.get("aspect_ratio"), amount)]
    rows += [("megapixels", images.get("megapixels"), amount)]
    rows += [("image file", images.get("file_size"), lambda size: format_bytes(round(size)))]
    for name, found, write in rows:
        if found is not None:
            numbers = [write(found[quantile]) for quantile in quantiles]
            drawn = [sparkline(found["histogram"]["counts"])] if wide else []
            table.add_row(name, *numbers, *drawn)
    return table


def sparkline(counts: list[int], width: int = 12) -> str:
    """A histogram in one line of at most `width` characters. Every count above 0 is visible."""
    group = math.ceil(len(counts) / width)
    sums = [sum(counts[i : i + group]) for i in range(0, len(counts), group)]
    top = max(*sums, 1)
    return "".join(_BLOCKS[math.ceil(8 * count / top)] for count in sums)


def _print_labels(console: Console, labels: Mapping[str, Any]) -> None:
    counts = list(labels["counts"].items())
    table = Table(box=box.HORIZONTALS)
    table.add_column(f"class ({labels['classes']:,} in use)", overflow="fold")
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    ends = counts if len(counts) <= _SHOWN else [*counts[: _SHOWN - 2], *counts[-2:]]
    for i, (name, count) in enumerate(ends):
        if len(counts) > _SHOWN and i == _SHOWN - 2:
            table.add_row(f"... {len(counts) - _SHOWN:,} more", "", "")
        table.add_row(cell(name), f"{count:,}", share(count, labels["labelled"]))
    if unused := labels["without_example"]:
        table.add_row("classes without example", f"{len(unused):,}", "")
    console.print(table)


def _print_repeated(console: Console, result: Mapping[str, Any]) -> None:
    found, captions = result["duplicates"], result["captions"]
    table = Table(box=box.HORIZONTALS)
    for name in ("duplicates", "groups", "in them", "superfluous"):
        table.add_column(name, justify="left" if name == "duplicates" else "right", no_wrap=True)
    kinds = [("images: same file", found["exact"]), ("images: look alike", found["near"])]
    for name, groups in kinds:
        if groups is None:
            table.add_row(name, "not looked for")
        else:
            keys = ("groups", "images", "superfluous")
            table.add_row(name, *(f"{groups[key]:,}" for key in keys))
    if repeated := captions.get("repeated"):
        groups, within = repeated["occurring_repeatedly"], repeated["captions"]
        table.add_row("captions", f"{groups:,}", f"{within:,}", f"{within - groups:,}")
    console.print(table)
    for most in captions.get("repeated", {}).get("most_frequent", [])[:3]:
        print_line(console, f"  {most['count']:,} times: {_one_line(most['caption'])}")


def _print_unusable(console: Console, unusable: Mapping[str, Any]) -> None:
    if not unusable["number"]:
        return
    table = Table(box=box.HORIZONTALS)
    table.add_column("cannot be used", no_wrap=True)
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("the first of them", overflow="fold")
    for kind, about in unusable["kinds"].items():
        first = about["first"][0]
        line = f"example {first['example']}: {_one_line(first['reason'])}"
        table.add_row(kind.replace("_", " "), f"{about['count']:,}", cell(line))
    console.print(table)


def _one_line(text: str, most: int = 100) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(line.split())
    return line if len(line) <= most else f"{line[:most]} …"
