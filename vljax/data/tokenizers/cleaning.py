"""Text cleaning of the published models.

Exported programs contain a copy of this file, so it imports nothing from vljax.
"""

from __future__ import annotations

import html
import re
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
    """Clean a text before tokenization.

    >>> clean("  A CAT &amp; a dog! ", "clip")
    'a cat & a dog!'
    >>> clean("  A CAT &amp; a dog! ", "siglip")
    'a cat amp a dog'

    Args:
      text: any text.
      cleaning: one of

        - "none";
        - "whitespace": each run of white space becomes one space, ends are stripped;
        - "lower": the same, in lower case;
        - "ascii_lower": A to Z in lower case, as SigLIP 1 and 2 were trained;
        - "clip": as CLIP, and by default open_clip;
        - "clip_whitespace": as open_clip with tokenizers of Hugging Face;
        - "siglip": as big_vision evaluates SigLIP 1 and 2;
        - "siglip_open_clip": as open_clip trains and evaluates SigLIP 1 and 2;
        - "canonical": as the SiglipTokenizer of transformers.
    """
    return _FUNCTIONS[cleaning](text)


def _none(text: str) -> str:
    return text


def _whitespace(text: str) -> str:
    return " ".join(text.split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _ascii_lower(text: str) -> str:
    """big_vision: `tokenize` of pp/ops_text.py, with tf.strings.lower, which knows ASCII only."""
    return text.translate(_ASCII_LOWER)


def _clip(text: str) -> str:
    """Radford et al. 2021: clip/simple_tokenizer.py, `basic_clean` and `whitespace_clean`.

    Also the default of open_clip (src/open_clip/tokenizer.py, `_clean_lower`).
    """
    return _lower(_repaired(text))


def _siglip(text: str) -> str:
    """big_vision: evaluators/proj/image_text/prompt_engineering.py, `canonicalize_text`.

    Replaces underscores by spaces and removes ASCII punctuation. The SiglipTokenizer of
    transformers removes underscores too. big_vision trained on texts that were only lower-cased
    (`ascii_lower`) and canonicalized the prompts of its evaluations.
    """
    return _lower(text.replace("_", " ").translate(_NO_PUNCTUATION))


def _siglip_open_clip(text: str) -> str:
    """open_clip: src/open_clip/tokenizer.py, `_clean_canonicalize`, for SigLIP 1 and 2."""
    return _siglip(_repaired(text))


def _repaired(text: str) -> str:
    """Repair wrongly decoded characters and HTML entities, which are often escaped twice."""
    # In ASCII, ftfy changes only ampersands and control characters, and takes far longer to see it.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(_unnested(text))))


# An ampersand that was escaped so often that it is no real text.
_NESTED = re.compile(r"&(?:amp;|AMP;|#0{0,20}38;|#[xX]0{0,20}26;){8,}")


def _unnested(text: str) -> str:
    """The text with an ampersand that was escaped many times escaped once: "&amp;amp;...".

    ftfy unescapes once, begins anew, and so on: its time would grow with the square of the length.
    It does so up to the first line with "<"; from there on, entities are left as they are.
    """
    tag = text.find("<")
    end = len(text) if tag < 0 else text.rfind("\n", 0, tag) + 1
    return _NESTED.sub("&amp;", text[:end]) + text[end:]


def _clip_whitespace(text: str) -> str:
    """open_clip: src/open_clip/tokenizer.py, `_clean_whitespace`, HFTokenizer's default."""
    return _whitespace(_repaired(text))


def _canonical(text: str) -> str:
    """transformers: models/siglip/tokenization_siglip.py, `tokenize` and `canonicalize_text`.

    It puts SentencePiece's space mark before the text, and so before any leading white space: a
    text with leading white space begins with an empty word.
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
