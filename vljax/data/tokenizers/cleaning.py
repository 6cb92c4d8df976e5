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
    "ascii_lower",
    "clip",
    "clip_whitespace",
    "siglip",
    "siglip_open_clip",
    "canonical",
]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def clean(text: str, cleaning: Cleaning) -> str:
    """The text as it is given to a tokenizer.

    Args:
      text: any text.
      cleaning: "none"; "whitespace" (each run of white space becomes one space, ends stripped);
        "lower" (that, in lower case); "ascii_lower" (A to Z in lower case, as SigLIP 1 and 2 were
        trained); "clip"; "clip_whitespace" (open_clip's for tokenizers of Hugging Face); "siglip"
        (as big_vision evaluates them); "siglip_open_clip" (as open_clip trains and evaluates them);
        "canonical" (the SiglipTokenizer of transformers).
    """
    return _FUNCTIONS[cleaning](text)


def _none(text: str) -> str:
    return text


def _whitespace(text: str) -> str:
    return " ".join(text.split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _ascii_lower(text: str) -> str:
    """big_vision: `tokenize` of pp/ops_text.py, by tf.strings.lower, which knows ASCII only."""
    return text.translate(_ASCII_LOWER)


def _clip(text: str) -> str:
    """Radford et al. 2021: clip/simple_tokenizer.py, `basic_clean` and `whitespace_clean`.

    Also the default of open_clip (src/open_clip/tokenizer.py, `_clean_lower`).
    """
    return _lower(_repaired(text))


def _siglip(text: str) -> str:
    """big_vision: evaluators/proj/image_text/prompt_engineering.py, `canonicalize_text`.

    Underscores become spaces, ASCII punctuation goes. The SiglipTokenizer of transformers differs
    in one thing: it drops underscores like other punctuation. big_vision trained on texts that
    were only lower-cased (`ascii_lower`) and canonicalized the prompts of its evaluations.
    """
    return _lower(text.replace("_", " ").translate(_NO_PUNCTUATION))


def _siglip_open_clip(text: str) -> str:
    """open_clip: src/open_clip/tokenizer.py, `_clean_canonicalize`, for SigLIP 1 and 2."""
    return _siglip(_repaired(text))


def _repaired(text: str) -> str:
    """Wrongly decoded characters and HTML entities put right; the latter are often escaped twice.

    ftfy changes ASCII only at ampersands and control characters, and takes far longer to find that
    out.
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _clip_whitespace(text: str) -> str:
    """open_clip: src/open_clip/tokenizer.py, `_clean_whitespace`, HFTokenizer's default."""
    return _whitespace(_repaired(text))


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
    "ascii_lower": _ascii_lower,
    "clip": _clip,
    "siglip": _siglip,
    "clip_whitespace": _clip_whitespace,
    "siglip_open_clip": _siglip_open_clip,
    "canonical": _canonical,
}
