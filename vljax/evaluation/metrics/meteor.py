"""METEOR of captions (Denkowski and Lavie 2014), as the official COCO caption scorer runs it.

Written from the papers and from the outputs of Meteor 1.5 (`-l en -norm`). The stemmer is the
English Snowball stemmer; WordNet synonyms and paraphrases are read from the files of the PyPI
package `pycocoevalcap`, where that is installed.
"""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vljax.config import UserError
from vljax.evaluation.metrics.captions import Caption, CaptionScore, tokenize_captions

_FREQUENT = (
    "the , . to of and a in that for \" is on 's it with was as said at he by be from have has are "
    "his but an this not i will ’ they ) -rrb- ( -lrb- who their had we which were been more or s "
    "its would about new one after you : also up when there than $ all out her people she year two "
    "- can if last first “ over other ” into some what so -- no time years could ? 't — '"
)
_FUNCTION_WORDS = frozenset(_FREQUENT.split())
# Names before which a period does not end a sentence.
_PREFIXES = frozenset(("v", "vs", "i.e", "rev", "e.g"))


def meteor(
    candidates: Sequence[Caption],
    references: Sequence[Sequence[Caption]],
    *,
    alpha: float = 0.85,
    beta: float = 0.2,
    gamma: float = 0.6,
    delta: float = 0.75,
    weights: Sequence[float] = (1.0, 0.6, 0.8, 0.6),
    beam: int = 40,
    tables: bool | None = None,
) -> CaptionScore:
    """METEOR 1.5, in [0, 1], with the parameters for English of Denkowski and Lavie 2014.

    Words of candidate and reference are aligned by equality, stem, WordNet synonyms and
    paraphrases. Of alignments that are equally good, another one may be taken than officially.
    The score is `F (1 - gamma (chunks / matches)^beta)`, with F a mean of weighted precision and
    recall. The reference with the best score counts, and the corpus score is computed from counts
    that are added up over the examples.

    Synonyms and paraphrases come from the files of `pycocoevalcap` (1.2; 104 MB). Without it, only
    the stages `exact` and `stem` run, and the result is named `METEOR (exact, stem)`: its scores
    are lower and do not compare with published ones.

    >>> score = meteor(["a dog runs on grass"], [["a dog runs"]], tables=False)
    >>> score.name, round(score.corpus, 4)
    ('METEOR (exact, stem)', 0.4774)

    Args:
      candidates: the caption to score, of each example.
      references: one or more captions to compare it with, of each example.
      alpha: the weight of recall in F.
      beta: the exponent of the fragmentation.
      gamma: the largest penalty for fragmentation.
      delta: the weight of content words; function words have `1 - delta`.
      weights: the weight of a match of each stage.
      beam: how many partial alignments are kept.
      tables: whether synonyms and paraphrases are used; by default, if they are installed.

    Raises:
      UserError: as `tokenize_captions` does, or if a package is needed that is not installed.
    """
    captions = tokenize_captions(candidates, references)
    if tables is None:
        tables = importlib.util.find_spec("pycocoevalcap") is not None
    # The separator of the official program, and one of two spaces, are taken from candidates.
    ours = [
        _normalize(" ".join(tokens).replace("|||", "").replace("  ", " "))
        for tokens in captions.candidates
    ]
    theirs = [[_normalize(" ".join(tokens)) for tokens in row] for row in captions.references]
    stem = _stemmer()
    words = {w for text in itertools.chain(ours, *theirs) for w in text}
    stems = {word: stem(word) for word in words}
    aligner = _Aligner(stems, tuple(weights), beam)
    if tables:
        aligner.senses = {word: senses for word in words if (senses := _wordnet().senses(word))}
        aligner.paraphrases = _paraphrases(ours, theirs)
    parameters = (alpha, beta, gamma, delta, tuple(weights))
    total = np.zeros(_Counts.size)
    scores = []
    for candidate, row in zip(ours, theirs, strict=True):
        best, best_counts = -1.0, np.zeros(_Counts.size)
        for reference in row:
            counts = aligner.counts(candidate, reference)
            score = _score(counts, *parameters)
            if score > best:
                best, best_counts = score, counts
        scores.append(best)
        if _is_perfect(best_counts):
            best_counts[_Counts.chunks] = 0  # officially, it adds none to the set's
        total += best_counts
    name = "METEOR" if tables else "METEOR (exact, stem)"
    return CaptionScore(name, _score(total, *parameters), np.array(scores))


class _Counts:
    """Where the counts of an alignment stand in an array."""

    lengths = slice(0, 2)
    """Words of candidate and reference."""
    function_words = slice(2, 4)
    content = slice(4, 12)
    """Matched content words: candidate and reference, of each stage."""
    function = slice(12, 20)
    """Matched function words, likewise."""
    chunks = 20
    matched = slice(21, 23)
    size = 23


def _score(
    counts: np.ndarray,
    alpha: float,
    beta: float,
    gamma: float,
    delta: float,
    weights: tuple[float, ...],
) -> float:
    """The score of counts, of one pair or added up."""
    lengths, function_words = counts[_Counts.lengths], counts[_Counts.function_words]
    total = delta * (lengths - function_words) + (1 - delta) * function_words
    content = counts[_Counts.content].reshape(-1, 2)
    function = counts[_Counts.function].reshape(-1, 2)
    weighted = np.array(weights) @ (delta * content + (1 - delta) * function)
    if not weighted.all():
        return 0.0
    precision, recall = (weighted / total).tolist()
    f_score = precision * recall / (alpha * precision + (1 - alpha) * recall)
    chunks, matched = float(counts[_Counts.chunks]), counts[_Counts.matched]
    if _is_perfect(counts):
        return f_score
    return f_score * (1 - gamma * (chunks / (float(matched.sum()) / 2)) ** beta)


def _is_perfect(counts: np.ndarray) -> bool:
    """Whether all words match in one chunk: then there is no penalty."""
    matched, lengths = counts[_Counts.matched], counts[_Counts.lengths]
    return bool(counts[_Counts.chunks] == 1 and (matched == lengths).all())


# ---------------------------------------------------------------- normalization

_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "„": '"', "`": "'"})


@lru_cache(maxsize=1 << 17)
def _normalize(text: str) -> tuple[str, ...]:
    """Words of a text, as the option `-norm` of the official program splits it."""
    text = f" {text.lower().translate(_QUOTES)} "
    text = re.sub(r"([\u2E80-\u9FFF\uAC00-\uD7AF\uF900-\uFAFF])", r" \1 ", text)
    text = re.sub(r"([^\w\s.',\-]|_)", r" \1 ", text)
    text = re.sub(r"([^\d]),", r"\1 , ", text)
    text = re.sub(r",([^\d])", r" , \1", text)
    text = re.sub(r"(?<=[^\W\d_])'(?=[^\W\d_])", " \u0000", text)
    text = re.sub(r"'", " ' ", text).replace("\u0000", "'")
    text = re.sub(r"(?<=\w)-+(?=\w)", " ", text)
    text = re.sub(r"(?<!\S)--+(?=\w)", "-", text)
    words = text.split()
    out: list[str] = []
    for index, word in enumerate(words):
        if len(word) > 1 and word.endswith(".") and not word.endswith(".."):
            prefix = word[:-1]
            following = words[index + 1] if index + 1 < len(words) else ""
            kept = (
                ("." in prefix and re.search(r"[^\W\d_]", prefix))
                or prefix in _PREFIXES
                or (prefix == "pp" and following[:1].isdigit())
                or "a" <= following[:1] <= "z"
            )
            if not kept:
                out += [prefix, "."]
                continue
        out.append(word)
    return tuple(out)


# -------------------------------------------------------------------- resources


def _stemmer() -> Callable[[str], str]:
    try:
        import snowballstemmer  # an extra
    except ModuleNotFoundError:
        raise UserError(
            "METEOR needs the package snowballstemmer; pip install 'vljax[captions-meteor]'"
        ) from None
    stem = snowballstemmer.stemmer("english").stemWord
    return lru_cache(maxsize=1 << 16)(stem)


def _folder() -> Path:
    """The folder of METEOR's files in the package pycocoevalcap."""
    found = importlib.util.find_spec("pycocoevalcap")
    folder = found and found.submodule_search_locations and found.submodule_search_locations[0]
    if not folder or not (Path(folder) / "meteor" / "meteor-1.5.jar").exists():
        raise UserError(
            "synonyms and paraphrases of METEOR are in the package pycocoevalcap; "
            "pip install 'vljax[captions-meteor]', or give tables=False"
        )
    return Path(folder) / "meteor"


@dataclass(frozen=True)
class _WordNet:
    synsets: dict[str, frozenset[str]]
    bases: dict[str, list[str]]
    """Base forms of irregular forms."""

    def senses(self, word: str) -> frozenset[str]:
        """Synsets of a word and of its base forms."""
        found = set(self.synsets.get(word, ()))
        for base in self.bases.get(word, ()):
            found |= self.synsets.get(base, frozenset())
        for ending, replacement in _ENDINGS:
            if word.endswith(ending):
                base = word[: len(word) - len(ending)] + replacement
                found |= self.synsets.get(base, frozenset())
        return frozenset(found)


# Inflections of nouns, verbs and adjectives that WordNet knows.
_ENDINGS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
    ("men", "man"), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""),
    ("ing", "e"), ("ing", ""), ("er", ""), ("est", ""), ("er", "e"), ("est", "e"),
)  # fmt: skip


@lru_cache(maxsize=1)
def _wordnet() -> _WordNet:
    with zipfile.ZipFile(_folder() / "meteor-1.5.jar") as jar:
        lines = jar.read("synonym/english.synsets").decode("utf-8").splitlines()
        exceptions = jar.read("synonym/english.exceptions").decode("utf-8").splitlines()
    synsets = {w: frozenset(s.split()) for w, s in zip(lines[::2], lines[1::2], strict=False)}
    bases = defaultdict(list)
    for base, forms in zip(exceptions[::2], exceptions[1::2], strict=False):
        for form in forms.split():
            bases[form].append(base)
    return _WordNet(synsets, dict(bases))


def _paraphrases(
    ours: Iterable[tuple[str, ...]], theirs: Iterable[Iterable[tuple[str, ...]]]
) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Pairs of phrases of the table that occur in the texts, in both directions.

    The table has five million pairs, of which a set of captions needs few: it is read in parts and
    only those are kept.
    """
    texts = set(ours) | {text for row in theirs for text in row}
    phrases = {
        " ".join(text[start:end]).encode()
        for text in texts
        for start in range(len(text))
        for end in range(start + 1, min(start + 7, len(text)) + 1)
    }
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    rest = b""
    with gzip.open(_folder() / "data" / "paraphrase-en.gz") as file:
        while part := file.read(1 << 24):
            lines = (rest + part).split(b"\n")
            whole = (len(lines) - 1) // 3 * 3
            rest = b"\n".join(lines[whole:])
            for one, other in zip(lines[1:whole:3], lines[2:whole:3], strict=True):
                if one in phrases and other in phrases:
                    a, b = tuple(one.decode().split(" ")), tuple(other.decode().split(" "))
                    # A pair that is listed in both directions is two matches, as it is officially.
                    found[a].append(b)
                    found[b].append(a)
    return dict(found)


# -------------------------------------------------------------------- alignment


class _Match(NamedTuple):
    theirs: int
    """Where it starts in the reference."""
    their_length: int
    ours: int
    """Where it starts in the candidate."""
    our_length: int
    stage: int


class _Path(NamedTuple):
    """A partial alignment, of the reference up to `position`."""

    rounded: int
    """Matched words of both sides, times the weights of their stages, rounded down."""
    chunks: int
    matched: int
    position: int
    end: int
    """Where the last match ends in the candidate, -1 if the last word has none."""
    our_words: int
    """Used words of the candidate, as bits."""
    their_words: int
    matches: tuple[_Match, ...]


@dataclass
class _Aligner:
    stems: dict[str, str]
    weights: tuple[float, ...]
    beam: int

    def __post_init__(self) -> None:
        self.senses: dict[str, frozenset[str]] = {}
        self.paraphrases: dict[tuple[str, ...], list[tuple[str, ...]]] = {}

    def counts(self, ours: tuple[str, ...], theirs: tuple[str, ...]) -> np.ndarray:
        """The counts of the best alignment."""
        counts = np.zeros(_Counts.size)
        matches = self._align(ours, theirs)
        function_ours = [word in _FUNCTION_WORDS for word in ours]
        function_theirs = [word in _FUNCTION_WORDS for word in theirs]
        counts[_Counts.lengths] = len(ours), len(theirs)
        counts[_Counts.function_words] = sum(function_ours), sum(function_theirs)
        end = (-1, -1)
        for match in matches:
            our_end = match.ours + match.our_length
            their_end = match.theirs + match.their_length
            for side, flags in enumerate(
                (function_ours[match.ours : our_end], function_theirs[match.theirs : their_end])
            ):
                function = sum(flags)
                counts[4 + 2 * match.stage + side] += len(flags) - function
                counts[12 + 2 * match.stage + side] += function
                counts[21 + side] += len(flags)
            counts[_Counts.chunks] += (match.ours, match.theirs) != end
            end = our_end, their_end
        return counts

    def _candidates(self, ours: tuple[str, ...], theirs: tuple[str, ...]) -> list[list[_Match]]:
        """All matches, by their start in the reference and in the order of the stages."""
        places: dict[str, list[int]] = defaultdict(list)
        by_stem: dict[str, list[int]] = defaultdict(list)
        for index, word in enumerate(ours):
            places[word].append(index)
            by_stem[self.stems[word]].append(index)
        with_senses = [(i, s) for i, w in enumerate(ours) if (s := self.senses.get(w))]
        matches = []
        for at, word in enumerate(theirs):
            row = [_Match(at, 1, index, 1, 0) for index in places.get(word, ())]
            row += [
                _Match(at, 1, index, 1, 1)
                for index in by_stem.get(self.stems[word], ())
                if ours[index] != word
            ]
            if (senses := self.senses.get(word)) is not None:
                row += [
                    _Match(at, 1, index, 1, 2)
                    for index, other in with_senses
                    if ours[index] != word and not senses.isdisjoint(other)
                ]
            matches.append(row)
        if self.paraphrases:
            phrases: dict[tuple[str, ...], list[int]] = defaultdict(list)
            for start in range(len(ours)):
                for end in range(start + 1, min(start + 7, len(ours)) + 1):
                    phrases[ours[start:end]].append(start)
            for start in range(len(theirs)):
                for end in range(start + 1, min(start + 7, len(theirs)) + 1):
                    for other in self.paraphrases.get(theirs[start:end], ()):
                        matches[start] += [
                            _Match(start, end - start, at, len(other), 3)
                            for at in phrases.get(other, ())
                        ]
        return matches

    def _align(self, ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[_Match, ...]:
        """The matches of the best alignment, by a beam search over the reference."""
        matches = self._candidates(ours, theirs)
        covered_ours, covered_theirs = [0] * len(ours), [0] * len(theirs)
        for match in itertools.chain.from_iterable(matches):
            for index in range(match.ours, match.ours + match.our_length):
                covered_ours[index] += 1
            for index in range(match.theirs, match.theirs + match.their_length):
                covered_theirs[index] += 1
        # Matches without an alternative are taken before the search.
        fixed: dict[int, _Match] = {}
        used_ours = used_theirs = 0
        for at, row in enumerate(matches):
            if len(row) != 1:
                continue
            match = row[0]
            our_counts = covered_ours[match.ours : match.ours + match.our_length]
            their_counts = covered_theirs[match.theirs : match.theirs + match.their_length]
            if max(our_counts) == 1 and max(their_counts) == 1:
                fixed[at] = match
                used_ours |= ((1 << match.our_length) - 1) << match.ours
                used_theirs |= ((1 << match.their_length) - 1) << match.theirs
        if sum(map(len, matches)) == len(fixed):
            return tuple(fixed.values())
        paths = [_Path(0, 0, 0, 0, -1, used_ours, used_theirs, ())]
        for at in range(len(theirs)):
            following = []
            for path in sorted(paths, key=_rank)[: self.beam]:
                if at in fixed:
                    following.append(self._extended(path, fixed[at], 0, 0))
                    continue
                if path.position > at:
                    following.append(path)
                    continue
                for match in matches[at]:
                    our_words = ((1 << match.our_length) - 1) << match.ours
                    their_words = ((1 << match.their_length) - 1) << match.theirs
                    if not path.our_words & our_words and not path.their_words & their_words:
                        following.append(self._extended(path, match, our_words, their_words))
                following.append(path._replace(position=at + 1, end=-1))
            paths = following
        return min(paths, key=_rank).matches

    def _extended(self, path: _Path, match: _Match, our_words: int, their_words: int) -> _Path:
        weight = self.weights[match.stage]
        return _Path(
            path.rounded + int(weight * match.our_length) + int(weight * match.their_length),
            path.chunks + (match.ours != path.end),
            path.matched + match.our_length + match.their_length,
            match.theirs + match.their_length,
            match.ours + match.our_length,
            path.our_words | our_words,
            path.their_words | their_words,
            (*path.matches, match),
        )


def _rank(path: _Path) -> tuple[int, int, int]:
    return -path.rounded, path.chunks, -path.matched
