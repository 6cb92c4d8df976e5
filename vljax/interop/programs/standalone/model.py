"""The programs of a folder with the pipeline around them: embeddings, answers to questions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vljax.interop.programs.standalone.images import Images
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

    def encode_image(self, files: Sequence[bytes]) -> np.ndarray:
        """Embeddings of image files, given their contents: float32[files, dim].

        Raises:
          ValueError: if a file is not an image, or the model has no encoder of images.
        """
        self._require("image")
        return self._run("image", image=np.stack([self.images(file) for file in files]))

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts: float32[texts, dim].

        Raises:
          ValueError: if the model has no encoder of texts.
        """
        self._require("text")
        ids, mask = self.texts(texts)
        return self._run("text", text=ids, text_mask=mask)

    def answer(self, image: bytes, question: str, top: int = 5) -> list[tuple[str, float]]:
        """The most likely answers to a question about an image, with their probabilities.

        Args:
          image: the content of an image file.
          question: a text.
          top: largest number of answers.

        Raises:
          ValueError: if the file is not an image, or the model does not answer questions.
        """
        (logits,) = self.answer_logits([image], [question]).astype(np.float64)
        if self._answering["loss"] == "softmax":
            scores = np.exp(logits - logits.max())
            scores /= scores.sum()
        else:
            scores = np.exp(-np.logaddexp(0, -logits))
        best = np.argsort(-logits, kind="stable")[:top]
        return [(self.answers[i], float(scores[i])) for i in best]

    def answer_logits(self, images: Sequence[bytes], questions: Sequence[str]) -> np.ndarray:
        """The scores of all answers to one question about each image: float32[images, answers].

        Raises:
          ValueError: if a file is not an image, or the model does not answer questions.
        """
        if self._answering is None:
            raise ValueError("the model does not answer questions")
        ids, mask = self.questions(questions)
        pixels = np.stack([self.images(file) for file in images])
        program = self._answering["program"]
        return self._run(program, image=pixels, question=ids, question_mask=mask)

    def _require(self, modality: str) -> None:
        if modality not in self._reads:
            raise ValueError(f"the model has no encoder of {modality}s")

    def _run(self, program: str, **inputs: np.ndarray) -> np.ndarray:
        return self._programs(program, {name: inputs[name] for name in self._reads[program]})


def _check(file: Path, size: int, digest: str) -> None:
    if not file.exists():
        raise ValueError(f"{file} is missing")
    if file.stat().st_size != size:
        raise ValueError(f"{file} has {file.stat().st_size} bytes, and should have {size}")
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != digest:
            raise ValueError(f"{file} is damaged: its SHA-256 is not that of export.json")
