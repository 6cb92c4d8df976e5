"""The sources a recipe can name; `Source` is the kind, the others its members."""

from vljax.data.source_array_record import ArrayRecord
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
from vljax.data.source_csv import Csv, Tsv
from vljax.data.source_folder import Folder
from vljax.data.source_jsonl import JsonLines
from vljax.data.source_karpathy import Karpathy
from vljax.data.source_mixture import Mixture, Part, Phase
from vljax.data.source_parquet import Parquet
from vljax.data.source_scenes import Scenes
from vljax.data.source_tfds import Tfds
from vljax.data.source_tuxpaint import Tuxpaint
from vljax.data.source_webdataset import WebDataset

__all__ = [
    "Annotation",
    "ArrayRecord",
    "Builtin",
    "Csv",
    "ExampleError",
    "Folder",
    "JsonLines",
    "Karpathy",
    "Mixture",
    "Parquet",
    "Part",
    "Phase",
    "Phrase",
    "Question",
    "Record",
    "Records",
    "Region",
    "Scenes",
    "Source",
    "Tfds",
    "Tsv",
    "Tuxpaint",
    "WebDataset",
]
