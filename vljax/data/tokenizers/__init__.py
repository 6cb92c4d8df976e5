"""The tokenizers that a recipe can name; `Tokenizer` is their base class."""

from vljax.data.tokenizers.base import LoadedTokenizer, Tokenizer, load_tokenizer
from vljax.data.tokenizers.clip import Clip
from vljax.data.tokenizers.huggingface import HuggingFace
from vljax.data.tokenizers.sentencepiece import SentencePiece

__all__ = [
    "Clip",
    "HuggingFace",
    "LoadedTokenizer",
    "SentencePiece",
    "Tokenizer",
    "load_tokenizer",
]
