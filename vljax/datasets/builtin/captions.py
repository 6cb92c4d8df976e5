"""Turn titles, file names and keywords of clip art into captions and tags."""

import hashlib
import html
import re
from collections.abc import Iterable
from typing import Literal

Split = Literal["train", "validation", "test"]

# Upper ends of the ranges of the caption's hash that go to each split.
_SPLIT_BOUNDS: tuple[tuple[Split, float], ...] = (("train", 0.75), ("validation", 0.85))

_BATCH_TITLE = re.compile(
    r"clipart by nicu buculei\b.*|various cliparts|aiga_symbol_signs|(svg )?road signs|"
    r"r1[56] (sibmission|general)|etiquette icons|map symbols|australian maps|homes clipart|"
    r"advertising|moons|chess pieces|balloons-aj|",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\S@\S|https?:|www\.", re.IGNORECASE)
_HASH = re.compile(r"hash\(0x[0-9a-f]+\)?|0x[0-9a-f]+|[0-9a-f]{12,}", re.IGNORECASE)
_BYLINE = re.compile(r"^clip ?art by .*? - ", re.IGNORECASE)
_EXTENSION = re.compile(r"\.(svg|png|jpe?g|eps)$", re.IGNORECASE)
_FILE_NAME_AFFIXES = re.compile(r"^aiga_|_\d_symbol_\d+c?m_bwh$|(-md)?-v0\.1$|-md$")
_BLACK_AND_WHITE = r"b ?(?:and|&)? ?w"
_BLACK_AND_WHITE_START = re.compile(rf"^{_BLACK_AND_WHITE} ", re.IGNORECASE)
_BLACK_AND_WHITE_END = re.compile(rf" \(?{_BLACK_AND_WHITE}\)?$", re.IGNORECASE)
_SITE_NAME = re.compile(r"\b(open ?)?clip ?arts?\b", re.IGNORECASE)
_ZERO_COUNTER = re.compile(r"(?<![\d.])0+\d+\b(?!\.\d)")
_PATTERN_COUNTER = re.compile(r" \d+(?=( filled)? pattern$)")
_END_COUNTER = re.compile(r"((?<=[^\W\d]{3})|(?<![\d.-])[ #-]+)\d{1,3}$")
_EDGES = " \t.,;:#-_!?"
_JUNK_CAPTIONS = frozenset({"untitled", "unnamed", "unknown", "no title", "title", "image", "icon"})
_JUNK_TAGS = frozenset(
    {"unsorted", "externalsource", "png", "svg", "vector", "vectorized", "inkscape", "hash"}
    | {"brisgeek", "lumen", "pimp", "sexy"}
)
_LONGEST_TAG_WORD = 20


def normalise_caption(caption: str) -> str:
    """Normalise a caption, so that captions that differ only in form become equal.

    Args:
      caption: any text.

    Returns:
      The text in lower case, with each run of spaces and punctuation as one space.
    """
    return " ".join(re.findall(r"[^\W_]+", caption.lower()))


def split_of(caption: str) -> Split:
    """The split of a caption; the same for captions that differ only in form.

    Args:
      caption: any text.

    Returns:
      "train" for about 75 % of captions, "validation" for 10 % and "test" for 15 %.
    """
    digest = hashlib.sha256(normalise_caption(caption).encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    return next((split for split, bound in _SPLIT_BOUNDS if position < bound), "test")


def title_fault(title: str, creators: Iterable[str]) -> str | None:
    """The reason why a title, as written in a file, cannot be a caption.

    Args:
      title: the title, before any cleaning.
      creators: names of the item's authors.

    Returns:
      The name of the broken rule; None for a title that can be cleaned.
    """
    text = title.strip()
    if _HASH.fullmatch(text):
        return "title is a hash"
    if _ADDRESS.search(text):
        return "title is or holds an address"
    if text and not re.search(r"[^\W\d_]", text):
        return "title is a number"
    if normalise_caption(text) in {normalise_caption(name) for name in creators}:
        return "title is the author's name"
    return None


def caption_fault(caption: str) -> str | None:
    """The reason why a cleaned caption cannot be used.

    Args:
      caption: a cleaned title or file name.

    Returns:
      The name of the broken rule; None for a good caption.
    """
    letters = re.findall(r"[^\W\d_]", caption)
    if len(letters) <= 2:
        return "caption too short"
    if normalise_caption(caption) in _JUNK_CAPTIONS:
        return "caption says nothing"
    return None


def names_a_batch(title: str) -> bool:
    """Whether a title is empty or names a whole batch of files."""
    return _BATCH_TITLE.fullmatch(title.strip()) is not None


def clean_file_name(stem: str) -> str:
    """Make a title from a file name.

    Args:
      stem: a file name without its extension.

    Returns:
      The cleaned text; may be empty.
    """
    return clean_text(_FILE_NAME_AFFIXES.sub("", stem).replace("-", " "))


def clean_text(text: str) -> str:
    """Remove entities, bylines, file extensions, counters and stray spaces from a title.

    Args:
      text: a title, or a file name without its extension.

    Returns:
      The cleaned text; may be empty.
    """
    text = _BYLINE.sub("", _unescape(text).strip())
    text = _EXTENSION.sub("", text).replace("_", " ")
    text = _BLACK_AND_WHITE_START.sub("black and white ", text)
    text = _BLACK_AND_WHITE_END.sub(" (black and white)", text)
    text = _SITE_NAME.sub(" ", text)
    text = _PATTERN_COUNTER.sub("", _ZERO_COUNTER.sub(" ", text).strip())
    text = _END_COUNTER.sub("", text)
    return " ".join(text.split()).strip(_EDGES)


def clean_tags(keywords: Iterable[str], creators: Iterable[str]) -> list[str]:
    """Clean the keywords of an item.

    Args:
      keywords: the keywords as written in the file.
      creators: names of the item's authors, which are removed.

    Returns:
      Different tags in lower case, in the order of the keywords.
    """
    names = {normalise_caption(name) for name in creators}
    tags = []
    for keyword in keywords:
        if _HASH.fullmatch(keyword) or _ADDRESS.search(keyword):
            continue
        tag = clean_text(keyword).lower().strip("=")
        words = tag.split()
        if (
            tag in _JUNK_TAGS
            or not tag.isascii()
            or caption_fault(tag) not in (None, "caption too short")
            or not re.search(r"[a-z]{2}", tag)
            or any(len(word) > _LONGEST_TAG_WORD for word in words)
            or normalise_caption(tag) in names
        ):
            continue
        tags.append(tag)
    return list(dict.fromkeys(tags))


def _unescape(text: str) -> str:
    # Some titles were escaped twice, and some hold UTF-8 bytes read as Latin-1.
    text = html.unescape(html.unescape(text))
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
