"""The tokenizer of SigLIP 2 in transformers: Gemma's byte pairs, lower-cased.

`Siglip2Tokenizer` takes only vocabulary, merges and special tokens from a `tokenizer.json`. It has
its own normalizer and pre-tokenizer, whatever the file states, and AutoTokenizer uses it for every
`siglip2`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vljax.config import UserError
from vljax.data.tokenizers import HuggingFace, LoadedTokenizer
from vljax.files import parse_json, refuse_lfs_pointer
from vljax.interop.export_plan import ExportIssues, TrainedModel
from vljax.interop.foreign_config import ForeignConfig, read_json
from vljax.interop.transformers import tokenizer as texts
from vljax.interop.transformers import tokenizer_json
from vljax.interop.transformers.tokenizer import ReadTokenizer, WrittenTokenizer
from vljax.interop.transformers.tokenizer_json import Special

_BEFORE: dict[str, Any] = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    },
    "pre_tokenizer": {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    },
}
_CLASS = "GemmaTokenizer"
"""Siglip2Tokenizer has its special tokens."""
_MODEL = {"fuse_unk": True, "byte_fallback": True, "dropout": None}


def as_loaded(content: bytes, file: str) -> bytes:
    """A `tokenizer.json` as Siglip2Tokenizer interprets it.

    Raises:
      UserError: if it is not a tokenizer.json, or its model is not a byte-pair encoding.
    """
    try:
        data = parse_json(content)
        kind = data["model"]["type"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a tokenizer.json ({error!r})") from error
    if kind != "BPE":
        raise UserError(f"{file}: transformers siglip2 has only BPE, but this is {kind}")
    data["model"] |= _MODEL
    return json.dumps({**data, **_BEFORE}, ensure_ascii=False).encode()


def read(folder: Path, context: int) -> tuple[ReadTokenizer, bool]:
    """The tokenizer of a folder, and whether the model gets a padding mask.

    Raises:
      UserError: if vljax has no tokenizer that gives the same ids.
    """
    file, config_file = folder / "tokenizer.json", folder / "tokenizer_config.json"
    config = ForeignConfig(read_json(config_file), str(config_file))
    for side, default in (("padding_side", "left"), ("truncation_side", "right")):
        if config.get(side, default) != "right":
            config.fail(side, "is not 'right'")
    if not file.exists():
        raise UserError(f"{file}: no such file")
    refuse_lfs_pointer(file)
    content = as_loaded(file.read_bytes(), str(file))
    if "add_eos_token" in config or "add_bos_token" in config:
        # These fields override the template of the file.
        config.must("add_eos_token", True, False)
        config.must("add_bos_token", False, False)
        content = _ended(content, texts.special_tokens(folder, config, _CLASS)["eos_token"])
    inputs = config.get("model_input_names", []) or ["input_ids", "attention_mask"]
    found = texts.read_json_tokenizer(folder, content, config, _CLASS, context)
    return found, "attention_mask" in inputs


def _ended(content: bytes, eos: str | None) -> bytes:
    """The content with a template that adds the end token after a text."""
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_buffer(content)
    assert eos is not None
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", special_tokens=[(eos, tokenizer_json.token_id(content, eos))]
    )
    return str(tokenizer.to_str()).encode()


def write(trained: TrainedModel, issues: ExportIssues) -> WrittenTokenizer:
    """The tokenizer of a checkpoint as files of transformers.

    Args:
      trained: the checkpoint.
      issues: collects export issues.

    Raises:
      UserError: if texts would get other ids there.
    """
    config, path = trained.tokenizer_config, trained.tokenizer_path
    texts.check_framing(trained, issues)
    if not isinstance(config, HuggingFace) or config.bos_token is not None:
        name = config.type_name if not isinstance(config, HuggingFace) else config.bos_token
        issues.refuse(path, name, "a tokenizer.json of Gemma's kind, without bos")
        issues.stop()
    loaded = texts.framed(trained, issues)
    assert isinstance(config, HuggingFace)
    special = Special(config.pad_token, str(config.eos_token), None)
    vocabulary = as_loaded(texts.vocabulary(loaded), path)
    length = config.context_length
    content = as_loaded(tokenizer_json.complete(vocabulary, special, length, "none"), path)
    _compare(content, loaded, path, issues)
    ids = {
        "pad_token_id": tokenizer_json.token_id(content, special.pad),
        "bos_token_id": None,
        "eos_token_id": tokenizer_json.token_id(content, special.eos),
    }
    names = {"pad_token": special.pad, "eos_token": special.eos}
    settings = {
        "tokenizer_class": "Siglip2Tokenizer",
        **names,
        "model_max_length": length,
        "padding_side": "right",
        "truncation_side": "right",
    }
    return WrittenTokenizer(ids, {"tokenizer.json": content, "tokenizer_config.json": settings})


def _compare(content: bytes, ours: LoadedTokenizer, path: str, issues: ExportIssues) -> None:
    """Raises UserError for another kind of tokenizer; different cleaning is an export issue."""
    target = f"{issues.target}, which has Gemma's and lower-cases,"
    try:
        tokenizer_json.compare(content, ours, target, cleaned=False, padding=True)
    except UserError:
        tokenizer_json.compare(content, ours, target, cleaned=True, padding=True)
        cleaning = ours.config.cleaning
        message = f"{path}.cleaning = {cleaning!r}; it lower-cases"
        issues.record(f"{path}.cleaning", None, "text-cleaning", message)
