"""Text cleaning, as the published models were trained with."""

from __future__ import annotations

import html
import string
from collections.abc import Callable
from typing import Literal

Cleaning = Literal[
    "none",
    "whitespace",
    "lower",
    "clip",
    "siglip",
    "clip_whitespace",
    "clip_canonical",
    "canonical",
]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean(text: str, cleaning: Cleaning) -> str:
    """The text as it is given to a tokenizer.

    Args:
      text: any text.
      cleaning: "none"; "whitespace" (each run of white space becomes one space, ends stripped);
        "lower" (that, in lower case); "clip"; "siglip"; "clip_whitespace", "clip_canonical" (others
        of open_clip); "canonical" (the SiglipTokenizer of transformers).
    """
    return _FUNCTIONS[cleaning](text)


def _none(text: str) -> str:
    return text


def _whitespace(text: str) -> str:
    return " ".join(text.split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _clip(text: str) -> str:
    """Radford et al. 2021: clip/simple_tokenizer.py, `basic_clean` and `whitespace_clean`.

    Also the default of open_clip (src/open_clip/tokenizer.py, `_clean_lower`). HTML is unescaped
    twice, since web captions are often escaped twice.
    """
    return _lower(_fixed(text))


def _fixed(text: str) -> str:
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _siglip(text: str) -> str:
    """big_vision: evaluators/proj/image_text/prompt_engineering.py, `canonicalize_text`.

    Underscores become spaces, ASCII punctuation goes. The SiglipTokenizer of transformers differs
    in one thing: it drops underscores like other punctuation. big_vision trained on texts that
    were only lower-cased (`lower`) and canonicalized the prompts of its evaluations.
    """
    return _lower(text.replace("_", " ").translate(_NO_PUNCTUATION))


def _clip_whitespace(text: str) -> str:
    """open_clip: src/open_clip/tokenizer.py, `_clean_whitespace`, the default of its HFTokenizer."""
    return _whitespace(_fixed(text))


def _clip_canonical(text: str) -> str:
    """open_clip: src/open_clip/tokenizer.py, `_clean_canonicalize`, for its SigLIP models."""
    return _siglip(_fixed(text))


def _canonical(text: str) -> str:
    """transformers: models/siglip/tokenization_siglip.py, `tokenize` and `canonicalize_text`.

    SentencePiece's mark of a space comes before the text there, and hence before white space that
    the text begins with, so that such a text keeps an empty word in front.
    """
    kept = text.replace(_SPACE_MARK, " ").lower().translate(_NO_PUNCTUATION)
    words = _whitespace(kept)
    return _SPACE_MARK + words if words and kept[0].isspace() else words


_SPACE_MARK = "\u2581"


_FUNCTIONS: dict[Cleaning, Callable[[str], str]] = {
    "none": _none,
    "whitespace": _whitespace,
    "lower": _lower,
    "clip": _clip,
    "siglip": _siglip,
    "clip_whitespace": _clip_whitespace,
    "clip_canonical": _clip_canonical,
    "canonical": _canonical,
}
