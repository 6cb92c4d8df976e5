"""SentencePiece models, as SigLIP, T5 and Gemma use them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vljax.config import UserError, setting
from vljax.data.cleaning import Cleaning
from vljax.data.tokenizer_base import LoadedTokenizer, Tokenizer, frame


@dataclass(frozen=True)
class SentencePiece(Tokenizer, name="sentencepiece"):
    """A SentencePiece `.model`.

    Each text ends with the model's end token, also when it is cut: `eos="sticky"` in big_vision's
    pp/ops_text.py. The defaults are SigLIP's, which pads with id 1, the end token of its model;
    the cleaning is that of its evaluations, training used "lower".

    Attributes:
      path: the `.model` file.
      context_length: ids per text.
      pad_id: id of padding.
      cleaning: what is done to a text first.
    """

    path: str | None = setting(None, path=True)
    context_length: int = 64
    pad_id: int = 1
    cleaning: Cleaning = "siglip"

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.pad_id < 0:
            yield "pad_id", f"must be 0 or more, got {self.pad_id}"

    def load_vocabulary(self, vocabulary: bytes) -> LoadedTokenizer:
        return LoadedSentencePiece(self, vocabulary)


class LoadedSentencePiece(LoadedTokenizer):
    """A SentencePiece tokenizer, ready to use."""

    vocabulary_file = "tokenizer.model"

    def __init__(self, config: SentencePiece, vocabulary: bytes):
        from sentencepiece import SentencePieceProcessor

        super().__init__(config, vocabulary, pad=config.pad_id)
        try:
            # Without the check an empty file loads, and fails much later.
            if not vocabulary:
                raise RuntimeError("empty file")
            self._processor = SentencePieceProcessor(model_proto=vocabulary)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{config.path}: not a SentencePiece model ({error})") from error
        self.vocab_size = self._processor.vocab_size()
        self._eos = self._processor.eos_id()
        if self._eos < 0:
            raise UserError(f"{config.path}: the model has no end-of-sentence token")
        if config.pad_id >= self.vocab_size:
            raise UserError(
                f"data.tokenizer.pad_id: {config.pad_id} is outside the vocabulary of "
                f"{self.vocab_size} ids"
            )

    def _tokens(self, text: str) -> list[int]:
        return frame(self._processor.encode(text), self.context_length, None, self._eos)
