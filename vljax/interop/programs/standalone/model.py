"""The programs of a folder with the pipeline around them: embeddings, answers to questions."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vljax.interop.programs.standalone.images import Images
from vljax.interop.programs.standalone.inputs import batches, images_of, padded, texts_of
from vljax.interop.programs.standalone.stablehlo_programs import Programs
from vljax.interop.programs.standalone.texts import Texts


class Model:
    """The programs, preprocessing and tokenizer of a folder.

    Raises:
      ValueError: if a file is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        described = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        for name, stated in described["files"].items():
            _check(folder / name, stated["bytes"], stated["sha256"])
        self._programs = Programs(folder, described["programs"], described["weights"])
        self._reads = {
            name: [spec["name"] for spec in program["inputs"]]
            for name, program in described["programs"].items()
        }
        self._outputs = {name: program["output"] for name, program in described["programs"].items()}
        if any("image" in entries for entries in self._reads.values()):
            preprocessing = (folder / described["preprocessing"]).read_text(encoding="utf-8")
            self.images = Images(json.loads(preprocessing))
        if "text" in self._reads:
            self.texts = Texts(folder / described["tokenizer"])
        self._answering = described.get("answering")
        if self._answering is not None:
            self.questions = Texts(folder / self._answering["tokenizer"])
            names = (folder / self._answering["vocabulary"]).read_text(encoding="utf-8")
            self.answers = names.splitlines()

    def encode_image(self, images: Any) -> np.ndarray:
        """Embeddings of images: float32[images, dim].

        Args:
          images: paths, contents of image files (bytes), PIL images or arrays uint8[height, width,
            3], in any iterable, or one of them.

        Raises:
          TypeError: for anything else.
          ValueError: if a file is not an image, or the model has no encoder of images.
        """
        self._require("image")
        parts = []
        for batch, rows in batches(images_of(images, _read)):
            pixels = np.stack([self._pixels(name, file) for name, file in batch])
            parts.append(self._run("image", rows, image=pixels))
        return self._joined("image", parts)

    def encode_text(self, texts: Any) -> np.ndarray:
        """Embeddings of texts: float32[texts, dim].

        Args:
          texts: any iterable of strings, or one string, which is one text.

        Raises:
          TypeError: for anything else.
          ValueError: if the model has no encoder of texts.
        """
        self._require("text")
        parts = []
        for batch, rows in batches(texts_of(texts)):
            ids, mask = self.texts(batch)
            parts.append(self._run("text", rows, text=ids, text_mask=mask))
        return self._joined("text", parts)

    def answer(self, image: Any, question: str, top: int = 5) -> list[tuple[str, float]]:
        """The most likely answers to a question about an image, with their probabilities.

        Args:
          image: a path, the content of an image file, a PIL image or an array, as for
            `encode_image`.
          question: a text.
          top: largest number of answers.

        Raises:
          TypeError: for anything else, or several of them.
          ValueError: if the file is not an image, or the model does not answer questions.
        """
        files, questions = list(images_of(image, _read)), list(texts_of(question))
        if (len(files), len(questions)) != (1, 1):
            raise TypeError(f"{len(files)} images and {len(questions)} questions; pass one each")
        (logits,) = self._logits(zip(files, questions, strict=True)).astype(np.float64)
        if self._answering["loss"] == "softmax":
            scores = np.exp(logits - logits.max())
            scores /= scores.sum()
        else:
            scores = np.exp(-np.logaddexp(0, -logits))
        best = np.argsort(-logits, kind="stable")[:top]
        return [(self.answers[i], float(scores[i])) for i in best]

    def answer_logits(self, images: Any, questions: Any) -> np.ndarray:
        """The scores of all answers to one question about each image: float32[images, answers].

        Args:
          images: as for `encode_image`.
          questions: any iterable of strings, or one string; as many as there are images.

        Raises:
          TypeError: for anything else.
          ValueError: if a file is not an image, there are not as many questions as images, or the
            model does not answer questions.
        """
        return self._logits(_pairs(images_of(images, _read), texts_of(questions)))

    def _logits(self, pairs: Iterable[tuple[tuple[str, bytes], str]]) -> np.ndarray:
        if self._answering is None:
            raise ValueError("the model does not answer questions")
        program = self._answering["program"]
        parts = []
        for batch, rows in batches(pairs):
            ids, mask = self.questions([question for _, question in batch])
            pixels = np.stack([self._pixels(name, file) for (name, file), _ in batch])
            parts.append(self._run(program, rows, image=pixels, question=ids, question_mask=mask))
        return self._joined(program, parts)

    def _require(self, modality: str) -> None:
        if modality not in self._reads:
            raise ValueError(f"the model has no encoder of {modality}s")

    def _pixels(self, name: str, file: bytes) -> np.ndarray:
        try:
            return self.images(file)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _run(self, program: str, rows: int, **inputs: np.ndarray) -> np.ndarray:
        """The output for all inputs, computed with `rows` rows."""
        given = {name: padded(inputs[name], rows) for name in self._reads[program]}
        return self._programs(program, given)[: len(next(iter(inputs.values())))]

    def _joined(self, program: str, parts: list[np.ndarray]) -> np.ndarray:
        if parts:
            return np.concatenate(parts)
        output = self._outputs[program]
        return np.zeros((0, *output["shape"][1:]), output["dtype"])


def _pairs(images: Iterator[Any], questions: Iterator[str]) -> Iterator[tuple[Any, str]]:
    for image, question in itertools.zip_longest(images, questions):
        if image is None or question is None:
            raise ValueError("pass as many questions as images")
        yield image, question


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error


def _check(file: Path, size: int, digest: str) -> None:
    if not file.exists():
        raise ValueError(f"{file} is missing")
    if file.stat().st_size != size:
        raise ValueError(f"{file} has {file.stat().st_size} bytes, and should have {size}")
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != digest:
            raise ValueError(f"{file} is damaged: its SHA-256 is not that of export.json")
