"""The byte-pair encoding of CLIP."""

from __future__ import annotations

import functools
import re
from dataclasses import KW_ONLY, dataclass

from vljax.data.tokenizers.base import LoadedTokenizer, SpecialTokens, Tokenizer
from vljax.data.tokenizers.cleaning import Cleaning
from vljax.data.tokenizers.clip_bpe import ClipBpe


@dataclass(frozen=True)
class Clip(Tokenizer, name="clip"):
    """CLIP's tokenizer; its vocabulary of 49,408 ids is built in.

    Texts begin with 49406 and end with 49407, also when truncated; padding is 0. This is
    clip/clip.py `tokenize` with `truncate=True` (Radford et al. 2021), and open_clip's default. The
    ids equal those of open_clip's SimpleTokenizer.

    >>> ids, mask = Clip(context_length=5).load()(["A  CAT!"])
    >>> ids.tolist(), mask.tolist()
    ([[49406, 320, 2368, 256, 49407]], [[True, True, True, True, True]])
    """

    _: KW_ONLY
    context_length: int = 77
    """Ids per text."""
    cleaning: Cleaning = "clip"
    """Text cleaning before tokenization."""

    @property
    def adds_bos(self) -> bool:
        return True

    @property
    def adds_eos(self) -> bool:
        return True

    def load(self) -> LoadedTokenizer:
        return self.load_vocabulary(b"")

    def load_vocabulary(self, vocabulary: bytes) -> LoadedTokenizer:
        return LoadedClip(self, vocabulary)


# Characters that the Rust library and the reference treat differently: U+017F after an apostrophe
# and U+0345 because of case folding, the others because they are letters in Unicode 15 or later
# only (whole ranges).
_DIFFERENT_LETTERS = re.compile(
    "[\u017f\u0345\u0558\u058b\u058c\u088f\u0c5c\u0cdc\u1c89\u1c8a\u208f\u209d-\u209f"
    "\ua7cb-\ua7f1\uab6c\uab6d\U000105c0-\U0001cfff\U0001d6a6\U0001df00-\U0001efff"
    "\U0002a6de-\U0002a6ff\U0002b73a-\U0002b73f\U0002cea2-\U0002ceaf\U0002ebe1-\U0002f7ff"
    "\U0002fa1e-\U0003ffff]"
)


# The time of the Rust library grows with the square of a word's length.
_LONG_WORD = re.compile(r"\S{2000}")


class LoadedClip(LoadedTokenizer):
    """CLIP's tokenizer, ready to use."""

    def __init__(self, config: Tokenizer, vocabulary: bytes):
        from instant_clip_tokenizer import Tokenizer as InstantTokenizer

        self._tokenizer = InstantTokenizer()
        end = self._tokenizer.end_of_text()
        special = SpecialTokens(0, bos=self._tokenizer.start_of_text(), eos=end)
        super().__init__(config, vocabulary, special, end + 1)

    def _encode(self, text: str) -> list[int]:
        # The Rust library is much faster, but it lower-cases all letters; the reference does not.
        if _DIFFERENT_LETTERS.search(text) or text != text.lower() or _LONG_WORD.search(text):
            return self._python_bpe.encode(text)
        tokens: list[int] = self._tokenizer.encode(text)
        return tokens

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids)
        return text

    @functools.cached_property
    def _python_bpe(self) -> ClipBpe:
        return ClipBpe.from_decode(self._tokenizer.decode)
