"""Data sets in the files that they are published in.

Winoground, SugarCrepe, XM3600, VQA v2, GQA, CLEVR, NLVR2, and RefCOCO as MDETR publishes it.

Each source takes the published annotation files as they are, and reads images by name from a folder
when they are asked for. A malformed entry is an error that names it, since published figures are of
all entries.
"""

from __future__ import annotations

import abc
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int64

from vljax.config import UserError, setting, suggest
from vljax.data.records import (
    Annotation,
    Phrase,
    Progress,
    Question,
    Records,
    Region,
    Source,
)
from vljax.data.sources.base import image_file, numbers_of
from vljax.files import (
    base_name,
    encodable,
    expand_user,
    is_remote,
    join,
    list_folder,
    parent,
    parse_json,
    read_user_file,
)


@dataclass(frozen=True)
class PublishedSource(Source, abc.ABC):
    """A source of published annotation files with a folder of images."""

    path: str | None = setting(None, path=True)
    """The annotation file, or the folder that it is in."""
    images: str | None = setting(None, path=True)
    """Folder with the images; by default the usual one beside the annotation file."""

    what: ClassVar[str]
    """The files to name in `path`, for messages."""

    def open(self) -> PublishedRecords:
        return self._open()

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> PublishedRecords:
        return self._open(all_columns=True)

    @abc.abstractmethod
    def _open(self, *, all_columns: bool = False) -> PublishedRecords: ...

    @property
    def full_name(self) -> str:
        name = base_name((self.path or "").rstrip("/"))
        return f"{self.type_name}:{name}" if name else self.type_name

    def _file(self, *names: str) -> str:
        """The annotation file: `path`, or the first of `names` in that folder."""
        if self.path is None:
            raise UserError(f"data.source.path: unset; set --data.source.path to {self.what}")
        folder = expand_user(self.path)
        if not self._is_folder():
            return folder
        for name in names:
            file = join(folder, name)
            if base_name(file) in list_folder(parent(file)):
                return file
        raise UserError(f"data.source.path: {self.path} has no {names[0]}; name {self.what}")

    def _is_folder(self) -> bool:
        path = expand_user(self.path or "")
        return not os.path.splitext(path)[1] if is_remote(path) else os.path.isdir(path)

    def _image_folder(self, file: str, *names: str) -> str:
        """The folder with the images: `images`, or the first of `names` beside the file."""
        if self.images is not None:
            return self.images
        beside = parent(file)
        return next((join(beside, n) for n in names if list_folder(join(beside, n))), beside)


class PublishedRecords(Records):
    """Examples that are held in memory; an image is read when it is asked for.

    Args:
      names: image file of each example, relative to the folder.
      annotations: of each example.
      folder: where the images are.
      identity: what the examples depend on.
      class_names: names of the labels.
      others: other entries of each example, for conversion.
      more_names: further image files of each example; equally many of each.
    """

    def __init__(
        self,
        names: Sequence[str],
        annotations: Sequence[Annotation],
        folder: str,
        identity: str,
        class_names: tuple[str, ...] = (),
        others: Sequence[dict[str, Any]] = (),
        more_names: Sequence[tuple[str, ...]] = (),
    ):
        self._names, self._annotations, self._folder = names, annotations, folder
        self._others, self._more_names = others, more_names
        self.image_count = 1 + len(more_names[0]) if more_names else 1
        self.identity = hashlib.sha256(identity.encode()).hexdigest()
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self._names)

    def annotation(self, index: int) -> Annotation:
        return self._annotations[index]

    def image(self, index: int) -> bytes:
        return image_file(self._names[index], self._folder)

    def more_images(self, index: int) -> tuple[bytes, ...]:
        names = self._more_names[index] if self._more_names else ()
        return tuple(image_file(name, self._folder) for name in names)

    def other_columns(self, index: int) -> dict[str, Any]:
        """All entries but captions, questions and boxes, the name of the image, further images."""
        if not self._others:
            return {}
        more = {f"image_{i}": image for i, image in enumerate(self.more_images(index), 2)}
        return {"file_name": self._names[index], **self._others[index], **more}

    def image_numbers(self) -> Int64[np.ndarray, " examples"]:
        return numbers_of(self._names)


# --- Winoground -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Winoground(PublishedSource, name="winoground"):
    """Winoground (Thrush et al. 2022): 400 pairs of images, whose captions have the same words.

    Two rows for each line of `examples.jsonl`: an image with its own caption, then the other image
    with its own. Images are `images/NAME.png` beside the file, from `images.zip`.

    >>> import json
    >>> line = {"image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "a dog on a cat"}
    >>> with open("examples.jsonl", "w") as file:
    ...     _ = file.write(json.dumps(line | {"caption_1": "a cat on a dog"}))
    >>> [record.captions for record in map(Winoground("examples.jsonl").open().annotation, (0, 1))]
    [('a dog on a cat',), ('a cat on a dog',)]
    """

    what: ClassVar[str] = "Winoground's examples.jsonl"

    def _open(self, *, all_columns: bool = False) -> PublishedRecords:
        file = self._file("examples.jsonl", "data/examples.jsonl")
        names, annotations, others = [], [], list[dict[str, Any]]()
        content = read_user_file(file)
        for where, line in _json_lines(content, file):
            for i in (0, 1):
                if all_columns:
                    others.append(_without(line, "image_0", "image_1", "caption_0", "caption_1"))
                name = _text(line, f"image_{i}", where)
                names.append(name if os.path.splitext(name)[1] else f"{name}.png")
                annotations.append(Annotation((_text(line, f"caption_{i}", where),)))
        return PublishedRecords(
            names,
            annotations,
            self._image_folder(file, "images"),
            _digest(content),
            others=others,
        )


# --- SugarCrepe -----------------------------------------------------------------------------------

SUGAR_CREPE = (
    "add_att",
    "add_obj",
    "replace_att",
    "replace_obj",
    "replace_rel",
    "swap_att",
    "swap_obj",
)
"""The categories of SugarCrepe, a file each."""


@dataclass(frozen=True)
class SugarCrepe(PublishedSource, name="sugar_crepe"):
    """SugarCrepe (Hsieh et al. 2023): images of COCO's val2017, each with a right and a wrong
    caption.

    `captions` are the right one and the wrong one; the class is the category. Files are
    `CATEGORY.json`, images `val2017/NAME` beside them.

    >>> import json
    >>> row = {"filename": "1.jpg", "caption": "a lamp", "negative_caption": "a red lamp"}
    >>> with open("add_att.json", "w") as file:
    ...     json.dump({"0": row}, file)
    >>> records = SugarCrepe(".", categories=("add_att",)).open()
    >>> records.annotation(0).captions, records.class_names
    (('a lamp', 'a red lamp'), ('add_att',))
    """

    categories: tuple[str, ...] = SUGAR_CREPE
    """The categories to read, in this order."""
    what: ClassVar[str] = "the folder with SugarCrepe's add_att.json, ..., swap_obj.json"

    def _open(self, *, all_columns: bool = False) -> PublishedRecords:
        names, annotations, file = [], [], ""
        others = list[dict[str, Any]]()
        digest = hashlib.sha256()
        for label, category in enumerate(self.categories):
            file = self._category(category)
            content = read_user_file(file)
            digest.update(category.encode() + content)
            for where, row in _json_rows(content, file):
                names.append(_text(row, "filename", where))
                pair = (_text(row, "caption", where), _text(row, "negative_caption", where))
                annotations.append(Annotation(pair, label=label))
                if all_columns:
                    others.append(_without(row, "filename", "caption", "negative_caption"))
        folder = self._image_folder(file, "val2017", "coco/images/val2017", "../val2017")
        return PublishedRecords(
            names, annotations, folder, digest.hexdigest(), self.categories, others
        )

    def _category(self, name: str) -> str:
        if self.path is not None and not self._is_folder():
            raise UserError(f"data.source.path: {self.path} is not a folder; name {self.what}")
        return self._file(f"{name}.json", f"data/{name}.json")


# --- XM3600 ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Xm3600(PublishedSource, name="xm3600"):
    """Crossmodal-3600 (Thapliyal et al. 2022): 3,600 images with captions in 36 languages.

    `captions.jsonl` has a line for each image; images are `images/KEY.jpg` beside it.

    >>> import json
    >>> line = {"image/key": "0a", "en": {"caption": ["a dog"]}, "de": {"caption": ["ein Hund"]}}
    >>> with open("captions.jsonl", "w") as file:
    ...     _ = file.write(json.dumps(line))
    >>> Xm3600("captions.jsonl", language="de").open().annotation(0).captions
    ('ein Hund',)
    >>> annotation = Xm3600("captions.jsonl", language="all").open().annotation(0)
    >>> annotation.captions, annotation.tags
    (('a dog', 'ein Hund'), ('en', 'de'))
    """

    language: str = "en"
    """Code of the language of the captions; "all" for those of all languages, whose `tags` are the
    language of each caption."""
    what: ClassVar[str] = "XM3600's captions.jsonl"

    @property
    def split_name(self) -> str:
        return self.language

    def _open(self, *, all_columns: bool = False) -> PublishedRecords:
        file = self._file("captions.jsonl")
        content = read_user_file(file)
        names, annotations, others = [], [], list[dict[str, Any]]()
        for where, line in _json_lines(content, file):
            names.append(f"{_text(line, 'image/key', where)}.jpg")
            if all_columns:
                others.append(line)
            known = [key for key, value in line.items() if isinstance(value, dict)]
            wanted = known if self.language == "all" else [self.language]
            captions, tags = list[str](), list[str]()
            for language in wanted:
                if language not in known:
                    near = suggest(language, known)
                    raise UserError(f"{where}: no captions in the language {language!r}{near}")
                own = _texts(line[language].get("caption"), f"{where}: {language}.caption")
                captions += own
                tags += [language] * len(own)
            if self.language != "all":
                tags = []
            annotations.append(Annotation(tuple(captions), tuple(tags)))
        folder = self._image_folder(file, "images", "xm3600_images")
        identity = f"{_digest(content)} {self.language}"
        return PublishedRecords(names, annotations, folder, identity, others=others)


# --- VQA v2 ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VqaV2(PublishedSource, name="vqa_v2"):
    """VQA v2 (Goyal et al. 2017): questions about images of COCO, with ten answers each.

    A row for each image, with all its questions; their kinds are the answer types `yes_no`,
    `number` and `other`. Use `Expand(..., by="question")` for a row for each question. Images are
    `val2014/COCO_val2014_000000000042.jpg` beside the files.

    >>> import json
    >>> asked = {"image_id": 42, "question": "Is it red?", "question_id": 420}
    >>> people = [{"answer": answer} for answer in ["yes"] * 9 + ["no"]]
    >>> about = {"question_id": 420, "answer_type": "yes/no", "answers": people}
    >>> about["multiple_choice_answer"] = "yes"
    >>> with open("v2_OpenEnded_mscoco_val2014_questions.json", "w") as file:
    ...     json.dump({"data_subtype": "val2014", "questions": [asked]}, file)
    >>> with open("v2_mscoco_val2014_annotations.json", "w") as file:
    ...     json.dump({"annotations": [about]}, file)
    >>> (question,) = VqaV2(".").open().annotation(0).questions
    >>> question.kind, question.text, question.answer, question.answers
    ('yes_no', 'Is it red?', 'yes', (('yes', 9.0), ('no', 1.0)))
    """

    split: str = "val2014"
    """The split to read if `path` is a folder: train2014 or val2014."""
    annotations: str | None = setting(None, path=True)
    """The file with the answers; by default `v2_mscoco_SPLIT_annotations.json` beside the
    questions."""
    what: ClassVar[str] = "VQA v2's v2_OpenEnded_mscoco_val2014_questions.json"

    @property
    def split_name(self) -> str:
        return _file_split(self.path or "", _VQA_FILE, self.split)

    def _open(self, *, all_columns: bool = False) -> PublishedRecords:
        file = self._file(f"v2_OpenEnded_mscoco_{self.split}_questions.json")
        content = read_user_file(file)
        data = _parsed(content, file, dict)
        split = str(data.get("data_subtype", self.split))
        answered = self.annotations or join(parent(file), f"v2_mscoco_{split}_annotations.json")
        answers_content = read_user_file(answered)
        answers: dict[Any, tuple[str, dict[str, Any]]] = {}
        for where, row in _listed(
            _parsed(answers_content, answered, dict), answered, "annotations"
        ):
            if (number := row.get("question_id")) in answers:
                raise UserError(f"{where}: question_id {number} occurs twice")
            answers[number] = where, row
        questions: dict[int, list[Question]] = {}
        numbers: dict[int, list[Any]] = {}
        for where, row in _listed(data, file, "questions"):
            number, image = row.get("question_id"), row.get("image_id")
            if not isinstance(image, int):
                raise UserError(f"{where}: 'image_id' must be a whole number, got {image!r}")
            if number not in answers:
                raise UserError(f"{where}: {answered} has no answers to question_id {number}")
            text = _text(row, "question", where)
            questions.setdefault(image, []).append(_question(text, *answers[number]))
            numbers.setdefault(image, []).append(number)
        names = [f"COCO_{split}_{image:012d}.jpg" for image in questions]
        annotations = [Annotation((), questions=tuple(every)) for every in questions.values()]
        folder = self._image_folder(file, split, f"images/{split}", f"../{split}")
        identity = f"{_digest(content)} {_digest(answers_content)}"
        others = [{"image_id": image, "question_ids": ids} for image, ids in numbers.items()]
        return PublishedRecords(
            names, annotations, folder, identity, others=others if all_columns else ()
        )


def _question(text: str, where: str, row: dict[str, Any]) -> Question:
    """A question with the answers of all people, and their number as weight."""
    people = row.get("answers")
    if not isinstance(people, list) or not people or not all(isinstance(p, dict) for p in people):
        raise UserError(f"{where}.answers: must be a list of answers, got {people!r}")
    counted = Counter(_text(p, "answer", f"{where}.answers", empty=True) for p in people)
    kind = str(row.get("answer_type", "other")).replace("/", "_")
    weights = tuple((answer, float(count)) for answer, count in counted.items())
    main = _text(row, "multiple_choice_answer", where)
    return Question(encodable(kind), text, main, weights if len(weights) > 1 else ())


# --- GQA ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gqa(PublishedSource, name="gqa"):
    """GQA (Hudson and Manning 2019): questions about images of Visual Genome, with one answer each.

    A row for each image, with all its questions. Use `Expand(..., by="question")` for a row for
    each question. Images are `images/2354786.jpg` beside the file or its folder.

    >>> import json
    >>> asked = {"imageId": "2354786", "question": "Is it cloudy?", "answer": "yes"}
    >>> asked["types"] = {"structural": "verify", "semantic": "global", "detailed": "weatherVerify"}
    >>> with open("testdev_balanced_questions.json", "w") as file:
    ...     json.dump({"201307251": asked}, file)
    >>> Gqa(".").open().annotation(0).questions
    (Question(kind='verify', text='Is it cloudy?', answer='yes'),)
    """

    split: str = "testdev_balanced"
    """The split to read if `path` is a folder: train_balanced, val_balanced, testdev_balanced,
    val_all or testdev_all. train_all is published in ten files, each of which `path` may name."""
    kinds: Literal["structural", "semantic", "detailed"] = "structural"
    """Which type of a question is its kind. `structural` are verify, query, choose, logical and
    compare; `semantic` what it is about, such as obj, attr and rel; `detailed` are 105 forms."""
    what: ClassVar[str] = "GQA's testdev_balanced_questions.json"

    @property
    def split_name(self) -> str:
        return _file_split(self.path or "", _GQA_FILE, self.split)

    def _open(self, *, all_columns: bool = False) -> PublishedRecords:
        name = f"{self.split}_questions.json"
        file = self._file(name, f"questions/{name}", f"questions1.2/{name}")
        content = read_user_file(file)
        asked = _Asked()
        for where, row in _json_rows(content, file):
            image = _text(row, "imageId", where)
            types = _object(row.get("types"), f"{where}.types")
            kind = _text(types, self.kinds, f"{where}.types")
            question = Question(kind, _text(row, "question", where), _answer(row, where))
            asked.add(f"{image}.jpg", question, {"question_id": where.removeprefix(f"{file}: ")})
        folder = self._image_folder(file, "images", "../images", "../../images")
        return asked.records(folder, f"{_digest(content)} {self.kinds}", all_columns=all_columns)


class _Asked:
    """Questions by the name of their image, in the order in which images are first seen."""

    def __init__(self) -> None:
        self._questions: dict[str, list[Question]] = {}
        self._others: dict[str, list[dict[str, Any]]] = {}

    def add(self, image: str, question: Question, other: dict[str, Any]) -> None:
        self._questions.setdefault(image, []).append(question)
        self._others.setdefault(image, []).append(other)

    def records(
        self,
        folder: str,
        identity: str,
        *,
        all_columns: bool,
        more_names: Mapping[str, tuple[str, ...]] | None = None,
    ) -> PublishedRecords:
        others = [
            {name: [row[name] for row in rows] for name in rows[0]}
            for rows in (self._others.values() if all_columns else ())
        ]
        return PublishedRecords(
            [*self._questions],
            [Annotation((), questions=tuple(every)) for every in self._questions.values()],
            folder,
            identity,
            others=others,
            more_names=[more_names[name] for name in self._questions] if more_names else (),
        )


def _answer(row: dict[str, Any], where: str) -> str:
    """The answer to a question; it is not published for splits of a challenge."""
    if "answer" not in row:
        raise UserError(f"{where}: has no 'answer'; name a split whose answers are published")
    return _text(row, "answer", where)


# --- CLEVR ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clevr(PublishedSource, name="clevr"):
    """CLEVR (Johnson et al. 2017): questions about rendered scenes, each with its program.

    A row for each image, with all its questions. The kind of a question is the last function of its
    program: exist, count, equal_integer, less_than, greater_than, query_color, equal_color, ...
    Use `Expand(..., by="question")` for a row for each question. Images are
    `images/val/CLEVR_val_000000.png` beside the folder of the questions.

    >>> import json
    >>> asked = {"image_filename": "CLEVR_val_000000.png", "question": "Any cubes?"}
    >>> asked |= {"answer": "no", "program": [{"function": "scene"}, {"function": "exist"}]}
    >>> with open("CLEVR_val_questions.json", "w") as file:
    ...     json.dump({"info": {"split": "val"}, "questions": [asked]}, file)
    >>> Clevr(".").open().annotation(0).questions
    (Question(kind='exist', text='Any cubes?', answer='no'),)
    """

    split: str = "val"
    """The split to read if `path` is a folder: train or val; the answers of test are not
    published. CLEVR-CoGenT has valA and valB."""
    what: ClassVar[str] = "CLEVR's questions/CLEVR_val_questions.json"

    @property
    def split_name(self) -> str:
        return _file_split(self.path or "", _CLEVR_FILE, self.split)

    def _open(self, *, all_columns: bool = False) -> PublishedRecords:
        name = f"CLEVR_{self.split}_questions.json"
        file = self._file(name, f"questions/{name}", f"CLEVR_v1.0/questions/{name}")
        content = read_user_file(file)
        asked = _Asked()
        for where, row in _listed(_parsed(content, file, dict), file, "questions"):
            answer = _answer(row, where)
            question = Question(_last_function(row, where), _text(row, "question", where), answer)
            other = {"question_index": row.get("question_index")}
            other["question_family_index"] = row.get("question_family_index")
            asked.add(_text(row, "image_filename", where), question, other)
        split = _file_split(file, _CLEVR_FILE, self.split)
        folder = self._image_folder(file, f"../images/{split}", f"images/{split}", split)
        return asked.records(folder, _digest(content), all_columns=all_columns)


def _last_function(row: dict[str, Any], where: str) -> str:
    """The function whose value is the answer; CLEVR-CoGenT calls it type."""
    program = row.get("program")
    if not isinstance(program, list) or not program:
        raise UserError(f"{where}: 'program' must be a list of functions, got {program!r}")
    last, at = _object(program[-1], f"{where}.program"), f"{where}.program.{len(program) - 1}"
    return _text(last, "function" if "function" in last else "type", at)


# The names of files, with the split as group.
_VQA_FILE = r"_mscoco_(\w+)_questions\.json$"
_GQA_FILE = r"(\w+)_questions(?:_\d+)?\.json$"
_CLEVR_FILE = r"CLEVR_(\w+)_questions\.json$"
_NLVR2_FILE = r"(\w+)\.json$"


def _file_split(file: str, pattern: str, default: str) -> str:
    """The split in the name of a file; the default for another name, such as that of a folder."""
    found = re.search(pattern, file)
    return found[1] if found else default


# --- NLVR2 ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nlvr2(PublishedSource, name="nlvr2"):
    """NLVR2 (Suhr et al. 2019): whether a sentence is true of two photographs.

    A row for each pair of images, with all its sentences as questions of the kind `nlvr2`, whose
    answer is `true` or `false`. Use `Expand(..., by="question")` for a row for each sentence, and
    the transform `OtherImage` for the second image. Images are `dev/dev-850-0-img0.png` and
    `dev-850-0-img1.png` beside the file or its folder, those of train in `train/DIRECTORY`.

    >>> import json
    >>> line = {"sentence": "Both dogs sit.", "identifier": "dev-850-0-1", "label": "False"}
    >>> with open("dev.json", "w") as file:
    ...     _ = file.write(json.dumps(line))
    >>> records = Nlvr2(".").open()
    >>> records.annotation(0).questions, records.image_count
    ((Question(kind='nlvr2', text='Both dogs sit.', answer='false'),), 2)
    """

    split: str = "dev"
    """The split to read if `path` is a folder: train, dev, test1 (public) or test2."""
    what: ClassVar[str] = "NLVR2's dev.json"

    @property
    def split_name(self) -> str:
        return _file_split(self.path or "", _NLVR2_FILE, self.split)

    def _open(self, *, all_columns: bool = False) -> PublishedRecords:
        file = self._file(f"{self.split}.json", f"data/{self.split}.json")
        content = read_user_file(file)
        asked, second = _Asked(), dict[str, tuple[str, ...]]()
        for where, line in _json_lines(content, file):
            identifier = _text(line, "identifier", where)
            pair, _, sentence = identifier.rpartition("-")
            if pair.count("-") < 2 or not sentence.isdecimal():
                raise UserError(
                    f"{where}: 'identifier' must be SPLIT-SET-PAIR-SENTENCE, got {identifier!r}"
                )
            label = str(line.get("label")).lower()
            if label not in ("true", "false"):
                raise UserError(
                    f"{where}: 'label' must be True or False, got {line.get('label')!r}"
                )
            folder = f"{line['directory']}/" if "directory" in line else ""
            first = f"{folder}{pair}-img0.png"
            second[first] = (f"{folder}{pair}-img1.png",)
            question = Question("nlvr2", _text(line, "sentence", where), label)
            asked.add(first, question, {"identifier": identifier})
        split = _file_split(file, _NLVR2_FILE, self.split)
        images = self._image_folder(
            file, f"images/{split}", split, f"../images/{split}", f"../{split}"
        )
        return asked.records(images, _digest(content), all_columns=all_columns, more_names=second)


# --- RefCOCO --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RefCoco(PublishedSource, name="refcoco"):
    """RefCOCO, RefCOCO+ or RefCOCOg: expressions that refer to one object in an image of COCO.

    Reads the annotations as MDETR publishes them, `finetune_refcoco_val.json` and the like, with a
    row for each expression: it is the caption, and a phrase that refers to the region. The original
    `refs(unc).p` is a pickle, which could run any program, and is refused. Images are
    `train2014/COCO_train2014_000000000042.jpg` beside the file or its folder.

    >>> import json
    >>> image = {"id": 0, "file_name": "COCO_train2014_000000000042.jpg", "caption": "left man"}
    >>> with open("finetune_refcoco_val.json", "w") as file:
    ...     box = {"image_id": 0, "bbox": [10.2, 20, 30, 40]}
    ...     json.dump({"images": [image], "annotations": [box]}, file)
    >>> RefCoco("finetune_refcoco_val.json").open().annotation(0).regions
    (Region(name='left man', box=(10, 20, 40, 60), colour=None),)
    """

    what: ClassVar[str] = "a file such as finetune_refcoco_val.json of MDETR's annotations"

    @property
    def dataset(self) -> str:
        """refcoco, refcoco+ or refcocog, from the name of the file."""
        return self._parts[0]

    @property
    def split_name(self) -> str:
        """val, testA, testB, test or train, from the name of the file."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str, str]:
        found = re.search(r"(refcoco[+g]?)_(\w+)\.json$", self.path or "")
        return (found[1], found[2]) if found else (self.type_name, "all")

    def _open(self, *, all_columns: bool = False) -> PublishedRecords:
        if (self.path or "").endswith((".p", ".pkl", ".pickle")):
            raise UserError(
                f"data.source.path: {self.path} is a pickle, which could run any program; name"
                f" {self.what}"
            )
        if self.path is not None and self._is_folder():
            raise UserError(f"data.source.path: {self.path} is a folder; name {self.what}")
        file = self._file()
        content = read_user_file(file)
        data = _parsed(content, file, dict)
        boxes: dict[Any, tuple[int, int, int, int]] = {}
        for where, row in _listed(data, file, "annotations"):
            if (number := row.get("image_id")) in boxes:
                raise UserError(f"{where}: image_id {number} has two boxes; an expression has one")
            boxes[number] = _box(row.get("bbox"), where)
        names, annotations, others = [], [], list[dict[str, Any]]()
        for where, row in _listed(data, file, "images"):
            if (number := row.get("id")) not in boxes:
                raise UserError(f"{where}: no annotation has image_id {number}")
            text = _text(row, "caption", where)
            names.append(_text(row, "file_name", where))
            region, phrase = Region(text, boxes[number]), Phrase(0, 0, len(text), (0,))
            annotations.append(Annotation((text,), regions=(region,), phrases=(phrase,)))
            if all_columns:
                others.append(_without(row, "file_name", "caption"))
        folder = self._image_folder(file, "train2014", "../train2014")
        return PublishedRecords(names, annotations, folder, _digest(content), others=others)


def _box(value: Any, where: str) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box of COCO: left, top, width, height."""
    numbers = value if isinstance(value, list) else []
    if [isinstance(n, int | float) and 0 <= n < _LARGEST_EDGE for n in numbers] != [True] * 4:
        raise UserError(f"{where}: 'bbox' must be four numbers from 0, got {value!r}")
    left, top, width, height = numbers
    return round(left), round(top), round(left + width), round(top + height)


_LARGEST_EDGE = 2**31  # neither NaN nor infinity is below it


# --- JSON -----------------------------------------------------------------------------------------


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parsed(content: bytes | str, where: str, kind: type) -> Any:
    try:
        data = parse_json(content)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    if not isinstance(data, kind):
        wanted = "an object" if kind is dict else "a list"
        raise UserError(f"{where}: must be {wanted}, got {json.dumps(data)[:60]}")
    return data


def _json_lines(content: bytes, file: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSON-lines file, each with its location; at least one."""
    lines = [(f"{file}:{n}", line) for n, line in enumerate(content.split(b"\n"), 1)]
    rows = [(where, _parsed(line, where, dict)) for where, line in lines if line.strip()]
    if not rows:
        raise UserError(f"{file}: has no lines")
    return rows


def _json_rows(content: bytes, file: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects in an object, each with its location."""
    rows = _parsed(content, file, dict)
    return [(f"{file}: {key}", _object(row, f"{file}: {key}")) for key, row in rows.items()]


def _listed(data: dict[str, Any], file: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects in the list `name` of a file, each with its location."""
    rows = data.get(name)
    if not isinstance(rows, list):
        raise UserError(f"{file}: no list {name!r}")
    places = (f"{file}: {name}.{i}" for i in range(len(rows)))
    return [(where, _object(row, where)) for where, row in zip(places, rows, strict=True)]


def _without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: must be an object, got {row!r}")
    return row


def _text(row: dict[str, Any], key: str, where: str, *, empty: bool = False) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not (value.strip() or empty):
        raise UserError(f"{where}: {key!r} must be text, got {value!r}")
    return encodable(value)


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{where}: must be a list of texts, got {value!r}")
    return [encodable(text) for text in value if text.strip()]
