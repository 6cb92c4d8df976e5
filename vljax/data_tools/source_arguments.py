"""Source arguments: the sources and the tokenizer on the command lines of `vljax data`.

vljax data inspect photos.csv webdataset:shards --captions json.caption --tokenizer clip
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from typing import Any

import vljax.data.sources
import vljax.datasets  # noqa: F401  both register the names of sources
from vljax.config import UserError, member, validate
from vljax.data.records import Source
from vljax.data.tokenizers import LoadedTokenizer, Tokenizer, load_tokenizer
from vljax.files import find_files, is_remote
from vljax.overrides import override

_BY_ENDING = {
    ".tar": "webdataset",
    ".parquet": "parquet",
    ".array_record": "array_record",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}

HELP = """\
SOURCE is a path or TYPE:PATH. Without TYPE, the type follows from the ending (.tar, .parquet,
.array_record, .jsonl, .csv, .tsv), from the name dataset_*.json, or from the files in a folder.
Fields of the sources come after them: --captions json.caption txt, --label cls."""


def parse_sources(argv: list[str], prog: str, epilog: str = "") -> list[Source]:
    """The sources that arguments name.

    >>> parse_sources(["builtin:train", "builtin:test"], "vljax data index")
    [Builtin(split='train'), Builtin(split='test')]

    Args:
      argv: sources, then `--FIELD VALUE ...`, which is set in all of them.
      prog: the command, for messages.
      epilog: last lines of `--help`.

    Raises:
      UserError: if no source is named, a type is unknown, or a field is invalid.
    """
    count = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
    if not count:
        raise UserError(f"name a data set: {prog} PATH, or {prog} TYPE:PATH")
    return [_source(word, argv[count:], f"{prog} {word}", epilog) for word in argv[:count]]


def _source(word: str, fields: list[str], prog: str, epilog: str) -> Source:
    if word in Source.members:
        name, path = word, ""
    else:
        name, colon, path = word.partition(":")
        if not colon or path.startswith("//") or "/" in name:
            name, path = _type_of(word), word
    kind: Any = member(Source, name)
    has_path = "path" in {field.name for field in dataclasses.fields(kind)}
    if path and name != "builtin" and not has_path:
        raise UserError(f"{word}: {name} is not made from a path; set its fields behind {name}")
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if required:
        raise UserError(f"{word}: {name} needs {', '.join(required)}; write it into a recipe")
    if not path:
        return validate(override(kind(), fields, prog, epilog))
    source = kind(split=path) if name == "builtin" else kind(path=path)
    return validate(override(source, fields, prog, epilog))


def _type_of(path: str) -> str:
    for ending, name in _BY_ENDING.items():
        if path.endswith(ending):
            return name
    if fnmatch.fnmatchcase(path.rpartition("/")[2], "dataset_*.json"):
        return "karpathy"
    if not is_remote(path) and os.path.exists(os.path.join(path, "dataset_info.json")):
        return "tfds"
    for ending in (".tar", ".parquet", ".array_record"):
        try:
            if all(file.path.endswith(ending) for file in find_files(path, (ending,), path)):
                return _BY_ENDING[ending]
        except UserError:
            continue
    if not is_remote(path) and os.path.isdir(path):
        return "folder"
    raise UserError(f"{path}: cannot tell what kind of data set this is; write TYPE:{path}")


_TOKENIZERS = {".json": "huggingface", ".model": "sentencepiece"}


def split_fields(argv: list[str], name: str) -> tuple[list[str], list[str]]:
    """The fields of a component, without their prefix, and all other arguments.

    >>> words = ["pets.csv", "--tokenizer.context_length", "32", "--label", "kind"]
    >>> split_fields(words, "tokenizer")
    (['--context_length', '32'], ['pets.csv', '--label', 'kind'])
    """
    fields, rest = list[str](), list[str]()
    prefix, inside = f"--{name}.", False
    for word in argv:
        if word.startswith("--"):
            inside = word.startswith(prefix)
        (fields if inside else rest).append(word)
    return [f"--{w[len(prefix) :]}" if w.startswith(prefix) else w for w in fields], rest


def parse_tokenizer(word: str, fields: list[str], prog: str) -> LoadedTokenizer | None:
    """The loaded tokenizer that an argument names; None for "none".

    Args:
      word: TYPE, TYPE:PATH, a vocabulary file, or the folder of a tokenizer in a checkpoint.
      fields: `--FIELD VALUE ...` to set in it.
      prog: the command, for messages.

    Raises:
      UserError: if there is no such tokenizer, or a field is invalid.
    """
    if word == "none":
        if fields:
            raise UserError(f"--tokenizer.{fields[0][2:]}: --tokenizer is none")
        return None
    if word not in Tokenizer.members and os.path.isdir(word):
        if fields:
            raise UserError(f"--tokenizer.{fields[0][2:]}: those of {word} are in its config.json")
        return load_tokenizer(word)
    name, _, path = word.partition(":")
    ending = os.path.splitext(word)[1]
    if name not in Tokenizer.members and ending in _TOKENIZERS:
        name, path = _TOKENIZERS[ending], word
    kind: Any = member(Tokenizer, name, "--tokenizer")
    # CLIP BPE comes with its vocabulary and needs no path.
    tokenizer = kind(path=path) if path else kind()
    return tokenizer_with_fields(tokenizer, fields, f"{prog} --tokenizer {word}")


def tokenizer_with_fields(tokenizer: Tokenizer, fields: list[str], prog: str) -> LoadedTokenizer:
    """Sets `--FIELD VALUE ...` in a tokenizer and loads it. Raises UserError for an invalid one."""
    return validate(override(tokenizer, fields, prog)).load()
