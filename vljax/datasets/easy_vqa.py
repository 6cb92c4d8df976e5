"""`vljax data build easy-vqa`: from the package easy-vqa 1.0 to JSON lines beside image files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vljax.config import UserError
from vljax.files import decode_text, not_utf8, parse_json

INSTALL = "pip install easy-vqa==1.0"
SPLITS = ("train", "test")

_PNG = b"\x89PNG\r\n\x1a\n"
_KINDS = (
    ("colour", r"what (is the )?color\b"),
    ("shape", r"what (shape\b|is the \w+ shape\b)"),
    ("absence", r"(is|does)\b.*\b(no|not)\b"),
    ("presence", r"(is|does)\b"),
)

Progress = Callable[[str, int, int], None]
Location = Path | zipfile.Path
"""A folder on disk, or one in a wheel."""


def kind_of(question: str) -> str | None:
    """The kind of a question, from its words; None if it is none of those of easy-vqa.

    `colour` and `shape` are open questions. `presence` and `absence` are answered by yes or no;
    questions of absence contain "no" or "not".

    >>> kind_of("what is the blue shape?"), kind_of("is no blue shape present?")
    ('shape', 'absence')
    """
    return next((kind for kind, pattern in _KINDS if re.match(pattern, question)), None)


def build(out: Path, *, package: Path | None, progress: Progress) -> Mapping[str, int | str]:
    """Builds the data set: `train.jsonl`, `test.jsonl`, `images/`, `answers.txt`, `README.md`.

    A line is an image with all its questions, which `JsonLines(..., question="questions")` reads.
    The same package gives the same bytes.

    Args:
      out: the folder to write; made if missing.
      package: the wheel, or a folder with the unpacked package; None for the installed package.
      progress: called with the stage, the amount done and the total.

    Returns:
      The name, the folder, and the numbers of images and questions of each split.

    Raises:
      UserError: if the package is missing, or a file of it is damaged or has another form than in
        easy-vqa 1.0; it names the file.
    """
    if (out / "README.md").exists() and not (out / "test.jsonl").exists():
        raise UserError(f"--out {out}: has a README.md of its own; name another folder")
    data = _find(package)
    answers = _answers(data / "answers.txt")
    result: dict[str, int | str] = {"name": "easy-vqa", "folder": str(out)}
    card: dict[str, Counter[str]] = {}
    for split in SPLITS:
        questions, kinds = _questions(data / split / "questions.json", answers)
        images = out / "images" / split
        images.mkdir(parents=True, exist_ok=True)
        lines = []
        for done, (number, asked) in enumerate(questions.items(), 1):
            content = _content(data / split / "images" / f"{number}.png")
            if not content.startswith(_PNG):
                raise UserError(f"{data}/{split}/images/{number}.png: not a PNG file")
            (images / f"{number}.png").write_bytes(content)
            line = {"image": f"images/{split}/{number}.png", "questions": asked}
            lines.append(json.dumps(line) + "\n")
            progress(split, done, len(questions))
        result |= {f"{split}_images": len(questions), f"{split}_questions": kinds.total()}
        card[split] = kinds
        # Written last and renamed, so that an interrupted build is not mistaken for a complete one.
        part = out / f"{split}.jsonl.part"
        part.write_text("".join(lines), encoding="utf-8", newline="\n")
        part.replace(out / f"{split}.jsonl")
    (out / "answers.txt").write_text("".join(f"{answer}\n" for answer in answers))
    (out / "README.md").write_text(_card(result, card, answers), encoding="utf-8")
    return result


def _find(package: Path | None) -> Location:
    """The folder `data` of the package."""
    if package is None:
        found = importlib.util.find_spec("easy_vqa")
        if found is None or not found.submodule_search_locations:
            raise UserError(
                f"easy-vqa: the package is not installed; run `{INSTALL}`, or name its wheel or"
                " folder with --package"
            )
        roots: list[Location] = [Path(found.submodule_search_locations[0])]
    elif not package.exists():
        raise UserError(f"--package {package}: no such file or folder")
    elif package.is_file():
        try:
            roots = [zipfile.Path(package)]
        except zipfile.BadZipFile as error:
            raise UserError(f"--package {package}: not a wheel ({error})") from error
    else:
        roots = [package]
    for root in roots:
        for inside in ("easy_vqa/data", "data", "."):
            folder = root if inside == "." else root / inside
            if (folder / "train" / "questions.json").is_file():
                return folder
    what = "easy-vqa" if package is None else f"--package {package}"
    raise UserError(f"{what}: has no data/train/questions.json; name the wheel of easy-vqa 1.0")


def _content(file: Location) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error


def _answers(file: Location) -> list[str]:
    """The answers, one a line."""
    try:
        lines = decode_text(_content(file)).splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: {not_utf8(error)}") from error
    return [line.strip() for line in lines if line.strip()]


def _questions(
    file: Location, answers: list[str]
) -> tuple[dict[int, list[dict[str, str]]], Counter[str]]:
    """The questions by image, in the order of the images, and how many there are of each kind."""
    try:
        rows: Any = parse_json(_content(file))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    found: dict[int, list[dict[str, str]]] = {}
    kinds: Counter[str] = Counter()
    for where, (text, answer, image) in _rows(rows, file):
        if answer not in answers:
            raise UserError(f"{where}: the answer {answer!r} is not in answers.txt")
        if (kind := kind_of(text)) is None:
            raise UserError(f"{where}: {text!r} is not a question of easy-vqa 1.0")
        kinds[kind] += 1
        found.setdefault(image, []).append({"question": text, "answer": answer, "kind": kind})
    return dict(sorted(found.items())), kinds


def _rows(rows: Any, file: Location) -> Iterator[tuple[str, tuple[str, str, int]]]:
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{file}: must be a list of questions")
    for i, row in enumerate(rows):
        types = [type(value) for value in row] if isinstance(row, list) else []
        if types != [str, str, int]:
            raise UserError(f"{file}: {i}: must be [question, answer, image number], got {row!r}")
        yield f"{file}: {i}", (row[0], row[1], row[2])


_CARD = """\
# easy-VQA

Written by `vljax data build easy-vqa` from the Python package easy-vqa 1.0 by Victor Zhou (MIT
licence): generated images of 64 x 64 pixels with one shape, and questions with one of {size}
answers (`answers.txt`).

- `train.jsonl`, `test.jsonl`: a line for each image, with `image` (a path) and `questions`, a list
  of `question`, `answer` and `kind`. The kind is from the words of the question.
- SHA-256 of `answers.txt`: `{digest}`.

| split | images | questions | {kinds} |
|---|{dashes}
{rows}
"""


def _card(
    result: Mapping[str, int | str], card: Mapping[str, Counter[str]], answers: list[str]
) -> str:
    kinds = [kind for kind, _ in _KINDS]
    rows = [
        [split, result[f"{split}_images"], result[f"{split}_questions"], *(n[k] for k in kinds)]
        for split, n in card.items()
    ]
    return _CARD.format(
        size=len(answers),
        digest=hashlib.sha256("".join(f"{a}\n" for a in answers).encode()).hexdigest(),
        kinds=" | ".join(kinds),
        dashes="---|" * (2 + len(kinds)),
        rows="\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows),
    )
