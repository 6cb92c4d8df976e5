"""Visual question answering as classification."""

from __future__ import annotations

import functools
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Bool, Float, Int, UInt8

from vljax import charts
from vljax.config import UserError
from vljax.data.records import Annotation
from vljax.data.vocabulary import normalised, terms
from vljax.evaluation.evaluator import Draw, EvaluationData, Evaluator
from vljax.evaluation.metrics.classification import accuracy_coverage
from vljax.evaluation.metrics.uncertainty import Sampled
from vljax.evaluation.metrics.vqa import vqa_accuracy
from vljax.evaluation.predictor import Batch, Predictor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 12
_PEOPLE = 10
_THUMBNAIL = 128


@dataclass(frozen=True, kw_only=True)
class Questions(Evaluator, name="questions"):
    """Accuracy of answers, by kind of question.

    The answer is the class with the highest logit; a tie counts as wrong. Its credit is its weight
    in the target, relative to the largest weight: 1 or 0 if a question has one answer. A question
    without an answer in the vocabulary counts as wrong. Use an expanded source, so that each row
    has one question.

    Metrics: `accuracy`, `accuracy/KIND`, and the `majority` and `majority/KIND` that one gets by
    always giving the most frequent answer of the kind; the counts `questions`, `questions/KIND` and
    `unreadable`. If several people answered a question, and their numbers are the weights, also
    `vqa_accuracy`, the official one of VQA v2 (`metrics.vqa.vqa_accuracy`). With `attention` and
    boxes in the batch (`PadRegions`), for the questions of `pointing` whose answer names one object
    and not another: `attention/right` and `attention/other`, how often the image token with most
    attention lies in that object's box, and in another object's. With `decided`: `coverage`, how
    often the model answers, and `covered_accuracy`, the accuracy where it does. With `curve`:
    `accuracy_coverage_area` (`metrics.classification.accuracy_coverage`), where the confidence is
    the softmax probability of the answer.

    >>> from vljax.datasets import Scenes
    >>> from vljax.recipes import Expand
    >>> Questions(source=Expand(Scenes(), by="question")).reads()
    ('answer/logits',)
    """

    headline = ("accuracy",)

    logits: str = "answer/logits"
    """Output with the scores of the answers."""
    targets: str = "answer"
    """Batch entry with the weights of the answers."""
    attention: str | None = None
    """Output with the attention from words to image tokens, such as `fusion/attention`, for a
    figure and for `attention/right`; None for neither. The last block is used. The image tokens
    must be a square grid, row-major."""
    words: str = "question/mask"
    """Output that says which tokens of the question are not padding."""
    attending: Literal["words", "first"] = "words"
    """Whose attention is meant: the mean over the words, or that of the first token, for a fusion
    that is pooled by it."""
    pointing: tuple[str, ...] = ("what_beside",)
    """Kinds of questions whose answer is the name of an object in the image."""
    decided: str | None = None
    """Output that says for each question whether the model answers it, such as `answer/decided` of
    a `Decision` by agreement; None if it answers all."""
    curve: bool = False
    """Whether to measure and draw the accuracy at each coverage: that of the answers whose
    confidence reaches a threshold. The figure takes another pass over all questions."""

    def reads(self) -> tuple[str, ...]:
        attention = () if self.attention is None else (self.attention, self.words)
        return (self.logits, *attention, *(() if self.decided is None else (self.decided,)))

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        yield from super().problems()
        if self.source.type_name != "expand":
            yield "source", "has several questions in a row; put it into Expand(..., by='question')"

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`. Raises UserError if no example has a question."""
        # An expanded source without questions has no examples.
        if not any(annotation.questions for annotation in data.annotations):
            raise UserError(
                f"{self.source.full_name} has no questions; a source of files names their columns"
                " in its fields question and answers"
            )
        super().check(data)

    def measure(self, predictor: Predictor, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no image can be read."""
        names = terms(data.vocabulary(self.targets))
        credit: list[float] = []
        official: list[float | None] = []
        valid, confidence, decided = [], [], []
        points: list[tuple[int, Bool[np.ndarray, "looks 2"]]] = []
        for first, batch in self._batches(data):
            found = self._answered(predictor, batch)
            about = data.annotations[first : first + len(found.answer)]
            credit += _credits(about, found, names)
            official += [
                _official(each, names[int(answer)], tie=bool(tie))
                for each, answer, tie in zip(about, found.answer, found.tie, strict=False)
            ]
            valid.append(np.asarray(batch["valid"]))
            confidence.append(found.confidence)
            decided.append(found.decided)
            points += self._points(found, batch, data.annotations, first)
        count = len(data.annotations)
        readable = np.concatenate(valid)[:count]
        if not readable.any():
            raise UserError(f"{self.source.full_name}: no image can be read")
        credits = np.array(credit)[readable]
        asked = [a.questions[0] for a, ok in zip(data.annotations, readable, strict=True) if ok]
        kinds = np.array([question.kind for question in asked])
        answers = np.array([normalised(question.answer) for question in asked])
        images = data.images[readable]
        metrics: dict[str, float] = {"accuracy": Sampled(credits, images)}
        metrics["questions"] = float(len(credits))
        metrics["unreadable"] = float(count - len(credits))
        by_people = [score for score, ok in zip(official, readable, strict=True) if ok]
        if any(len(question.answers) > 1 for question in asked) and None not in by_people:
            metrics["vqa_accuracy"] = Sampled(np.array(by_people, np.float64), images)
        if self.decided is not None:
            covered = np.concatenate(decided)[:count][readable]
            metrics["coverage"] = Sampled(covered.astype(np.float64), images)
            if covered.any():
                metrics["covered_accuracy"] = Sampled(credits[covered], images[covered])
        if self.curve:
            sure = np.concatenate(confidence)[:count][readable]
            metrics["accuracy_coverage_area"] = accuracy_coverage(sure, credits).area
        most = np.zeros(len(credits))
        for kind in sorted(set(kinds.tolist())):
            own = kinds == kind
            ((_, times),) = Counter(answers[own].tolist()).most_common(1)
            most[own] = times / own.sum()
            metrics[f"accuracy/{kind}"] = Sampled(credits[own], images[own])
            metrics[f"majority/{kind}"] = float(times / own.sum())
            metrics[f"questions/{kind}"] = float(own.sum())
        metrics["majority"] = float(most.mean())
        if points:
            hits = np.stack([looks for _, looks in points])
            images = data.images[[index for index, _ in points]]
            found_by = {"": hits[:, 0]}
            if len(points) > 1:
                found_by["head_"] = _of_best_head(hits[:, 1:])
            for which, found_objects in found_by.items():
                for side, name in enumerate(("right", "other")):
                    metrics[f"attention/{which}{name}"] = Sampled(found_objects[:, side], images)
            metrics["attention/questions"] = float(len(points))
        return metrics

    def figures(self, predictor: Predictor, data: EvaluationData) -> dict[str, Draw]:
        """A grid of images with question, answer, and the attention over the image.

        With `curve`, also the accuracy-coverage curve.
        """
        names = terms(data.vocabulary(self.targets))
        kinds = [a.questions[0].kind if a.questions else "" for a in data.annotations]
        # The first question of each kind.
        chosen = [kinds.index(kind) for kind in sorted({*kinds} - {""})][:_SHOWN]
        panels = []
        answered: list[Float[np.ndarray, "rows 3"]] = []
        for first, batch in self._batches(data):
            rows = [i for i in chosen if first <= i < first + len(batch["valid"])]
            if not rows and not self.curve:
                continue
            found = self._answered(predictor, batch)
            if self.curve:
                about = data.annotations[first : first + len(found.answer)]
                credits = np.array(_credits(about, found, names))
                rest = (found.confidence, found.decided, np.asarray(batch["valid"]))
                confidence, decided, valid = (x[: len(credits)] for x in rest)
                answered.append(np.column_stack([confidence, credits, decided])[valid])
            for i in rows:
                heat = None if found.attention is None else found.attention[i - first]
                question = data.annotations[i].questions[0]
                given = names[int(found.answer[i - first])]
                thumbnail = data.thumbnail(i, _THUMBNAIL)
                panels.append(_Panel(question.text, given, question.answer, thumbnail, heat))
        drawn: dict[str, Draw] = {}
        if panels:
            drawn["questions"] = functools.partial(_draw, panels)
        if self.curve:
            abstains = self.decided is not None
            curve = functools.partial(_draw_curve, np.concatenate(answered), abstains=abstains)
            drawn["accuracy_coverage"] = curve
        return drawn

    def _batches(self, data: EvaluationData) -> Iterable[tuple[int, Batch]]:
        """The batches, with the index of the first example of each."""
        for number, batch in enumerate(data.batches(self.batch_size)):
            yield number * self.batch_size, batch

    def _answered(self, predictor: Predictor, batch: Batch) -> _Answered:
        # Not what a subclass reads too, so that a check finds that it is there.
        outputs = predictor.run(Questions.reads(self), batch)
        logits = outputs[self.logits]
        tie = np.sum(logits == logits.max(axis=-1, keepdims=True), axis=-1) > 1
        heads = None
        if self.attention is not None:
            words = outputs[self.words].reshape(len(logits), 1, -1, 1)
            if self.attending == "first":
                words = words * (np.arange(words.shape[2]) == 0)[:, None]
            heads = (outputs[self.attention][:, -1] * words).sum(axis=2) / words.sum(axis=2)
        wide = logits.astype(np.float64)
        confidence = 1 / np.exp(wide - wide.max(axis=-1, keepdims=True)).sum(axis=-1)
        decided = np.ones(len(logits), bool) if self.decided is None else outputs[self.decided]
        return _Answered(logits.argmax(axis=-1), tie, heads, confidence, decided)

    def _points(
        self, found: _Answered, batch: Batch, annotations: list[Annotation], first: int
    ) -> list[tuple[int, Bool[np.ndarray, "looks 2"]]]:
        """For each question that points at an object: its index, and whether the attention peaks in
        the right object's box, and in another's; first the mean over heads, then each head.
        """
        if found.attention is None or found.heads is None or "boxes" not in batch:
            return []
        boxes, there = _on_host(batch["boxes"]), _on_host(batch["boxes_mask"])
        side = int(np.sqrt(found.attention.shape[-1]))
        looks = np.concatenate([found.attention[:, None], found.heads], axis=1)
        points = []
        for row, about in enumerate(annotations[first : first + len(boxes)]):
            if not (batch["valid"][row] and about.questions):
                continue
            question = about.questions[0]
            right = [normalised(r.name) == normalised(question.answer) for r in about.regions]
            right = right[: len(boxes[row])]
            inside = np.array(right, bool) & there[row][: len(right)]
            others = ~np.array(right, bool) & there[row][: len(right)]
            if question.kind not in self.pointing or not inside.any() or not others.any():
                continue
            y, x = np.divmod(looks[row].argmax(axis=-1), side)
            peaks = np.stack([x + 0.5, y + 0.5], axis=-1) / side
            hit = np.stack([_contains(boxes[row][: len(right)], peak) for peak in peaks])
            peaked = np.stack([(hit & inside).any(axis=1), (hit & others).any(axis=1)], axis=1)
            points.append((first + row, peaked))
        return points


def _of_best_head(hits: Bool[np.ndarray, "questions heads 2"]) -> Bool[np.ndarray, "questions 2"]:
    """What one head hits: the one that hits the right object most often, and another one least, in
    the questions of the other half.
    """
    found = np.empty((len(hits), 2), bool)
    for half in (0, 1):
        right, other = hits[1 - half :: 2].mean(axis=0).T
        found[half::2] = hits[half::2, int((right - other).argmax())]
    return found


def _credits(about: list[Annotation], found: _Answered, names: tuple[str, ...]) -> list[float]:
    """The credit of the answer to each question of a batch."""
    return [
        _credit(each, names[int(answer)], tie=bool(tie))
        for each, answer, tie in zip(about, found.answer, found.tie, strict=False)
    ]


def _credit(about: Annotation, answer: str, *, tie: bool) -> float:
    """The weight of an answer, relative to the largest weight; 0 for a tie."""
    if tie or not about.questions:
        return 0.0
    weights: dict[str, float] = {}
    for text, weight in about.questions[0].weighted_answers:
        weights[normalised(text)] = weights.get(normalised(text), 0.0) + weight
    return weights.get(answer, 0.0) / max(weights.values())


def _official(about: Annotation, answer: str, *, tie: bool) -> float | None:
    """VQA accuracy of an answer, 0 for a tie; None if the weights are not numbers of people."""
    if tie or not about.questions:
        return 0.0
    question = about.questions[0]
    if any(weight < 1 or weight != int(weight) for _, weight in question.answers):
        return None
    people = [text for text, weight in question.answers for _ in range(int(weight))]
    # A question whose people agree keeps one answer without their number; ten as in VQA v2.
    return vqa_accuracy(answer, people or [question.answer] * _PEOPLE)


def _on_host(array: np.ndarray | jax.Array) -> np.ndarray:
    """The whole array, also if other processes hold parts of it."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


class _Answered(NamedTuple):
    answer: Int[np.ndarray, " rows"]
    tie: Bool[np.ndarray, " rows"]
    """Whether another answer has the same score."""
    heads: Float[np.ndarray, "rows heads tokens"] | None
    """Attention of each head in the last block, the mean over the words that are asked for."""
    confidence: Float[np.ndarray, " rows"]
    """The softmax probability of the answer."""
    decided: Bool[np.ndarray, " rows"]
    """Whether the model gives the answer, and does not abstain."""

    @property
    def attention(self) -> Float[np.ndarray, "rows tokens"] | None:
        """The mean over heads."""
        return None if self.heads is None else self.heads.mean(axis=1)


class _Panel(NamedTuple):
    question: str
    given: str
    right: str
    image: UInt8[np.ndarray, "size size 3"]
    attention: Float[np.ndarray, " tokens"] | None


def _contains(
    boxes: Float[np.ndarray, "boxes 4"], point: Float[np.ndarray, " 2"]
) -> Bool[np.ndarray, " boxes"]:
    x, y = point
    left, top, right, bottom = boxes.T
    return (left <= x) & (x < right) & (top <= y) & (y < bottom)


def _draw(panels: list[_Panel]) -> Figure:
    """Images with question and answer; a right answer has a green frame."""
    columns = 4
    rows = -(-len(panels) // columns)
    figure = charts.new_figure(2.6 * columns, 3.0 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        size = panel.image.shape[0]
        axes.imshow(panel.image, extent=(0, size, size, 0))
        if panel.attention is not None:
            side = int(np.sqrt(len(panel.attention)))
            heat = panel.attention.reshape(side, side)
            axes.imshow(heat, extent=(0, size, size, 0), cmap="magma", alpha=0.5)
        right = normalised(panel.given) == normalised(panel.right)
        axes.spines[:].set(visible=True, color=charts.GREEN if right else charts.GREY, linewidth=3)
        answer = panel.given if right else f"{panel.given} (right: {panel.right})"
        lines = [*textwrap.wrap(panel.question, 36, max_lines=2, placeholder=" …"), answer]
        axes.set_title("\n".join(lines), fontsize=8, parse_math=False)
    seen = ", and what the words attend to" if panels[0].attention is not None else ""
    figure.suptitle(f"Answers to questions{seen}", fontsize=11)
    return figure


def _draw_curve(answered: Float[np.ndarray, "rows 3"], *, abstains: bool) -> Figure:
    """The accuracy at each coverage, and the point at which the model itself abstains.

    Args:
      answered: confidence, credit, and 1 where the model answers.
      abstains: whether it abstains at all.
    """
    confidence, credit, decided = answered.T
    curve = accuracy_coverage(confidence, credit)
    figure = charts.new_figure(6.0, 4.0)
    axes = figure.subplots()
    x, y = 100 * curve.coverage, 100 * curve.accuracy
    axes.plot(x, y, color=charts.BLUE, label="the most confident answers")
    axes.axhline(y[-1], color=charts.GREY, linestyle=":", label="all answers")
    if abstains and decided.any():
        own = 100 * decided.mean(), 100 * credit[decided > 0].mean()
        axes.plot(*own, "s", color=charts.ORANGE, label="where the model decides")
    axes.set(xlim=(0, 102), ylim=(0, 102))
    axes.set(xlabel="coverage: questions answered (%)", ylabel="accuracy where answered (%)")
    axes.set_title("Accuracy by coverage")
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    return figure
