"""The sources a recipe can name; `Source` is the kind, the others its members."""

from vljax.data.source_base import (
    Annotation,
    ExampleError,
    Phrase,
    Question,
    Record,
    Records,
    Region,
    Source,
)
from vljax.data.source_builtin import Builtin
from vljax.data.source_jsonl import JsonLines
from vljax.data.source_scenes import Scenes
from vljax.data.source_tuxpaint import Tuxpaint

__all__ = [
    "Annotation",
    "Builtin",
    "ExampleError",
    "JsonLines",
    "Phrase",
    "Question",
    "Record",
    "Records",
    "Region",
    "Scenes",
    "Source",
    "Tuxpaint",
]
