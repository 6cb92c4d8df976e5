"""What models that answer questions share: a recipe around the import, and the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vljax.data.pipeline.pipeline import Data
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import HuggingFace, Tokenizer
from vljax.data.transforms import (
    ChooseQuestions,
    ChooseText,
    EncodeAnswers,
    Tokenize,
    Transform,
)
from vljax.data.vocabulary import normalised
from vljax.interop.export_plan import ExportIssues, TrainedModel
from vljax.interop.files.tensors import Tensor
from vljax.interop.foreign_config import ForeignConfig
from vljax.models.assembly import ModelConfig
from vljax.models.node import Node
from vljax.models.numerics import Precision
from vljax.objectives import Classification
from vljax.run import Run
from vljax.workdir import vocabulary_file


def recipe(
    nodes: Mapping[str, Node],
    inputs: Sequence[Transform],
    tokenizer: Tokenizer,
    answers: tuple[str, ...] = (),
    loss: Literal["softmax", "sigmoid"] = "softmax",
) -> Run:
    """A recipe around an imported model; data and steps are placeholders, as in `imported_run`.

    Args:
      nodes: the model. It reads a node `question` or else `text`; with answers, a classifier
        `answer` scores them.
      inputs: the transforms that make what the other encoders read.
      tokenizer: of the questions or texts.
      answers: by index; empty if they are not known.
      loss: what the scores of the answers were trained with.
    """
    if isinstance(tokenizer, HuggingFace):
        tokenizer = dataclasses.replace(tokenizer, path=None)
    asks = "question" in nodes
    transforms = (
        *inputs,
        ChooseQuestions() if asks else ChooseText(),
        Tokenize("question" if asks else "text", tokenizer="text"),
        *([EncodeAnswers(answers)] if answers else []),
    )
    objective = Classification(logits="answer/logits", targets="answer", loss=loss)
    return Run(
        model=ModelConfig(dict(nodes)),
        data=Data(
            source=JsonLines(),
            tokenizers={"text": tokenizer},
            train_transforms=transforms,
            eval_transforms=transforms,
        ),
        objectives={"answer": objective} if answers else {},
        precision=Precision("float32"),
        steps=1,
        global_batch=1,
    )


def read_answers(config: ForeignConfig, classes: int, notes: list[str]) -> tuple[str, ...]:
    """The answers by index, from `id2label`.

    Without a name for each, all different, it adds a note and returns nothing.
    """
    labels = config.raw("id2label")
    if isinstance(labels, Mapping) and set(labels) == {str(i) for i in range(classes)}:
        answers = tuple(str(labels[str(i)]) for i in range(classes))
        names = {normalised(answer) for answer in answers}
        if len(names) == classes and all(names):
            return answers
    notes.append(f"id2label does not name the {classes} answers, so they are known by index only")
    return ()


def count_answers(config: ForeignConfig, kernel: Tensor) -> int:
    """The number of answers that `id2label` states, or without it, that the last kernel has."""
    labels = config.raw("id2label")
    if isinstance(labels, Mapping):
        return len(labels)
    return kernel.shape[0] if kernel.shape else 0


def vocabulary(answers: tuple[str, ...]) -> dict[str, bytes]:
    """The file of a checkpoint that holds the answers; none without answers."""
    lines = "".join(f"{normalised(answer)}\n" for answer in answers)
    return {vocabulary_file("answer"): lines.encode()} if answers else {}


def write_answers(trained: TrainedModel, classes: int, issues: ExportIssues) -> dict[str, Any]:
    """`id2label` and `label2id`; without the names of all answers, a note and nothing."""
    known = trained.run.data.vocabularies().get("answer")
    stored = trained.files.get(vocabulary_file("answer"), b"").decode().splitlines()
    answers = list(known) if isinstance(known, tuple) else stored
    if len(answers) != classes:
        issues.notes.append(f"id2label is left out: the names of the {classes} answers are unknown")
        return {}
    return {
        "id2label": {str(i): answer for i, answer in enumerate(answers)},
        "label2id": {answer: i for i, answer in enumerate(answers)},
    }
