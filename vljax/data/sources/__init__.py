"""The sources a recipe can name, each in the file of its name; `vljax.datasets` has the others."""

from vljax.data.sources.array_record import ArrayRecord
from vljax.data.sources.csv import Csv, Tsv
from vljax.data.sources.folder import Folder
from vljax.data.sources.jsonl import JsonLines
from vljax.data.sources.karpathy import Karpathy
from vljax.data.sources.mixture import Mixture, Part, Phase
from vljax.data.sources.parquet import Parquet
from vljax.data.sources.tfds import Tfds
from vljax.data.sources.webdataset import WebDataset

__all__ = [
    "ArrayRecord",
    "Csv",
    "Folder",
    "JsonLines",
    "Karpathy",
    "Mixture",
    "Parquet",
    "Part",
    "Phase",
    "Tfds",
    "Tsv",
    "WebDataset",
]
