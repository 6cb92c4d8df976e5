"""The data sets that published numbers were measured on, found from command line paths."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vljax.config import UserError
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import Data
from vljax.data.records import Source
from vljax.data.sources import Karpathy
from vljax.data_tools.source_arguments import parse_sources
from vljax.evaluation.suites import (
    CLASS_NAMES,
    TEMPLATES,
    ClassNames,
    imagenet_names,
    prompts,
)
from vljax.files import parse_json, read_names, read_user_file
from vljax.verify.released import TASKS


@dataclass(frozen=True)
class TaskData:
    """A data set with the task that it is for."""

    task: str
    """A key of `TASKS`."""
    source: Source
    class_names: ClassNames = ()
    """For zero-shot classification, in the order of the classes or by their names in the data."""
    templates: tuple[str, ...] = ()
    """Prompts for zero-shot classification, each with `{}` once."""

    def open(self, data: Data) -> EvaluationSet:
        """The examples, after checking that they are those of the published figures.

        Raises:
          UserError: if the number of images or classes differs, or an image has no caption.
        """
        opened = EvaluationSet(data, self.source, class_names=self.class_names)
        task, name = TASKS[self.task], self.source.full_name
        if isinstance(self.class_names, Mapping):
            for found in opened.records.class_names:
                if found not in self.class_names:
                    raise UserError(
                        f"{name}: the class {found!r} is not a WordNet id of ImageNet; name the"
                        " classes with --classes FILE"
                    )
        if len(opened) != task.examples:
            raise UserError(
                f"{name}: {len(opened):,} images; the published figures are of {task.examples:,}"
                f" ({task.title})"
            )
        if task.classes is None:
            without = [i for i in range(len(opened)) if not opened.records.annotation(i).captions]
            if without:
                raise UserError(f"{name}: {len(without):,} images have no caption")
        elif (count := len(opened.records.class_names)) != task.classes:
            raise UserError(f"{name}: {count:,} classes; {self.task} has {task.classes:,}")
        return opened


def find_data_set(
    path: str, *, images: str | None, classes: str | None, templates: str | None, prog: str
) -> TaskData:
    """The data set at a path, and the task that it is for.

    Args:
      path: for retrieval, a JSON file of Karpathy's splits, local or remote, or a folder with one.
        For ImageNet, `TYPE:PATH`, or a folder with a sub-folder for each class.
      images: the folder with the images of a split file; by default the folder of that file.
      classes: a file with a class name per line; by default `CLASS_NAMES` in the folder, or CLIP's
        names of ImageNet's classes.
      templates: a file with a prompt per line, `{}` or `{c}` for the class name; by default
        `TEMPLATES` in the folder, or CLIP's prompts for ImageNet.
      prog: the command name, for messages.

    Raises:
      UserError: if the path is not such a data set, or a file is missing or malformed.
    """
    split_file = _split_file(Path(os.path.expanduser(path)))
    (source,) = parse_sources([path if split_file is None else f"karpathy:{split_file}"], prog)
    if isinstance(source, Karpathy):
        return _retrieval(source, images)
    folder = Path(os.path.expanduser(path.partition(":")[2] or path))
    names: ClassNames = imagenet_names()
    if classes or (folder / CLASS_NAMES).exists():
        names = _lines(classes, folder / CLASS_NAMES, "--classes")
        wanted = TASKS["imagenet"].classes
        if len(names) != wanted:
            where = classes or folder / CLASS_NAMES
            raise UserError(f"{where}: {len(names):,} class names; ImageNet has {wanted:,}")
    if not (templates or (folder / TEMPLATES).exists()):
        return TaskData("imagenet", source, names, prompts("imagenet"))
    file = templates or str(folder / TEMPLATES)
    lines = _lines(templates, folder / TEMPLATES, "--templates")
    return TaskData("imagenet", source, names, tuple(_prompt(line, file) for line in lines))


def _split_file(path: Path) -> Path | None:
    if path.is_file() and path.suffix == ".json":
        return path
    found = sorted(path.glob("dataset_*.json")) if path.is_dir() else []
    if len(found) > 1:
        raise UserError(f"{path}: several split files; name one: {found[0]}")
    return found[0] if found else None


def _retrieval(source: Karpathy, images: str | None) -> TaskData:
    file = source.path
    if file is None:
        raise UserError("--data karpathy: write karpathy:FILE, the path of a dataset_*.json")
    match = re.search(r"(?:^|/)dataset_(\w+)\.json$", file)
    try:
        stated = parse_json(read_user_file(file)).get("dataset")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a split file of Karpathy ({error})") from error
    task = str(stated or (match and match[1]))
    known = [name for name, about in TASKS.items() if about.classes is None]
    if task not in known:
        raise UserError(f"{file}: dataset {task!r}; figures were published for {', '.join(known)}")
    return TaskData(task, dataclasses.replace(source, images=images))


def _lines(path: str | None, default: Path, flag: str) -> tuple[str, ...]:
    file = Path(os.path.expanduser(path)) if path else default
    if not file.exists():
        raise UserError(f"{file}: no such file; add {flag} FILE")
    return read_names(str(file))


def _prompt(line: str, file: str) -> str:
    made = line.replace("{c}", "{}")
    if made.count("{}") != 1:
        raise UserError(f"{file}: {line!r} must hold {{}} or {{c}} once, for the class name")
    return made
