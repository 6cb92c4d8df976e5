"""Objects that a model speaks of and that are not there: POPE and CHAIR."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vljax.config import UserError
from vljax.evaluation.metrics.checks import check_same_length


class Pope(NamedTuple):
    """Shares in [0, 1]; yes is the positive class."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_share: float


def says_yes(answer: str) -> bool:
    """Whether POPE takes an answer for a yes: unless its first sentence has "No", "no" or "not".

    Words are what single spaces separate, without commas: "no!" and "NO" are a yes, and so is an
    empty answer (`evaluate.py` of POPE, Li et al. 2023).

    >>> [says_yes(text) for text in ("No, there is none.", "There is not", "NO", "I see. No.", "")]
    [False, False, True, True, True]
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & {*words}


def pope(answers: Sequence[str], labels: Sequence[str]) -> Pope:
    """Accuracy, precision, recall and F1 of answers to questions whether an object is there.

    Quirk mended: if the model never says yes, or no object is there, the official script divides by
    zero; here the share is 0.

    >>> pope(["Yes.", "No.", "Yes"], ["yes", "no", "no"])
    Pope(accuracy=0.666..., precision=0.5, recall=1.0, f1=0.666..., yes_share=0.666...)

    Args:
      answers: what the model says (`says_yes`).
      labels: "yes" or "no".

    Raises:
      UserError: if there are no answers, the numbers differ, or a label is neither.
    """
    check_same_length(answers=answers, labels=labels)
    for i, label in enumerate(labels):
        if label not in ("yes", "no"):
            raise UserError(f"labels[{i}] is {label!r}; it must be 'yes' or 'no'")
    given = np.array([says_yes(answer) for answer in answers])
    right = np.array([label == "yes" for label in labels])
    hits = int((given & right).sum())
    precision = hits / max(int(given.sum()), 1)
    recall = hits / max(int(right.sum()), 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return Pope(float((given == right).mean()), precision, recall, f1, float(given.mean()))


_DOUBLE_WORDS = """
    motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light,
    fire hydrant, stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove,
    tennis racket, wine glass, hot dog, cell phone, mobile phone, teddy bear, hair drier,
    potted plant, laptop computer, stove top oven, home plate
"""
_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub"
# Words of two that count as one object; "baby bird" is not also a person. "wine glas" is what
# the official script's singular of "wine glasses" is.
_MERGED = (
    {" ".join(pair.split()): " ".join(pair.split()) for pair in _DOUBLE_WORDS.split(",")}
    | {f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS.split()}
    | {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
    | {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
)


def synonym_table(lines: Iterable[str]) -> dict[str, str]:
    """Word -> object, from lines such as "bus, minibus, trolley", whose first word is the object.

    `data/synonyms.txt` of the official repository is such a file. A word on two lines belongs to
    the later one, as officially.

    >>> synonym_table(["cat, kitten", "wine glass"])
    {'cat': 'cat', 'kitten': 'cat', 'wine glass': 'wine glass'}

    Raises:
      UserError: if there are no words.
    """
    rows = [line.strip().split(", ") for line in lines if line.strip()]
    if not rows:
        raise UserError("synonyms: there are none; give the lines of data/synonyms.txt")
    return {word: row[0] for row in rows for word in row}


def mentioned_objects(words: Sequence[str], synonyms: Mapping[str, str]) -> list[str]:
    """The objects that a caption mentions, once for each mention, in order.

    Pairs such as "fire hydrant" are read as one word, "baby bird" as "bird", and "seat" is not a
    chair in a caption with "toilet" (`caption_to_words` of the official `chair.py`).

    >>> table = synonym_table(["bird", "person, baby", "chair, seat", "toilet"])
    >>> mentioned_objects("a baby bird on a toilet with a seat".split(), table)
    ['bird', 'toilet']

    Args:
      words: of the caption, lower-cased and singular. The official script makes them with NLTK's
        `word_tokenize` and the `singularize` of the package pattern.
      synonyms: from `synonym_table`.

    Raises:
      UserError: if `words` is one text.
    """
    if isinstance(words, str):
        raise UserError(f"words: is one text, {words!r}; give its words, such as words.split()")
    merged: list[str] = []
    i = 0
    while i < len(words):
        pair = " ".join(words[i : i + 2])
        merged.append(_MERGED.get(pair, words[i]))
        i += 2 if pair in _MERGED else 1
    if "toilet" in merged:
        merged = [word for word in merged if word != "seat"]
    return [synonyms[word] for word in merged if word in synonyms]


class Chair(NamedTuple):
    """Share of captions, and of mentions, that are hallucinated; lower is better."""

    sentence: float
    """CHAIRs: captions with at least one object that is not there."""
    instance: float
    """CHAIRi: mentions of objects that are not there, of all mentions in the set; 0 without any."""
    hallucinated: Float[np.ndarray, " captions"]
    """1 for each caption that counts in `sentence`, else 0."""


def chair(mentions: Sequence[Sequence[str]], present: Sequence[AbstractSet[str]]) -> Chair:
    """CHAIR (Rohrbach et al. 2018): which mentioned objects are not in the image.

    >>> chair([["cat", "dog"], ["cat"]], [{"cat"}, {"cat", "sofa"}])
    Chair(sentence=0.5, instance=0.333..., hallucinated=array([1., 0.]))

    Args:
      mentions: the objects of each caption, from `mentioned_objects`.
      present: the objects in the image of each caption. Officially those of COCO's instances, by
        `synonyms`, and those that any reference caption mentions.

    Raises:
      UserError: if there are no captions, the numbers differ, or mentions are one text.
    """
    check_same_length(mentions=mentions, present=present)
    for i, words in enumerate(mentions):
        if isinstance(words, str):
            raise UserError(f"mentions[{i}]: is one text, {words!r}; give a sequence of objects")
    wrong = [
        [word not in there for word in words]
        for words, there in zip(mentions, present, strict=True)
    ]
    every = list(itertools.chain.from_iterable(wrong))
    hallucinated = np.array([any(of_one) for of_one in wrong], np.float64)
    return Chair(float(hallucinated.mean()), sum(every) / max(len(every), 1), hallucinated)
