"""The tokenizers of open_clip: CLIP's, which is built in, and those of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vljax.data.tokenizers import Clip, LoadedTokenizer, SentencePiece
from vljax.data.tokenizers.cleaning import Cleaning
from vljax.interop.export_plan import ExportIssues, TrainedModel
from vljax.interop.foreign_config import ForeignConfig, to_json
from vljax.interop.transformers import tokenizer

# Each of open_clip's cleanings first repairs characters and HTML (ftfy).
_CLEANINGS = {"lower": "clip", "whitespace": "clip_whitespace", "canonicalize": "siglip_open_clip"}
_NAMES = {ours: theirs for theirs, ours in _CLEANINGS.items()}
_CLIP_CLEANINGS = {name: _CLEANINGS[name] for name in ("lower", "canonicalize")}
"""The cleanings that work with CLIP's own tokenizer, which always lower-cases in vljax."""
_NEAREST = {
    "lower": "clip",
    "ascii_lower": "clip",
    "siglip": "siglip_open_clip",
    "canonical": "siglip_open_clip",
}
"""The cleaning with ftfy that is most like one without."""


@dataclass(frozen=True)
class Ids:
    """What `text_cfg` holds about a tokenizer."""

    eos_id: int
    pad_id: int
    vocab_size: int
    config: Mapping[str, Any]
    """Further fields of `text_cfg`."""


@dataclass(frozen=True)
class ReadTokenizer(Ids):
    """`Ids` with the tokenizer that was read."""

    loaded: LoadedTokenizer


def read(folder: Path, fields: ForeignConfig) -> ReadTokenizer:
    """The tokenizer of a folder, from `text_cfg` and tokenizer files."""
    context = fields.get("context_length", 77)
    settings = fields.part("tokenizer_kwargs")
    fields.must("tokenizer_mode", None)
    settings.must("strip_sep_token", False, False)
    if "hf_tokenizer_name" not in fields:
        cleaning = settings.one_of("clean", _CLIP_CLEANINGS, "lower")
        loaded = Clip(context_length=context, cleaning=cleaning).load()
        return ReadTokenizer(loaded.vocab_size - 1, 0, loaded.vocab_size, {}, loaded)
    cleaning = settings.one_of("clean", _CLEANINGS, "whitespace")
    found = tokenizer.read(folder, context)
    config = found.loaded.config
    if isinstance(config, SentencePiece) and cleaning != "siglip_open_clip":
        # A SiglipTokenizer cleans again; vljax has no cleaning for the other combinations.
        settings.fail("clean", "has to be 'canonicalize' with a SiglipTokenizer")
    vocabulary = tokenizer.vocabulary(found.loaded)
    loaded = dataclasses.replace(config, cleaning=cleaning).load_vocabulary(vocabulary)
    return ReadTokenizer(found.eos_id, 0, found.vocab_size, {}, loaded)


def write(trained: TrainedModel, issues: ExportIssues) -> tuple[Ids, dict[str, bytes]]:
    """The fields of `text_cfg` about the tokenizer, and the tokenizer's files.

    Raises:
      UserError: if texts would get other ids there.
    """
    config, path = trained.tokenizer_config, trained.tokenizer_path
    tokenizer.check_framing(trained, issues)
    canonical = isinstance(config, SentencePiece)
    known: Collection[str] = _NAMES
    if isinstance(config, Clip):
        known = _CLIP_CLEANINGS.values()
    elif canonical:
        known = ("siglip_open_clip",)
    if config.cleaning not in known:
        message = f"{path}.cleaning = {config.cleaning!r} without ftfy before it"
        nearest = _NEAREST.get(config.cleaning, "clip_whitespace")
        instead = nearest if nearest in known else next(iter(known))
        issues.record(f"{path}.cleaning", instead, "text-cleaning", message)
    if isinstance(config, Clip):
        cleaning = _NAMES.get(config.cleaning, "lower")
        settings = {} if cleaning == "lower" else {"tokenizer_kwargs": {"clean": cleaning}}
        size = tokenizer.known(trained, issues).vocab_size
        return Ids(size - 1, 0, size, settings), {}
    if canonical:
        cleaning = "canonicalize"
        inside: Cleaning = "canonical"
    elif config.cleaning in _NAMES:
        cleaning, inside = _NAMES[config.cleaning], "none"
    else:
        cleaning, inside = "whitespace", config.cleaning
    written = tokenizer.write(trained, issues, ["input_ids"], inside)
    files = {name: c if isinstance(c, bytes) else to_json(c) for name, c in written.files.items()}
    eos, pad = written.ids["eos_token_id"], written.ids["pad_token_id"]
    assert eos is not None
    assert pad is not None
    # open_clip reads the tokenizer from the folder whatever this name is.
    named: dict[str, Any] = {"hf_tokenizer_name": "local", "tokenizer_kwargs": {"clean": cleaning}}
    return Ids(eos, pad, tokenizer.known(trained, issues).vocab_size, named), files
