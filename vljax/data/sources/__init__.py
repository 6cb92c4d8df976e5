"""Sources that a recipe can name; `vljax.datasets` has those that come with their own data.

How to add a source:

1. Write `vljax/data/sources/NAME.py` with a frozen dataclass `class Name(Source, name="NAME")`; its
   fields are what a recipe sets. Derive from `FileSource` (`base.py`) if it reads files whose
   columns are chosen by name: it has the fields `path`, `captions`, `tags`, `label` and `filters`.
2. `open()` returns a subclass of `Records` (`vljax/data/records.py`): its length, and for an index
   the image file and the annotation. For a `FileSource`, derive from `ColumnRecords` and give the
   values of columns. Raise `UserError` if the data set cannot be opened, and `ExampleError` if one
   example cannot be used.
3. Export it here and in `vljax/recipes.py`, with a `>>>` example in its docstring. `--data.source
   NAME`, `vljax data index NAME:PATH`, `inspect` and `convert` then work without further changes.

Filters (`filters.py`) are components too: `--data.source.filters.0 range`.
"""

from vljax.data.sources.array_record import ArrayRecord
from vljax.data.sources.csv import Csv, Tsv
from vljax.data.sources.expand import Expand
from vljax.data.sources.folder import Folder
from vljax.data.sources.jsonl import JsonLines
from vljax.data.sources.karpathy import Karpathy
from vljax.data.sources.matching import Matching
from vljax.data.sources.mixture import Mixture, Part, Phase
from vljax.data.sources.parquet import Parquet
from vljax.data.sources.published import (
    Clevr,
    Gqa,
    Nlvr2,
    RefCoco,
    SugarCrepe,
    VqaV2,
    Winoground,
    Xm3600,
)
from vljax.data.sources.tfds import Tfds
from vljax.data.sources.webdataset import WebDataset

__all__ = [
    "ArrayRecord",
    "Clevr",
    "Csv",
    "Expand",
    "Folder",
    "Gqa",
    "JsonLines",
    "Karpathy",
    "Matching",
    "Mixture",
    "Nlvr2",
    "Parquet",
    "Part",
    "Phase",
    "RefCoco",
    "SugarCrepe",
    "Tfds",
    "Tsv",
    "VqaV2",
    "WebDataset",
    "Winoground",
    "Xm3600",
]
