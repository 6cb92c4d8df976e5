"""HTML elements from Python; all texts and attributes are escaped."""

from __future__ import annotations

import html

_VOID = {"br", "img", "meta"}


class Markup(str):
    """A string that is HTML. Other strings are texts and are escaped when put into HTML."""

    __slots__ = ()


def element(tag: str, /, *content: str, **attributes: str | float | None) -> Markup:
    """An HTML or SVG element.

    >>> element("p", "1 < 2 ", element("b", "yes"), class_="soft")
    '<p class="soft">1 &lt; 2 <b>yes</b></p>'

    Args:
      tag: the name of the element.
      *content: texts, which are escaped, and `Markup`, which is not.
      **attributes: values by name, escaped; None leaves the attribute out. Write `_` for `-`, and
        add `_` to Python keywords, as in `class_`.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = "".join(part if isinstance(part, Markup) else escaped(part) for part in content)
    return Markup(f"<{tag}{written}>{inner}" + ("" if tag in _VOID else f"</{tag}>"))


def escaped(text: str) -> Markup:
    """A text as HTML; characters that UTF-8 cannot encode are replaced."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return Markup(html.escape(whole.replace("\0", "\N{REPLACEMENT CHARACTER}")))


def _text(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
