"""HTML put together so that no text can become markup."""

from __future__ import annotations

import html

_VOID = {"br", "img", "meta"}


class Markup(str):
    """HTML, as against a text, which is escaped wherever it is put into HTML."""

    __slots__ = ()


def element(tag: str, /, *content: str, **attributes: str | float | None) -> Markup:
    """An element of HTML or SVG.

    Args:
      tag: its name.
      *content: texts, which are escaped, and `Markup`, which is not.
      **attributes: by name, `_` for `-` and at the end of Python's own words; those that are None
        are left out, and all values are escaped.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = "".join(part if isinstance(part, Markup) else escaped(part) for part in content)
    return Markup(f"<{tag}{written}>{inner}" + ("" if tag in _VOID else f"</{tag}>"))


def escaped(text: str) -> Markup:
    """A text as HTML that shows it; what UTF-8 cannot hold is replaced."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return Markup(html.escape(whole.replace("\0", "\N{REPLACEMENT CHARACTER}")))


def _text(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
