"""Tokenizer files of transformers, read as our tokenizers and written from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vljax.config import UserError
from vljax.data.tokenizers import Clip, HuggingFace, LoadedTokenizer, SentencePiece
from vljax.data.tokenizers.cleaning import Cleaning
from vljax.data.tokenizers.sentencepiece import processor_of
from vljax.files import encodable, refuse_lfs_pointer
from vljax.interop.export_plan import ExportIssues, ExportRefused, TrainedModel
from vljax.interop.foreign_config import ForeignConfig, read_json
from vljax.interop.historical import SPECIAL_TOKENS, TOKENIZER_CLASSES
from vljax.interop.transformers import tokenizer_json
from vljax.interop.transformers.tokenizer_json import Special

_SPECIAL_FIELDS = ("pad_token", "eos_token", "sep_token", "bos_token", "cls_token")
# Field of a BertTokenizer -> field of the BertNormalizer that it makes, and the default.
_BERT_NORMALIZER: dict[str, tuple[str, Any]] = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
_CLIP_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
        {"type": "Lowercase"},
    ],
}


@dataclass(frozen=True)
class ReadTokenizer:
    """One of our tokenizers, made from files of transformers."""

    loaded: LoadedTokenizer
    eos_id: int
    vocab_size: int


@dataclass(frozen=True)
class WrittenTokenizer:
    """The tokenizer part of a folder of transformers."""

    ids: dict[str, int | None]
    """`pad_token_id`, `bos_token_id`, `eos_token_id`."""
    files: dict[str, Any] = field(default_factory=dict)
    """File contents by name: bytes, or data to write as JSON."""


def read(folder: Path, context: int, model: ForeignConfig | None = None) -> ReadTokenizer:
    """The tokenizer of a folder.

    Args:
      folder: a folder with `tokenizer.json`, or with the `spiece.model` of a SiglipTokenizer.
      context: the context length in tokens.
      model: the `config.json`, which tells the tokenizer's class where no other file names it.

    Raises:
      UserError: if vljax has no tokenizer that gives the same ids.
    """
    file = folder / "tokenizer_config.json"
    implied = None if model is None else TOKENIZER_CLASSES.get(str(model.raw("model_type")))
    # A class tells the special tokens; without one, the file has to.
    content = {} if implied is not None and not file.exists() else read_json(file)
    config = ForeignConfig(content, str(file))
    stated = config.raw("tokenizer_class") or (model and model.raw("tokenizer_class"))
    kind = str(stated or implied or "").removesuffix("Fast")
    if config.get("padding_side", "right") != "right":
        config.fail("padding_side", "is not 'right'")
    if config.get("truncation_side", "right") != "right":
        config.fail("truncation_side", "is not 'right'")
    if kind == "SiglipTokenizer" and (stated or (folder / "spiece.model").exists()):
        return _read_siglip(folder, config, context)
    return _read_json(folder, config, kind, context)


def special_tokens(folder: Path, config: ForeignConfig, kind: str) -> dict[str, str | None]:
    """The names of special tokens by field, such as `pad_token`, as transformers finds them.

    They stand in `tokenizer_config.json`, or, in older folders, in `special_tokens_map.json`, or
    are those of the tokenizer's class. The map wins where the first file does not list all added
    tokens, which marks it as an older one.

    Args:
      folder: the folder.
      config: its `tokenizer_config.json`.
      kind: the class of the tokenizer, without "Fast".
    """
    file = folder / "special_tokens_map.json"
    older = ForeignConfig(read_json(file) if file.exists() else {}, str(file))
    sources = [config, older] if "added_tokens_decoder" in config else [older, config]
    names: dict[str, str | None] = {}
    for name in _SPECIAL_FIELDS:
        stated = (token_name(source, name) for source in sources)
        names[name] = next(filter(None, stated), SPECIAL_TOKENS.get(kind, {}).get(name))
    return names


def read_json_tokenizer(
    folder: Path, content: bytes, config: ForeignConfig, kind: str, context: int
) -> ReadTokenizer:
    """The tokenizer of a `tokenizer.json`, with the special tokens that its template adds.

    BERT names the first and the last token cls and sep.

    Raises:
      UserError: if the template adds other tokens than one at the end and at most one in front.
    """
    file = folder / "tokenizer.json"
    aliases = {"pad": "pad_token", "eos": "sep_token", "bos": "cls_token"}
    special = special_tokens(folder, config, kind)
    names = {role: special[f"{role}_token"] or special[alias] for role, alias in aliases.items()}
    for role in ("pad", "eos"):
        if names[role] is None:
            config.fail(f"{role}_token", "is missing, also in special_tokens_map.json")
    around = tokenizer_json.added_around(content, str(file))
    if around.after != (names["eos"],) or around.before not in ((), (names["bos"],)):
        raise UserError(
            f"{file}: adds {list(around.before)} before and {list(around.after)} after a"
            f" text; vljax adds the end token ({names['eos']!r}) after it, and at most"
            f" {names['bos']!r} before it"
        )
    component = HuggingFace(
        path=str(file),
        context_length=context,
        pad_token=str(names["pad"]),
        eos_token=str(names["eos"]),
        bos_token=names["bos"] if around.before else None,
        cleaning="none",
    )
    loaded = component.load_vocabulary(content)
    eos = tokenizer_json.token_id(content, str(names["eos"]))
    return ReadTokenizer(loaded, eos, loaded.vocab_size)


def _read_json(folder: Path, config: ForeignConfig, kind: str, context: int) -> ReadTokenizer:
    file = folder / "tokenizer.json"
    if not file.exists():
        again = "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) makes one"
        raise UserError(f"{file}: no such file; in transformers, {again}")
    content = read_json(file)
    if (
        kind == "CLIPTokenizer"
        and ForeignConfig(content, str(file)).raw("normalizer") != _CLIP_NORMALIZER
    ):
        raise UserError(
            f"{file}: its normalizer differs from the one that a CLIPTokenizer always applies"
        )
    if kind in ("BertTokenizer", "LxmertTokenizer"):
        _check_bert(content, config)
    return read_json_tokenizer(folder, file.read_bytes(), config, kind, context)


def _check_bert(content: Any, config: ForeignConfig) -> None:
    """Raises UserError if the fields of a BertTokenizer override those of its tokenizer.json."""
    normalizer = content.get("normalizer") if isinstance(content, dict) else None
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return
    for ours, (name, default) in _BERT_NORMALIZER.items():
        wanted, found = config.raw(ours, default), normalizer.get(name)
        if found != wanted:
            config.fail(
                ours,
                f"is {wanted}, but {name} of the normalizer in tokenizer.json is {found}; a"
                " BertTokenizer uses the first: make them equal",
            )


def token_name(config: ForeignConfig, name: str) -> str | None:
    """The name of a special token, or None."""
    token = config.raw(name)
    content = token.get("content") if isinstance(token, dict) else token
    if content is not None and (not isinstance(content, str) or content != encodable(content)):
        config.fail(name, f"{token!r} is not a token")
    return content


def _read_siglip(folder: Path, config: ForeignConfig, context: int) -> ReadTokenizer:
    config.must("do_lower_case", True, True)
    file = folder / "spiece.model"
    pieces = _pieces(file)
    special = special_tokens(folder, config, "SiglipTokenizer")
    eos, pad_token = special["eos_token"], str(special["pad_token"])
    pad = pieces.piece_to_id(pad_token)
    if pieces.id_to_piece(pad) != pad_token:
        config.fail("pad_token", f"is {pad_token!r}, which is not in {file.name}")
    if pieces.piece_to_id(eos) != pieces.eos_id():
        config.fail("eos_token", f"is {eos!r}, which does not end texts in {file.name}")
    loaded = SentencePiece(
        str(file), context_length=context, pad_id=pad, cleaning="canonical"
    ).load()
    return ReadTokenizer(loaded, pieces.eos_id(), loaded.vocab_size)


def _pieces(file: Path) -> Any:
    if not file.exists():
        raise UserError(f"{file}: no such file")
    return processor_of(file.read_bytes(), str(file))


def vocabulary(loaded: LoadedTokenizer) -> bytes:
    """The content of a tokenizer's vocabulary file."""
    return loaded.files()[str(loaded.vocabulary_file)]


def write(
    trained: TrainedModel,
    issues: ExportIssues,
    inputs: Sequence[str],
    cleaning: Cleaning | None = None,
    *,
    bert_names: bool = False,
) -> WrittenTokenizer:
    """The tokenizer of a checkpoint as files of transformers.

    Args:
      trained: the checkpoint.
      issues: collects export issues.
      inputs: the model's inputs: "input_ids" and, if it reads a mask, "attention_mask".
      cleaning: the text cleaning to write into the files; by default the checkpoint's.
      bert_names: whether to name the first and last token cls and sep as well.

    Raises:
      UserError: if texts would get other ids there.
    """
    config, path = trained.tokenizer_config, trained.tokenizer_path
    check_framing(trained, issues)
    if not isinstance(config, Clip | HuggingFace | SentencePiece):
        issues.refuse(path, config.type_name, "huggingface, clip and sentencepiece")
        issues.stop()
    cleaning = config.cleaning if cleaning is None else cleaning
    repairs = cleaning in tokenizer_json.FTFY
    if isinstance(config, SentencePiece):
        if cleaning != "canonical":
            message = (
                f"{path}.cleaning = {cleaning!r}, while its SiglipTokenizer lower-cases and drops"
                " punctuation (canonical)"
            )
            issues.record(f"{path}.cleaning", "canonical", "text-cleaning", message)
    elif repairs:
        message = f"{path}.cleaning = {cleaning!r}, which repairs characters and HTML (ftfy)"
        plain = tokenizer_json.FTFY[cleaning]
        issues.record(f"{path}.cleaning", plain, "text-cleaning", message)
    common = {
        "model_max_length": config.context_length,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": list(inputs),
    }
    if isinstance(config, SentencePiece):
        return _write_siglip(framed(trained, issues), common)
    if isinstance(config, Clip):
        end = "<|endoftext|>"
        special = Special(end, end, "<|startoftext|>")
        content = _clip_vocabulary(trained, issues)
    else:
        assert isinstance(config, HuggingFace)
        special = Special(config.pad_token, str(config.eos_token), config.bos_token)
        content = vocabulary(framed(trained, issues))
    content = tokenizer_json.complete(content, special, config.context_length, cleaning)
    # CLIP pads with id 0 ("!") here; after the end token it has no effect, so it is not compared.
    cleaned, padding = cleaning != config.cleaning or repairs, not isinstance(config, Clip)
    loaded = framed(trained, issues)
    tokenizer_json.compare(content, loaded, issues.target, cleaned=cleaned, padding=padding)
    ids = {
        f"{role}_token_id": None if token is None else tokenizer_json.token_id(content, token)
        for role, token in special._asdict().items()
    }
    names = {f"{role}_token": token for role, token in special._asdict().items() if token}
    if bert_names:
        aliases = {"cls_token": special.bos, "sep_token": special.eos}
        names |= {name: token for name, token in aliases.items() if token}
    files = {
        "tokenizer.json": content,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **names, **common},
        "special_tokens_map.json": names,
    }
    return WrittenTokenizer(ids, files)


def check_framing(trained: TrainedModel, issues: ExportIssues) -> None:
    """Refuses texts that get no end token, lose it when cut, or are padded left.

    It does not stop there: `framed` is the tokenizer without these issues, to compare ids with.
    """
    config, path = trained.tokenizer_config, trained.tokenizer_path
    if not config.adds_eos and isinstance(config, SentencePiece):
        issues.refuse(f"{path}.add_eos", False, "a token that ends each text", True)
    elif not config.adds_eos:
        end = getattr(config, "eos_token", None)
        issues.refuse(f"{path}.eos_token", end, "a token that ends each text; name it")
    if config.truncation != "keep_eos":
        issues.refuse(f"{path}.truncation", config.truncation, "keep_eos", "keep_eos")
    if config.padding_side != "right":
        issues.refuse(f"{path}.padding_side", config.padding_side, "right", "right")
    if isinstance(config, SentencePiece) and config.add_bos:
        issues.refuse(f"{path}.add_bos", config.add_bos, "False", False)


def framed(trained: TrainedModel, issues: ExportIssues) -> LoadedTokenizer:
    """The tokenizer as formats have it: padded right, and with end tokens that texts keep.

    Raises:
      ExportRefused: if its path is unset, or it adds no end token.
    """
    if not trained.tokenizer_config.adds_eos:
        issues.stop()
    loaded = known(trained, issues)
    config = dataclasses.replace(loaded.config, truncation="keep_eos", padding_side="right")
    if config == loaded.config:
        return loaded
    content = b"" if loaded.vocabulary_file is None else vocabulary(loaded)
    return config.load_vocabulary(content)


def known(trained: TrainedModel, issues: ExportIssues) -> LoadedTokenizer:
    """The tokenizer.

    Raises:
      ExportRefused: if a recipe leaves its path unset, so that its ids cannot be compared.
    """
    if trained.tokenizer is not None:
        return trained.tokenizer
    path = f"{trained.tokenizer_path}.path"
    message = f"{path}: unset, so whether texts get the same ids in {issues.target} is not checked"
    issues.add(path, message, at_export=True)
    raise ExportRefused([issues.found[-1]])


def _clip_vocabulary(trained: TrainedModel, issues: ExportIssues) -> bytes:
    if trained.vocabulary is None:
        issues.add(
            trained.tokenizer_path,
            f"{trained.tokenizer_path}: CLIP's vocabulary is built in and cannot be written as a"
            f" file, which {issues.target} needs; add --tokenizer FILE with the tokenizer.json of"
            " any CLIP in transformers",
            flag="--tokenizer FILE",
            at_export=True,
        )
        raise ExportRefused([issues.found[-1]])
    try:
        refuse_lfs_pointer(trained.vocabulary)
        return trained.vocabulary.read_bytes()
    except OSError as error:
        raise UserError(f"--tokenizer {trained.vocabulary}: {error.strerror}") from None


def _write_siglip(loaded: LoadedTokenizer, common: dict[str, Any]) -> WrittenTokenizer:
    from sentencepiece import SentencePieceProcessor

    model = vocabulary(loaded)
    pieces = SentencePieceProcessor(model_proto=model)
    names = {
        "pad_token": pieces.id_to_piece(loaded.special.pad),
        "eos_token": pieces.id_to_piece(pieces.eos_id()),
        "unk_token": pieces.id_to_piece(pieces.unk_id()),
    }
    settings = {"tokenizer_class": "SiglipTokenizer", **names, "do_lower_case": True}
    ids = {
        "pad_token_id": loaded.special.pad,
        "bos_token_id": pieces.bos_id() if pieces.bos_id() >= 0 else None,
        "eos_token_id": pieces.eos_id(),
    }
    return WrittenTokenizer(
        ids,
        {
            "spiece.model": model,
            "tokenizer_config.json": {**settings, **common},
            "special_tokens_map.json": names,
        },
    )
