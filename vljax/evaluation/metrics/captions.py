"""Caption metrics: BLEU, ROUGE-L and CIDEr-D, each equal to the official COCO caption scorer.

The official scorer is `pycocoevalcap` (1.2 on PyPI). Its variants differ from the papers; each
difference is an argument here, and the default is the official one. METEOR stands in `meteor`.

Every metric reads `candidates`, one caption for each example, and `references`, a sequence of one
or more captions for each example, by position. A caption is a text, which `ptb_tokenize` splits as
the official scorer does, or a sequence of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from vljax.config import UserError
from vljax.evaluation.metrics.checks import check_choice
from vljax.evaluation.metrics.ptb import ptb_tokenize

Caption = str | Sequence[str]
"""A text, or its tokens."""
_PLAIN = frozenset((str, tuple, list))
"""Types of captions that need no further look: to ask for any sequence takes far longer."""


@dataclass(frozen=True)
class CaptionScore:
    """The score of a set of captions, and of each caption, for intervals and paired comparisons."""

    name: str
    """The metric, with its variant where that is not the official one."""
    corpus: float
    """The score of the whole set. For BLEU and METEOR it is not the mean over the examples."""
    examples: Float[np.ndarray, " examples"]
    """The score of each example."""


@dataclass(frozen=True)
class TokenizedCaptions:
    """Tokens of candidates and references, for several metrics over the same captions."""

    candidates: list[tuple[str, ...]]
    """Tokens of the candidate of each example."""
    references: list[list[tuple[str, ...]]]
    """Tokens of each reference of each example."""


def tokenize_captions(
    candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]
) -> TokenizedCaptions:
    """Checks captions and splits those that are texts into tokens, once for all metrics.

    >>> captions = tokenize_captions(["A dog."], [["The dog!", "A puppy"]])
    >>> captions.candidates, captions.references
    ([('a', 'dog')], [[('the', 'dog'), ('a', 'puppy')]])

    Args:
      candidates: the caption to score, of each example.
      references: one or more captions to compare it with, of each example.

    Raises:
      UserError: if there are no candidates, an example has no candidate or no references, or a
        caption is neither a text nor a sequence.
    """
    for given, name in ((candidates, "candidates"), (references, "references")):
        if isinstance(given, Mapping) or not hasattr(given, "__len__"):
            raise UserError(
                f"{name}: is a {type(given).__name__}; give a sequence with an entry for each "
                "example, by position"
            )
    if isinstance(candidates, str):
        raise UserError("candidates: is one text; give a sequence with a caption for each example")
    if not len(candidates):
        raise UserError("candidates: there are no predictions to score; give at least one caption")
    for index, captions in enumerate(references[: len(candidates)]):
        if isinstance(captions, str):
            raise UserError(
                f"references: those of example {index} are one text; give a sequence of captions"
            )
        if not len(captions):
            raise UserError(
                f"references: example {index} has none; give it at least one or leave it out"
            )
    if len(references) > len(candidates):
        raise UserError(
            f"candidates: example {len(candidates)} has references without a prediction "
            f"({len(candidates)} candidates, references of {len(references)} examples); "
            "give one caption for each example"
        )
    if len(candidates) > len(references):
        raise UserError(
            f"references: example {len(references)} has none ({len(candidates)} candidates, "
            f"references of {len(references)} examples); give at least one for each example"
        )
    flat = list(chain.from_iterable(references))
    if not _PLAIN.issuperset(map(type, flat)):
        for index, captions in enumerate(references):
            _check_captions(captions, f"references[{index}]")
    if not _PLAIN.issuperset(map(type, candidates)):
        _check_captions(candidates, "candidates")
    tokens = iter(_tokens(flat))
    return TokenizedCaptions(
        _tokens(candidates), [list(islice(tokens, len(captions))) for captions in references]
    )


def bleu(
    candidates: Sequence[Caption],
    references: Sequence[Sequence[Caption]],
    *,
    max_order: int = 4,
    reference_length: Literal["closest", "shortest", "average"] = "closest",
    tiny: float = 1e-15,
    small: float = 1e-9,
) -> tuple[CaptionScore, ...]:
    """BLEU-1 to BLEU-`max_order`, in [0, 1]: Papineni et al. 2002, as the COCO scorer computes it.

    The score is the geometric mean of clipped n-gram precisions of orders 1 to n, times
    `exp(1 - r / c)` if the c words of the candidates are fewer than the r of the references. The
    corpus score adds up counts over all examples before it divides.

    >>> scores = bleu(["a dog runs on grass"], [["a dog runs", "the dog runs on the grass"]])
    >>> [(score.name, round(score.corpus, 4)) for score in scores[:2]]
    [('BLEU-1', 0.8187), ('BLEU-2', 0.709)]

    Quirks of the official scorer (`pycocoevalcap.bleu`), which are the defaults:

    - `reference_length`: r adds up the reference length closest to each candidate, the shorter
      one of two that are equally close.
    - `tiny` and `small`: a precision of m of n is `(m + tiny) / (n + small)`, and `c / r` likewise.
      So no score is exactly 0 or 1, and an example without a 4-gram still has a BLEU-4.

    Args:
      candidates: the caption to score, of each example.
      references: one or more captions to compare it with, of each example.
      max_order: the longest n-grams that count.
      reference_length: which length of several references counts.
      tiny: what is added to numerators.
      small: what is added to denominators.

    Returns:
      One score for each order, from 1.

    Raises:
      UserError: as `tokenize_captions` does.
    """
    check_choice(reference_length, "reference_length", "closest", "shortest", "average")
    _check_order(max_order)
    captions = tokenize_captions(candidates, references)
    grams = _Ngrams(captions, max_order)
    examples = len(captions.candidates)
    lengths = grams.lengths[:examples].astype(np.float64)
    nearest = _reference_lengths(grams, reference_length)
    matched = np.empty((max_order, examples))
    possible = np.empty((max_order, examples))
    for order in range(max_order):
        counts = grams.counts[order]
        ours = np.searchsorted(counts.key, examples * counts.kinds)
        example, gram = np.divmod(counts.key[ours:], counts.kinds)
        key = grams.example_of_reference[example - examples] * counts.kinds + gram
        ordered, first = _grouped(key)
        at = np.flatnonzero(first)
        most = np.maximum.reduceat(counts.count[ours:][ordered], at) if len(at) else key
        clipped = np.minimum(
            counts.count[:ours], _look_up(key[ordered[at]], most, counts.key[:ours])
        )
        example = counts.key[:ours] // counts.kinds
        matched[order] = np.bincount(example, clipped, minlength=examples)
        possible[order] = np.maximum(0, lengths - order)
    each = _bleu(matched, possible, lengths, nearest, tiny, small)
    total = _bleu(
        matched.sum(axis=1, keepdims=True),
        possible.sum(axis=1, keepdims=True),
        lengths.sum(keepdims=True),
        nearest.sum(keepdims=True),
        tiny,
        small,
    )
    return tuple(
        CaptionScore(f"BLEU-{order + 1}", float(total[order, 0]), each[order])
        for order in range(max_order)
    )


def _check_order(max_order: int) -> None:
    if max_order < 1:
        raise UserError(f"max_order: must be at least 1, got {max_order}")


def _reference_lengths(grams: _Ngrams, which: str) -> Float[np.ndarray, " examples"]:
    """The length of the references that counts, of each example."""
    several = np.bincount(grams.example_of_reference)
    first = np.cumsum(several) - several
    lengths = grams.lengths[len(several) :]
    if which == "average":
        return np.add.reduceat(lengths, first) / several
    if which == "shortest":
        return np.minimum.reduceat(lengths, first).astype(np.float64)
    # The least difference, then the least length.
    distance = np.abs(lengths - grams.lengths[grams.example_of_reference])
    width = int(lengths.max()) + 1
    return (np.minimum.reduceat(distance * width + lengths, first) % width).astype(np.float64)


def _bleu(
    matched: Float[np.ndarray, "orders sets"],
    possible: Float[np.ndarray, "orders sets"],
    length: Float[np.ndarray, " sets"],
    reference_length: Float[np.ndarray, " sets"],
    tiny: float,
    small: float,
) -> Float[np.ndarray, "orders sets"]:
    """BLEU of each order, from counts."""
    product = np.cumprod((matched + tiny) / (possible + small), axis=0)
    ratio = (length + tiny) / (reference_length + small)
    penalty = np.array([math.exp(1 - 1 / r) if r < 1 else 1.0 for r in ratio.tolist()])
    roots = [[p ** (1 / (order + 1)) for p in row] for order, row in enumerate(product.tolist())]
    return np.array(roots) * penalty


def rouge_l(
    candidates: Sequence[Caption],
    references: Sequence[Sequence[Caption]],
    *,
    beta: float = 1.2,
    best: Literal["separate", "together"] = "separate",
    empty_matches_empty: bool = True,
) -> CaptionScore:
    """ROUGE-L, in [0, 1]: Lin 2004, as the COCO scorer computes it.

    Precision and recall are the length of the longest common subsequence over the lengths of
    candidate and reference. Their F-score is `(1 + beta^2) P R / (R + beta^2 P)`, and the corpus
    score is the mean over the examples.

    >>> score = rouge_l(["a dog runs"], [["the dog runs fast", "a dog"]])
    >>> round(score.corpus, 4)
    0.8299

    Quirks of the official scorer (`pycocoevalcap.rouge`), which are the defaults:

    - `best="separate"`: the largest precision and the largest recall over the references enter,
      even if they come from different references. `"together"` takes the best F-score of one.
    - `empty_matches_empty`: a caption without tokens counts as one empty token, so that it equals a
      reference without tokens. Otherwise it scores 0.
    - A telephone number or a mixed fraction is one token, unlike in BLEU and CIDEr-D.

    Args:
      candidates: the caption to score, of each example.
      references: one or more captions to compare it with, of each example.
      beta: the weight of recall.
      best: how several references enter.
      empty_matches_empty: whether empty captions equal each other.

    Raises:
      UserError: as `tokenize_captions` does.
    """
    check_choice(best, "best", "separate", "together")
    captions = tokenize_captions(candidates, references)
    nothing: tuple[str, ...] = ("",) if empty_matches_empty else ()
    scores = []
    for candidate, several in zip(captions.candidates, captions.references, strict=True):
        tokens = candidate or nothing
        positions = _positions(tokens)
        pairs = []
        for reference in several:
            other = reference or nothing
            common = _common_subsequence(positions, len(tokens), other)
            pairs.append((common / max(1, len(tokens)), common / max(1, len(other))))
        if best == "separate":
            pairs = [(max(precision for precision, _ in pairs), max(recall for _, recall in pairs))]
        scores.append(max(_f_score(precision, recall, beta) for precision, recall in pairs))
    examples = np.array(scores)
    return CaptionScore("ROUGE-L", float(np.mean(examples)), examples)


def _f_score(precision: float, recall: float, beta: float) -> float:
    if not precision or not recall:
        return 0.0
    return ((1 + beta**2) * precision * recall) / (recall + beta**2 * precision)


def _positions(tokens: Sequence[str]) -> dict[str, int]:
    """For each token, the set of its positions, as the bits of an integer."""
    positions: dict[str, int] = {}
    for index, token in enumerate(tokens):
        positions[token] = positions.get(token, 0) | 1 << index
    return positions


def _common_subsequence(positions: dict[str, int], length: int, other: Sequence[str]) -> int:
    """Length of the longest common subsequence (Hyyro 2004), of a text given by its `positions`."""
    row = full = (1 << length) - 1
    for token in other:
        found = row & positions.get(token, 0)
        row = (row + found | row - found) & full
    return length - row.bit_count()


def cider_d(
    candidates: Sequence[Caption],
    references: Sequence[Sequence[Caption]],
    *,
    max_order: int = 4,
    sigma: float = 6.0,
    clip: bool = True,
) -> CaptionScore:
    """CIDEr-D, in [0, 10]: Vedantam et al. 2015, as the COCO scorer computes it.

    The mean over references, and over n-grams of order 1 to 4, of the cosine between TF-IDF vectors
    of candidate and reference, times `exp(-d^2 / (2 sigma^2))` for a difference d of their lengths,
    times 10. The corpus score is the mean over the examples.

    >>> candidates = ["a dog runs on grass", "a red car"]
    >>> references = [["a dog runs on the grass"], ["a red car", "the car is red"]]
    >>> score = cider_d(candidates, references)
    >>> round(score.corpus, 4), score.examples.round(4).tolist()
    (5.653, [6.5494, 4.7565])

    Quirks of the official scorer (`pycocoevalcap.cider`), which are the defaults:

    - The document frequencies are those of the references that are given. So the score of a caption
      depends on the set, and with one example every score is 0.
    - The lengths of the penalty count bigrams, one less than the words. Their difference is the
      same, except for empty captions, whose score is 0 either way.
    - `clip`: a weight of the candidate counts at most as much as that of the reference.

    Args:
      candidates: the caption to score, of each example.
      references: one or more captions to compare it with, of each example.
      max_order: the longest n-grams that count.
      sigma: the width of the length penalty.
      clip: whether weights of the candidate are clipped.

    Raises:
      UserError: as `tokenize_captions` does.
    """
    _check_order(max_order)
    if not sigma > 0:
        raise UserError(f"sigma: must be above 0, got {sigma}")
    captions = tokenize_captions(candidates, references)
    grams = _Ngrams(captions, max_order)
    examples, texts = len(captions.candidates), len(grams.lengths)
    example = grams.example_of_reference
    log_examples = np.log(float(examples))
    sizes = np.maximum(0, grams.lengths - 1)
    difference = sizes[example] - sizes[examples:]
    # A table, since NumPy's power and that of Python differ in the last bit.
    penalties = {d: math.e ** (-(float(d) ** 2) / (2 * sigma**2)) for d in set(difference.tolist())}
    penalty = np.array([penalties[d] for d in difference.tolist()])
    scores = np.zeros((examples, max_order))
    for order in range(max_order):
        counts = grams.counts[order]
        text, gram = np.divmod(counts.key, counts.kinds)
        ours = np.searchsorted(text, examples)
        # In how many examples each n-gram occurs among the references.
        occurs = example[text[ours:] - examples] * counts.kinds + gram[ours:]
        ordered, first = _grouped(occurs)
        frequency = np.bincount(gram[ours:][ordered[first]], minlength=counts.kinds)
        inverse = log_examples - np.log(np.maximum(1.0, frequency))
        weight = counts.count * inverse[gram]
        # `bincount` adds in the order of the entries, here that of the official scorer.
        entries = counts.by_occurrence
        norm = np.sqrt(np.bincount(text[entries], weight[entries] ** 2, minlength=texts))
        # Each n-gram of a candidate, beside each of its references.
        number = np.bincount(text[:ours], minlength=examples)
        starts, number = (np.cumsum(number) - number)[example], number[example]
        pair = np.repeat(np.arange(len(example)), number)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(number) - number, number)
        mine = entries[np.repeat(starts, number) + within]
        theirs = _look_up(
            counts.key[ours:], weight[ours:], (examples + pair) * counts.kinds + gram[mine]
        )
        product = (np.minimum(weight[mine], theirs) if clip else weight[mine]) * theirs
        value = np.bincount(pair, product, minlength=len(example)).astype(np.float64)
        norms = norm[example] * norm[examples:]
        value = np.divide(value, norms, out=value, where=norms != 0) * penalty
        scores[:, order] = np.bincount(example, value, minlength=examples)
    per_example = scores.mean(axis=1) / np.bincount(example, minlength=examples) * 10.0
    return CaptionScore("CIDEr-D", float(np.mean(per_example)), per_example)


@dataclass(frozen=True)
class _Counts:
    """How often each n-gram of one order occurs in each text, by text and n-gram."""

    key: Int[np.ndarray, " entries"]
    """`text * kinds + gram`, increasing."""
    count: Int[np.ndarray, " entries"]
    by_occurrence: Int[np.ndarray, " entries"]
    """The entries by text and first occurrence."""
    kinds: int
    """How many different n-grams there are, at least 1."""


class _Ngrams:
    """N-grams of all captions: first the candidates, then the references in order."""

    def __init__(self, captions: TokenizedCaptions, max_order: int) -> None:
        texts = [*captions.candidates, *chain.from_iterable(captions.references)]
        numbers = _numbered(chain.from_iterable(texts))
        # A token can have no-break spaces inside, and the official BLEU and CIDEr-D split it there.
        if split := {token for token in numbers if token.split() != [token]}:
            texts = [
                text if split.isdisjoint(text) else tuple(" ".join(text).split()) for text in texts
            ]
            numbers = _numbered(chain.from_iterable(texts))
        flat = list(chain.from_iterable(texts))
        ids = np.fromiter(map(numbers.__getitem__, flat), np.int64, len(flat))
        self.lengths: Int[np.ndarray, " texts"] = np.array(list(map(len, texts)), np.int64)
        several = np.array(list(map(len, captions.references)))
        self.example_of_reference: Int[np.ndarray, " references"] = np.repeat(
            np.arange(len(several)), several
        )
        text = np.repeat(np.arange(len(texts)), self.lengths)
        remaining = np.repeat(np.cumsum(self.lengths), self.lengths) - np.arange(len(ids))
        self.counts: list[_Counts] = []
        grams, kinds = ids, max(1, len(numbers))
        for order in range(1, max_order + 1):
            starts = np.flatnonzero(remaining >= order)
            if order > 1:
                # An n-gram is the one before it that is shorter by a word, and the last word.
                key = grams[starts] * max(1, len(numbers)) + ids[starts + order - 1]
                ordered, first = _grouped(key, by_text=False)
                grams = np.zeros(len(ids), np.int64)
                grams[starts[ordered]] = np.cumsum(first) - 1
                kinds = max(1, int(np.count_nonzero(first)))
            key = text[starts] * kinds + grams[starts]
            ordered, first = _grouped(key)
            at = np.flatnonzero(first)
            count = np.diff(at, append=len(key))
            self.counts.append(
                _Counts(key[ordered[at]], count, np.argsort(ordered[at], kind="stable"), kinds)
            )


def _numbered(words: Iterable[str]) -> dict[str, int]:
    """The words, each once, with numbers from 0."""
    return {word: number for number, word in enumerate(dict.fromkeys(words))}


def _grouped(
    key: Int[np.ndarray, " entries"], *, by_text: bool = True
) -> tuple[Int[np.ndarray, " entries"], Bool[np.ndarray, " entries"]]:
    """The order by key and position, and which entries are the first of their key in it.

    `by_text`: keys of one text or example stand together, and those of the next are greater.
    """
    bits = len(key).bit_length()
    if not by_text and len(key) and int(key.max()).bit_length() + bits < 63:
        # Several times faster than to sort positions by key, except where keys stand nearly in
        # order: from that the stable sort gains more.
        packed = np.sort(key << bits | np.arange(len(key)))
        ordered, key = packed & ((1 << bits) - 1), packed >> bits
    else:
        ordered = np.argsort(key, kind="stable")
        key = key[ordered]
    first = np.ones(len(key), bool)
    first[1:] = key[1:] != key[:-1]
    return ordered, first


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 for those that are not among the ordered `keys`."""
    if not len(keys):
        return np.zeros(len(wanted), values.dtype)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def _check_captions(captions: Sequence[Caption], name: str) -> None:
    for index, caption in enumerate(captions):
        if not isinstance(caption, str | Sequence):
            raise UserError(
                f"{name}[{index}]: is {caption!r}; a caption is a text or a sequence of tokens"
            )


def _tokens(captions: Sequence[Caption]) -> list[tuple[str, ...]]:
    kinds = set(map(type, captions))
    if all(issubclass(kind, str) for kind in kinds):
        return ptb_tokenize([str(caption) for caption in captions])
    if any(issubclass(kind, str) for kind in kinds):
        return [
            ptb_tokenize([caption])[0] if isinstance(caption, str) else tuple(caption)
            for caption in captions
        ]
    return list(map(tuple, captions))
