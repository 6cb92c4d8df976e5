"""The byte-pair encoding of CLIP."""

from __future__ import annotations

from dataclasses import dataclass

from vljax.data.cleaning import Cleaning
from vljax.data.tokenizer_base import LoadedTokenizer, Tokenizer, frame


@dataclass(frozen=True)
class Clip(Tokenizer, name="clip"):
    """CLIP's tokenizer with its own vocabulary of 49,408 ids, which needs no file.

    Texts lie between 49406 and 49407, padding is 0, and a text that is cut keeps its end token:
    Radford et al. 2021, clip/clip.py `tokenize` with `truncate=True`, and open_clip's default.
    The ids equal those of open_clip's SimpleTokenizer but for two oddities of case folding (U+0345
    and U+017F after an apostrophe) and letters that younger versions of Unicode have added.

    Attributes:
      context_length: ids per text.
      cleaning: what is done to a text first.
    """

    context_length: int = 77
    cleaning: Cleaning = "clip"

    def load(self) -> LoadedTokenizer:
        return self.load_vocabulary(b"")

    def load_vocabulary(self, vocabulary: bytes) -> LoadedTokenizer:
        return LoadedClip(self, vocabulary)


class LoadedClip(LoadedTokenizer):
    """CLIP's tokenizer, ready to use."""

    def __init__(self, config: Tokenizer, vocabulary: bytes):
        from instant_clip_tokenizer import Tokenizer as InstantTokenizer

        super().__init__(config, vocabulary, pad=0)
        self._tokenizer = InstantTokenizer()
        self._start = self._tokenizer.start_of_text()
        self._end = self._tokenizer.end_of_text()
        self.vocab_size = self._end + 1

    def _tokens(self, text: str) -> list[int]:
        tokens = self._tokenizer.encode(text)
        return frame(tokens, self.context_length, self._start, self._end)
