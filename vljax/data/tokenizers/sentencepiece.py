"""SentencePiece models, as SigLIP, T5 and Gemma use them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

from vljax.config import UserError, setting
from vljax.data.tokenizers.base import (
    NAMES_OF_SPECIAL,
    LoadedTokenizer,
    SpecialTokens,
    Tokenizer,
    vocabulary_error,
)
from vljax.data.tokenizers.cleaning import Cleaning


@dataclass(frozen=True)
class SentencePiece(Tokenizer, name="sentencepiece"):
    """A SentencePiece `.model`.

    Begin, end and unknown tokens are the model's own. As in the library, text that looks like one
    ("</s>") stays text. The defaults are SigLIP's (`eos="sticky"` in big_vision's pp/ops_text.py),
    which pads with id 1, the end token of its model. The default cleaning is that of SigLIP's
    evaluations; its training used "ascii_lower". SigLIP 2 (Gemma's model) and T5 pad with their
    model's own padding token.

    >>> SentencePiece("gemma.model", pad_id=None, cleaning="ascii_lower").context_length  # SigLIP 2
    64
    """

    path: str | None = setting(None, path=True)
    """Path of the `.model` file, local or remote."""
    _: KW_ONLY
    context_length: int = 64
    """Ids per text."""
    pad_id: int | None = 1
    """Id of padding; None for the model's padding token."""
    add_bos: bool = False
    """Whether each text begins with the model's begin token."""
    add_eos: bool = True
    """Whether each text ends with the model's end token."""
    cleaning: Cleaning = "siglip"
    """Text cleaning before tokenization."""

    @property
    def adds_bos(self) -> bool:
        return self.add_bos

    @property
    def adds_eos(self) -> bool:
        return self.add_eos

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.pad_id is not None and self.pad_id < 0:
            yield "pad_id", f"must be 0 or more, or None for the model's own, got {self.pad_id}"

    def load_vocabulary(self, vocabulary: bytes) -> LoadedTokenizer:
        return LoadedSentencePiece(self, vocabulary)


class LoadedSentencePiece(LoadedTokenizer):
    """A SentencePiece tokenizer, ready to use."""

    vocabulary_file = "tokenizer.model"

    def __init__(self, config: SentencePiece, vocabulary: bytes):
        self._processor = processor_of(vocabulary, config.path)
        size = self._processor.vocab_size()
        special = _special(config, self._processor, size)
        super().__init__(config, vocabulary, special, size)

    def _decode(self, ids: list[int]) -> str:
        text: str = self._processor.decode(ids)
        return text

    def pieces(self) -> list[str]:
        found: list[str] = self._processor.id_to_piece([*range(self.vocab_size)])
        return found

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._processor.encode(text)
        return tokens


def processor_of(model: bytes, path: str | None) -> Any:
    """The library's processor for the content of a model.

    Raises:
      UserError: if it is not a SentencePiece model, or has pieces that are not UTF-8.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        # The library loads an empty file, and pieces of any bytes, and fails much later.
        if not model:
            raise RuntimeError("empty file")
        processor = SentencePieceProcessor(model_proto=model)
        processor.id_to_piece([*range(processor.vocab_size())])
    except (RuntimeError, OSError, UnicodeDecodeError) as error:
        raise vocabulary_error("SentencePiece model", path, model, error) from error
    return processor


def _special(config: SentencePiece, processor: Any, size: int) -> SpecialTokens:
    """The special ids of the model. Raises UserError if the model lacks one of the tokens."""
    if config.add_eos and processor.eos_id() < 0:
        raise UserError(
            f"data.tokenizers.text.add_eos: {config.path} has no end-of-sentence token; set it to "
            "False"
        )
    if config.add_bos and processor.bos_id() < 0:
        raise UserError(
            f"data.tokenizers.text.add_bos: {config.path} has no begin-of-sentence token; set it "
            "to False"
        )
    pad = processor.pad_id() if config.pad_id is None else config.pad_id
    if pad < 0:
        raise UserError(
            f"data.tokenizers.text.pad_id: {config.path} has no padding token; set it to an id of "
            f"the model, such as {max(processor.eos_id(), 0)}"
        )
    if pad >= size:
        raise UserError(
            f"data.tokenizers.text.pad_id: {pad} is outside the vocabulary of {size} ids"
        )
    own = {"bos": processor.bos_id(), "eos": processor.eos_id()}
    for role in ("mask", "cls", "sep"):
        ids = [processor.piece_to_id(name) for name in NAMES_OF_SPECIAL[role]]
        known = {processor.id_to_piece(i): i for i in ids}
        own[role] = next((known[name] for name in NAMES_OF_SPECIAL[role] if name in known), -1)
    return SpecialTokens(pad, **{role: number for role, number in own.items() if number >= 0})
