"""A complete `tokenizer.json`: cleaning, truncation, special tokens and padding in one file."""

from __future__ import annotations

import json
import string
from typing import Any, NamedTuple

import numpy as np

from vljax.config import UserError
from vljax.data.tokenizers import LoadedTokenizer
from vljax.data.tokenizers.cleaning import Cleaning

FTFY: dict[Cleaning, Cleaning] = {
    "clip": "lower",
    "clip_whitespace": "whitespace",
    "siglip_open_clip": "siglip",
}
"""Text cleanings that repair characters (ftfy), which no normalizer of the library can do, and the
cleanings that are otherwise the same."""

PROBES = (
    "",
    "a photo of a cat",
    "  Two\tDOGS,\n running — on   grass!  ",
    "snake_case and kebab-case: (parentheses) [brackets] {braces} 50% $3.50 #1",
    "Crème brûlée, naïve ÀÉÎÕÜ Straße ŒUVRE ЖИЗНЬ ΟΔΟΣ İstanbul 東京 🐈 a\u00a0b\u2003c\x1cd",
    "don't it's we're they've I'll he'd",
    "one two three four five six seven eight nine ten " * 20,
)
"""Texts for which different tokenizers give different ids."""


class Special(NamedTuple):
    """Names of the special tokens; `bos` is None if texts begin without one."""

    pad: str
    eos: str
    bos: str | None


class Around(NamedTuple):
    """The tokens that a tokenizer adds before and after a text."""

    before: tuple[str, ...]
    after: tuple[str, ...]


def added_around(content: bytes, file: str) -> Around:
    """The special tokens that the template of a `tokenizer.json` adds.

    Raises:
      UserError: if the content is not a tokenizer.json, its template names an unknown token, or it
        fails for a text.
    """
    tokenizer = _load(content, file)
    _check_template(tokenizer.post_processor, file)
    try:
        plain = tokenizer.encode("a", add_special_tokens=False).tokens
        whole = tokenizer.encode("a").tokens
    except Exception as error:  # the Rust library raises plain Exception
        raise UserError(f"{file}: cannot tokenize a text ({error})") from error
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return Around(tuple(whole[:start]), tuple(whole[start + len(plain) :]))
    raise UserError(f"{file}: the special tokens that it adds cannot be told from a text")


def _check_template(processor: Any, file: str) -> None:
    """Raises UserError if a template has a token without an id; the library would panic on it."""
    state = {} if processor is None else json.loads(processor.__getstate__())
    for step in state.get("processors", [state]):
        for part in step.get("single", []) if step.get("type") == "TemplateProcessing" else []:
            name = part.get("SpecialToken", {}).get("id")
            if name is not None and name not in step["special_tokens"]:
                raise UserError(
                    f"{file}: post_processor: special_tokens lacks {name!r}, which single names"
                )


def token_id(content: bytes, token: str) -> int:
    """The id of a token. Raises UserError if the vocabulary lacks it."""
    number: int | None = _load(content, "tokenizer.json").token_to_id(token)
    if number is None:
        raise UserError(f"tokenizer.json has no token {token!r}")
    return number


def complete(content: bytes, special: Special, context: int, cleaning: Cleaning) -> bytes:
    """A `tokenizer.json` with our cleaning, special tokens, truncation and padding.

    Args:
      content: a `tokenizer.json`, whose vocabulary and normalizer are kept.
      special: the special tokens around texts, and for padding.
      context: the context length in tokens, including special ones.
      cleaning: the cleaning of texts before tokenization.

    Raises:
      UserError: if the content is not a tokenizer.json, or lacks a special token.
    """
    from tokenizers import normalizers, processors

    tokenizer = _load(content, "tokenizer.json")
    steps = _normalizers(cleaning)
    if steps:
        own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
        tokenizer.normalizer = normalizers.Sequence([*steps, *own])
    framed = [token for token in (special.bos, special.eos) if token is not None]
    single = " ".join([*([special.bos] if special.bos else []), "$A", special.eos])
    ids = {token: token_id(content, token) for token in {*framed, special.pad}}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single.split(" "), special_tokens=[(token, ids[token]) for token in framed]
    )
    tokenizer.enable_truncation(context)
    tokenizer.enable_padding(pad_id=ids[special.pad], pad_token=special.pad, length=context)
    written: str = tokenizer.to_str(pretty=True)
    return written.encode()


def compare(
    content: bytes, ours: LoadedTokenizer, target: str, *, cleaned: bool, padding: bool
) -> None:
    """Raises UserError if a `tokenizer.json` and our tokenizer disagree on any of `PROBES`.

    Args:
      content: the complete file.
      ours: our tokenizer.
      target: the foreign format, for messages.
      cleaned: whether to compare on texts that our tokenizer has cleaned already.
      padding: whether to compare the ids of padding too.
    """
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_buffer(content)
    for text in PROBES:
        found = theirs.encode(ours.clean(text) if cleaned else text).ids
        ids, mask = ours([text])
        kept = np.ones_like(mask[0]) if padding else mask[0]
        if not np.array_equal(np.asarray(found)[kept], ids[0][kept]):
            raise UserError(
                f"data.tokenizers.text: in {target} the text {text[:40]!r} would get other ids:"
                f" {found[:8]} ..., here {ids[0][:8].tolist()} ..."
            )


# The white space of `str.split`.
_SPACE = (
    r"[\t-\r\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}"
    r"\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
)
_PUNCTUATION = r"[!-/:-@\[-`{-~]"
# `str.lower` uses another sigma at the end of a word, which Lowercase does not know.
_FINAL_SIGMA = r"(?<=\p{L})\x{3a3}(?!['.:\x{b7}\x{2019}]*\p{L})"


def _normalizers(cleaning: Cleaning) -> list[Any]:
    """The cleaning as normalizers of the tokenizers library, without the repairs of ftfy."""
    from tokenizers import Regex
    from tokenizers.normalizers import Lowercase, Replace

    space = [Replace(Regex(_SPACE), " "), Replace(Regex(r"\A | \z"), "")]
    lower = [Replace(Regex(_FINAL_SIGMA), "\u03c2"), Lowercase()]
    mark = Replace(Regex(rf"\A{_SPACE}(?=\S)"), "\u2581")
    drop = Replace(Regex(_PUNCTUATION), "")
    steps: dict[Cleaning, list[Any]] = {
        "none": [],
        "whitespace": space,
        "clip_whitespace": space,
        "lower": [*space, *lower],
        "ascii_lower": [Replace(letter, letter.lower()) for letter in string.ascii_uppercase],
        "clip": [*space, *lower],
        "siglip": [Replace("_", " "), drop, *space, *lower],
        "siglip_open_clip": [Replace("_", " "), drop, *space, *lower],
        "canonical": [Replace("\u2581", " "), *lower, drop, mark, *space],
    }
    return steps[cleaning]


def _load(content: bytes, source: str) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the Rust library raises plain Exception
        raise UserError(f"{source}: not a tokenizer.json ({error})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
