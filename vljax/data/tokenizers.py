"""The tokenizers a recipe can name; `Tokenizer` is the kind, the others its members."""

from vljax.data.tokenizer_base import LoadedTokenizer, Tokenizer, load_tokenizer
from vljax.data.tokenizer_clip import Clip
from vljax.data.tokenizer_huggingface import HuggingFace
from vljax.data.tokenizer_sentencepiece import SentencePiece

__all__ = [
    "Clip",
    "HuggingFace",
    "LoadedTokenizer",
    "SentencePiece",
    "Tokenizer",
    "load_tokenizer",
]
