"""METEOR of captions (Denkowski and Lavie 2014), as the official COCO caption scorer runs it.

Written from the papers and from the outputs of Meteor 1.5 (`-l en -norm`). The stemmer is the
English Snowball stemmer; WordNet synonyms and paraphrases are read from the files of the PyPI
package `pycocoevalcap`, where that is installed.
"""

from __future__ import annotations

import importlib.util
import itertools
import operator
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

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
    are lower and do not compare with published ones. The first call in a process reads the table of
    paraphrases, which takes a few seconds, and keeps 84 MB of it.

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
      UserError: as `tokenize_captions` does; if `beam` is below 1 or `weights` are not four; or if
        a package is needed that is not installed.
    """
    if beam < 1:
        raise UserError(f"beam: must be at least 1, got {beam}")
    if len(weights) != 4:
        raise UserError(f"weights: must be 4, one for each stage, got {len(weights)}")
    captions = tokenize_captions(candidates, references)
    if tables is None:
        tables = importlib.util.find_spec("pycocoevalcap") is not None
    # The separator of the official program, and one of two spaces, are taken from candidates.
    ours = [
        _normalize(" ".join(tokens).replace("|||", "").replace("  ", " "))
        for tokens in captions.candidates
    ]
    theirs = [[_normalize(" ".join(tokens)) for tokens in row] for row in captions.references]
    texts = list(dict.fromkeys(itertools.chain(ours, *theirs)))
    words = dict.fromkeys(itertools.chain.from_iterable(texts))
    senses = _wordnet().senses if tables else None
    aligner = _Aligner(_related(words, _stemmer(), senses), tuple(weights), beam)
    if tables:
        aligner.phrases, aligner.paraphrases = _paraphrases(texts)
    counts = np.array(
        [
            counts
            for candidate, row in zip(ours, theirs, strict=True)
            for counts in aligner.counts(candidate, row)
        ],
        np.float64,
    )
    matched = counts[:, _Counts.content] + counts[:, _Counts.function]
    counts[:, _Counts.matched] = matched.reshape(len(counts), -1, 2).sum(axis=1)
    parameters = (alpha, beta, gamma, delta, tuple(weights))
    scores = _scores(counts, *parameters)
    ends = np.cumsum([len(row) for row in theirs]).tolist()
    # The first of the references with the best score.
    best = [
        begin + int(scores[begin:end].argmax()) for begin, end in itertools.pairwise([0, *ends])
    ]
    examples, counts = scores[best], counts[best]
    counts[_is_perfect(counts), _Counts.chunks] = 0  # officially, they add none to the set's
    corpus = float(_scores(counts.sum(axis=0, keepdims=True), *parameters)[0])
    return CaptionScore("METEOR" if tables else "METEOR (exact, stem)", corpus, examples)


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


def _scores(
    counts: Float[np.ndarray, "sets counts"],
    alpha: float,
    beta: float,
    gamma: float,
    delta: float,
    weights: tuple[float, ...],
) -> Float[np.ndarray, " sets"]:
    """The score of each row of counts, of one pair or added up."""
    lengths, function_words = counts[:, _Counts.lengths], counts[:, _Counts.function_words]
    total = delta * (lengths - function_words) + (1 - delta) * function_words
    content = counts[:, _Counts.content].reshape(len(counts), -1, 2)
    function = counts[:, _Counts.function].reshape(len(counts), -1, 2)
    weighted = np.array(weights) @ (delta * content + (1 - delta) * function)
    some = weighted.all(axis=1)
    precision, recall = (weighted[some] / total[some]).T
    f_score = precision * recall / (alpha * precision + (1 - alpha) * recall)
    mean_matched = counts[some, _Counts.matched].sum(axis=1) / 2
    penalty = gamma * (counts[some, _Counts.chunks] / mean_matched) ** beta
    scores = np.zeros(len(counts))
    scores[some] = f_score * (1 - np.where(_is_perfect(counts[some]), 0.0, penalty))
    return scores


def _is_perfect(counts: Float[np.ndarray, "sets counts"]) -> Bool[np.ndarray, " sets"]:
    """Whether all words match in one chunk: then there is no penalty."""
    whole = (counts[:, _Counts.matched] == counts[:, _Counts.lengths]).all(axis=1)
    return whole & (counts[:, _Counts.chunks] == 1)


# ---------------------------------------------------------------- normalization

_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "„": '"', "`": "'"})


_UNMARKED = re.compile("[a-z0-9 ]*")


@lru_cache(maxsize=1 << 17)
def _normalize(text: str) -> tuple[str, ...]:
    """Words of a text, as the option `-norm` of the official program splits it."""
    if _UNMARKED.fullmatch(text):
        return tuple(text.split())
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
    synsets: dict[str, str]
    """Word -> the numbers of its synsets, separated by spaces."""
    bases: dict[str, list[str]]
    """Base forms of irregular forms."""

    def senses(self, word: str) -> set[str]:
        """Synsets of a word and of its base forms."""
        forms = [word, *self.bases.get(word, ())]
        for ending, replacement in _ENDINGS:
            if word.endswith(ending):
                forms.append(word[: len(word) - len(ending)] + replacement)
        return {sense for form in forms for sense in self.synsets.get(form, "").split()}


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
    synsets = dict(zip(lines[::2], lines[1::2], strict=False))
    bases = defaultdict(list)
    for base, forms in zip(exceptions[::2], exceptions[1::2], strict=False):
        for form in forms.split():
            bases[form].append(base)
    return _WordNet(synsets, dict(bases))


_Phrases = dict[tuple[str, ...], list[tuple[int, int, int]]]
"""Text -> start, number of words and hash of its phrases, in this order."""
_Paraphrases = dict[int, dict[int, list[int]]]
"""Phrase -> paraphrases -> where in the table the two stand. Phrases are given by their hashes."""


def _paraphrases(texts: Iterable[tuple[str, ...]]) -> tuple[_Phrases, _Paraphrases]:
    """The phrases of each text that have paraphrases in some text, and these paraphrases."""
    texts = [text for text in texts if text]
    # All phrases of up to 7 words, each from its first to its last word, and as bytes of a buffer.
    buffer = "".join(f"{' '.join(text)}\n" for text in texts).encode("utf-8", "surrogatepass")
    ends = np.flatnonzero(np.isin(np.frombuffer(buffer, np.uint8), (10, 32)))
    starts = np.append(0, ends + 1)[:-1]
    lengths = np.array([len(text) for text in texts], np.int64)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(starts))
    begin = [np.flatnonzero(left > more) for more in range(7)]
    first = np.concatenate(begin)
    last = np.concatenate([words + more for more, words in enumerate(begin)])
    hashes = _hashes(buffer, starts[first], ends[last])
    # Most pairs of the table are ruled out by 24 bits of their hashes.
    possible = np.zeros(1 << 24, bool)
    possible[hashes >> _SHIFT] = True
    table = _table()
    pairs = table[:, possible[table[0] >> _SHIFT] & possible[table[1] >> _SHIFT]]
    possible[:] = False
    possible[pairs >> _SHIFT] = True
    used = np.flatnonzero(possible[hashes >> _SHIFT])
    pairs = pairs[:, np.isin(pairs, hashes[used]).all(axis=0)]
    used = used[np.isin(hashes[used], pairs)]
    used = used[np.lexsort((last[used], first[used]))]
    begins = np.cumsum(lengths) - lengths
    number = np.searchsorted(begins, first[used], side="right") - 1
    starts, sizes = first[used] - begins[number], last[used] - first[used] + 1
    rows = list(zip(starts.tolist(), sizes.tolist(), hashes[used].tolist(), strict=True))
    ends = np.searchsorted(number, np.arange(len(texts)), side="right").tolist()
    phrases = {
        text: rows[begin:end]
        for text, (begin, end) in zip(texts, itertools.pairwise([0, *ends]), strict=True)
    }
    found: _Paraphrases = defaultdict(lambda: defaultdict(list))
    for place, (one, other) in enumerate(pairs.T.tolist()):
        # A pair that is listed in both directions is two matches, as it is officially.
        found[one][other].append(place)
        found[other][one].append(place)
    return phrases, found


_SHIFT = np.uint64(40)


@lru_cache(maxsize=1)
def _table() -> UInt64[np.ndarray, "2 pairs"]:
    """Hashes of the five million pairs of phrases that are paraphrases (84 MB)."""
    hashes: list[list[np.ndarray]] = [[], []]
    path = _folder() / "data" / "paraphrase-en.gz"
    # One thread decompresses while the other computes hashes.
    with path.open("rb") as file, ThreadPoolExecutor(1) as pool:
        gzip, rest = zlib.decompressobj(wbits=31), b""

        def read() -> bytes:
            return gzip.decompress(file.read(1 << 19))

        following = pool.submit(read)
        while part := following.result():
            following = pool.submit(read)
            part = rest + part
            lines = np.flatnonzero(np.frombuffer(part, np.uint8) == ord("\n"))
            # A probability, a phrase and another one, a line each.
            ends = lines[: len(lines) // 3 * 3].reshape(-1, 3)
            rest = part[ends[-1, -1] + 1 :] if len(ends) else part
            for i in (0, 1):
                hashes[i].append(_hashes(part, ends[:, i] + 1, ends[:, i + 1]))
    table = np.empty((2, sum(map(len, hashes[0]))), np.uint64)
    for one, row in zip(hashes, table, strict=True):
        np.concatenate(one, out=row)
    return table


def _hashes(
    buffer: bytes, starts: Int[np.ndarray, " parts"], ends: Int[np.ndarray, " parts"]
) -> UInt64[np.ndarray, " parts"]:
    """A hash of each part of a buffer. Parts with the same 64 bits are taken to be equal."""
    # Eight bytes from any position on, as an integer.
    eight = np.ndarray(len(buffer) + 1, "<u8", buffer + bytes(8), strides=(1,))
    left = ends - starts
    hashes = _mixed(left.astype(np.uint64) * _MULTIPLIER, eight[starts], left)
    live = np.flatnonzero(left > 8)
    at, left, own = starts[live] + 8, left[live] - 8, hashes[live]
    while len(live):
        hashes[live] = own = _mixed(own, eight[at], left)
        more = np.flatnonzero(left > 8)
        at, left, live, own = at[more] + 8, left[more] - 8, live[more], own[more]
    return hashes


def _mixed(
    hashes: UInt64[np.ndarray, " parts"],
    eight: UInt64[np.ndarray, " parts"],
    left: Int[np.ndarray, " parts"],
) -> UInt64[np.ndarray, " parts"]:
    """The hashes with up to eight more bytes, of which only the first `left` are of the part."""
    mixed = (hashes ^ (eight & _MASKS[np.minimum(left, 8)])) * _MULTIPLIER
    return mixed ^ (mixed >> np.uint64(32))


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)


def _related(
    words: Iterable[str], stem: Callable[[str], str], senses: Callable[[str], set[str]] | None
) -> dict[str, dict[str, tuple[int, ...]]]:
    """For each word, the words that it matches and the stages at which: equal, stem, synonym."""
    stems, synonyms = defaultdict(list), defaultdict(list)
    related: dict[str, dict[str, tuple[int, ...]]] = {word: {word: (0,)} for word in words}
    of_word = {word: senses(word) for word in related} if senses else {}
    for word in related:
        stems[stem(word)].append(word)
    for word, own in of_word.items():
        for sense in own:
            synonyms[sense].append(word)
    for word, others in related.items():
        for other in stems[stem(word)]:
            others.setdefault(other, (1,))
        for other in {other for sense in of_word.get(word, ()) for other in synonyms[sense]}:
            if other != word:
                others[other] = (*others.get(other, ()), 2)
    return related


# -------------------------------------------------------------------- alignment


class _Match(NamedTuple):
    theirs: int
    """Where it starts in the reference."""
    their_end: int
    ours: int
    """Where it starts in the candidate."""
    our_end: int
    stage: int
    their_words: int
    """Words of the reference, as bits."""
    our_words: int


@lru_cache(maxsize=1 << 16)
def _match(theirs: int, their_length: int, ours: int, our_length: int, stage: int) -> _Match:
    their_end, our_end = theirs + their_length, ours + our_length
    their_words, our_words = (1 << their_end) - (1 << theirs), (1 << our_end) - (1 << ours)
    return _Match(theirs, their_end, ours, our_end, stage, their_words, our_words)


_LIMIT = 1 << 24
"""More words than a text has: sums of words times powers of it are ordered as their tuples are."""
_RANK = operator.itemgetter(0)


@lru_cache(maxsize=1 << 16)
def _function_words(text: tuple[str, ...]) -> int:
    """Which words of a text are function words, as bits."""
    return sum(1 << index for index, word in enumerate(text) if word in _FUNCTION_WORDS)


class _WordMatches(dict[str, list[tuple[int, int]]]):
    """For each word of a reference, the stages and indices of the candidate's words it matches.

    The references of a candidate share most of their words.
    """

    def __init__(self, ours: tuple[str, ...], related: dict[str, dict[str, tuple[int, ...]]]):
        super().__init__()
        self._related = related
        self._places: dict[str, list[int]] = defaultdict(list)
        for index, word in enumerate(ours):
            self._places[word].append(index)

    def __missing__(self, word: str) -> list[tuple[int, int]]:
        related, places = self._related[word], self._places
        if len(related) == 1:
            found = [(0, index) for index in places.get(word, ())]
        else:
            found = [
                (stage, index)
                for other, indices in places.items()
                if other in related
                for stage in related[other]
                for index in indices
            ]
            if len(found) > 1:
                found.sort()
        self[word] = found
        return found


@dataclass
class _Aligner:
    related: dict[str, dict[str, tuple[int, ...]]]
    weights: tuple[float, ...]
    beam: int
    phrases: _Phrases = field(default_factory=dict)
    paraphrases: _Paraphrases = field(default_factory=dict)

    def counts(
        self, ours: tuple[str, ...], references: Iterable[tuple[str, ...]]
    ) -> Iterator[list[int]]:
        """The counts of the best alignment with each reference, by `_Counts` but for `matched`."""
        matches_of = _WordMatches(ours, self.related)
        phrases: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for start, size, phrase in self.phrases.get(ours, ()):
            phrases[phrase].append((start, size))
        for theirs in references:
            matches = self._candidates(matches_of, phrases, theirs)
            yield self._counts(ours, theirs, self._best(matches))

    def _counts(
        self, ours: tuple[str, ...], theirs: tuple[str, ...], matches: Iterable[_Match]
    ) -> list[int]:
        counts = [0] * _Counts.size
        our_function, their_function = _function_words(ours), _function_words(theirs)
        counts[:4] = len(ours), len(theirs), our_function.bit_count(), their_function.bit_count()
        our_last = their_last = -1
        content, between = _Counts.content.start, _Counts.function.start - _Counts.content.start
        chunks = 0
        for match in matches:
            their_start, their_end, our_start, our_end, stage, their_words, our_words = match
            our_part = (our_words & our_function).bit_count()
            their_part = (their_words & their_function).bit_count()
            at = content + 2 * stage
            counts[at] += our_end - our_start - our_part
            counts[at + 1] += their_end - their_start - their_part
            counts[at + between] += our_part
            counts[at + between + 1] += their_part
            chunks += our_start != our_last or their_start != their_last
            our_last, their_last = our_end, their_end
        counts[_Counts.chunks] = chunks
        return counts

    def _candidates(
        self,
        matches_of: _WordMatches,
        phrases: dict[int, list[tuple[int, int]]],
        theirs: tuple[str, ...],
    ) -> list[list[_Match]]:
        """All matches, by their start in the reference and in the order of the stages.

        `matches_of` are those of words with the candidate, and `phrases` start and size of its
        phrases.
        """
        matches = [
            [_match(at, 1, index, 1, stage) for stage, index in found] if found else []
            for at, found in enumerate(map(matches_of.__getitem__, theirs))
        ]
        for start, size, phrase in self.phrases.get(theirs, ()) if phrases else ():
            paraphrases = self.paraphrases[phrase]
            if common := phrases.keys() & paraphrases.keys():
                # By their places in the table.
                for _, key in sorted((at, other) for other in common for at in paraphrases[other]):
                    matches[start] += [_match(start, size, *part, 3) for part in phrases[key]]
        return matches

    def _best(self, matches: list[list[_Match]]) -> tuple[_Match, ...]:
        """The matches of the best alignment, by a beam search over the reference."""
        # Words that are part of a match, and of more than one.
        our_words = our_twice = their_words = their_twice = 0
        for row in matches:
            for _, _, _, _, _, their_bits, our_bits in row:
                our_twice |= our_words & our_bits
                our_words |= our_bits
                their_twice |= their_words & their_bits
                their_words |= their_bits
        # Matches without an alternative are taken before the search.
        if not our_twice and not their_twice:
            return tuple(row[0] for row in matches if row)
        # A partial alignment: its rank, where its last match ends in both texts, their used words
        # as bits, and the matches. A lower rank is better: by matched words of both sides, times
        # the weights of their stages, rounded down; then by fewer chunks; then by matched words.
        paths: list[tuple[int, int, int, int, int, tuple[_Match, ...]]] = [(0, -1, -1, 0, 0, ())]
        for row in matches:
            if not row:
                continue
            if len(paths) > 1:
                paths.sort(key=_RANK)
            following = []
            options = [(match, self._gain(match)) for match in row]
            # A match without an alternative is always taken.
            fixed = len(row) == 1 and not (
                our_twice & row[0].our_words or their_twice & row[0].their_words
            )
            for path in paths[: self.beam]:
                rank, their_last, our_last, their_used, our_used, taken = path
                for match, gain in options:
                    their_start, their_end, our_start, our_end, _, their_bits, our_bits = match
                    if not (their_used & their_bits or our_used & our_bits):
                        if their_start != their_last or our_start != our_last:
                            gain -= _LIMIT  # one chunk more
                        following.append(
                            (
                                rank - gain,
                                their_end,
                                our_end,
                                their_used | their_bits,
                                our_used | our_bits,
                                (*taken, match),
                            )
                        )
                if not fixed:
                    following.append(path)
            paths = following
        return min(paths, key=_RANK)[-1]

    def _gain(self, match: _Match) -> int:
        """How much a match improves the rank, but for its chunk."""
        weight = self.weights[match.stage]
        our_length, their_length = match.our_end - match.ours, match.their_end - match.theirs
        rounded = int(weight * our_length) + int(weight * their_length)
        return rounded * _LIMIT**2 + our_length + their_length
