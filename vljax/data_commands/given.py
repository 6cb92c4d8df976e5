"""The sources that a command line names."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import Any

from vljax.config import UserError, member, validate
from vljax.data.sources import Source
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
SOURCE is a path or TYPE:PATH. Without TYPE it is told by the ending: .tar, .parquet, .array_record,
.jsonl, .csv, .tsv, or by the name dataset_*.json; of a folder, by what lies in it. Fields of the
sources follow: --captions json.caption txt, --label cls."""


def given_sources(argv: list[str], prog: str, epilog: str = "") -> list[Source]:
    """The sources that arguments name, with the fields set behind them.

    Args:
      argv: sources, then `--FIELD VALUE ...` for all of them.
      prog: the command that messages show.
      epilog: what `--help` says at its end.

    Raises:
      UserError: if there is none, a type is unknown, or a field does not fit.
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
    if not path:
        return validate(override(kind(), fields, prog, epilog))
    source = kind(split=path) if name == "builtin" else kind(path=path)
    return validate(override(source, fields, prog, epilog))


def _type_of(path: str) -> str:
    import os

    from vljax.data.file_sets import expand
    from vljax.data.files import is_remote

    for ending, name in _BY_ENDING.items():
        if path.endswith(ending):
            return name
    if fnmatch.fnmatchcase(path.rpartition("/")[2], "dataset_*.json"):
        return "karpathy"
    if not is_remote(path) and os.path.exists(os.path.join(path, "dataset_info.json")):
        return "tfds"
    for ending in (".tar", ".parquet", ".array_record"):
        try:
            if all(file.path.endswith(ending) for file in expand(path, (ending,), path)):
                return _BY_ENDING[ending]
        except UserError:
            continue
    if not is_remote(path) and os.path.isdir(path):
        return "folder"
    raise UserError(f"{path}: cannot tell what kind of data set this is; write TYPE:{path}")
