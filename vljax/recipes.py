"""Everything a recipe is written with. Recipes import from here and from nowhere else in vljax.

Each component is documented where it is defined; `vljax check RECIPE --help` prints its fields.
"""

from vljax.config import choose
from vljax.data.pipeline.pipeline import Data
from vljax.data.records import Source
from vljax.data.sources import (
    ArrayRecord,
    Csv,
    Folder,
    JsonLines,
    Karpathy,
    Mixture,
    Parquet,
    Part,
    Phase,
    Tfds,
    Tsv,
    WebDataset,
)
from vljax.data.tokenizers import Clip, HuggingFace, SentencePiece, Tokenizer
from vljax.data.transforms import (
    Blur,
    CentreCrop,
    ChooseText,
    ColourJitter,
    Decode,
    Flip,
    Greyscale,
    Noise,
    Occlude,
    Patchify,
    Prompt,
    RandAugment,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Transform,
)
from vljax.datasets import Builtin, Scenes, Tuxpaint
from vljax.datasets.builtin.vocabulary import FILE as BUILTIN_VOCABULARY
from vljax.evaluation import Retrieval, ZeroShot
from vljax.evaluation.evaluator import Evaluator
from vljax.models import presets
from vljax.models.assembly import ModelConfig
from vljax.models.compute import Precision
from vljax.models.encoders import EfficientNetLite, NaFlexViT, TextTransformer, ViT
from vljax.models.heads import Embedding
from vljax.models.pretrained import Pretrained
from vljax.objectives import SigmoidContrastive, SoftmaxContrastive
from vljax.optim import SGD, Adafactor, AdamW, Lion, Muon
from vljax.optim.schedules import (
    WarmupConstant,
    WarmupCosine,
    WarmupLinear,
    WarmupRsqrt,
    WarmupStableDecay,
    WarmupSteps,
)
from vljax.parallel.mesh import MeshConfig
from vljax.parallel.processes.start import DistributedConfig
from vljax.run import Run

__all__ = [
    "BUILTIN_VOCABULARY",
    "SGD",
    "Adafactor",
    "AdamW",
    "ArrayRecord",
    "Blur",
    "Builtin",
    "CentreCrop",
    "ChooseText",
    "Clip",
    "ColourJitter",
    "Csv",
    "Data",
    "Decode",
    "DistributedConfig",
    "EfficientNetLite",
    "Embedding",
    "Evaluator",
    "Flip",
    "Folder",
    "Greyscale",
    "HuggingFace",
    "JsonLines",
    "Karpathy",
    "Lion",
    "MeshConfig",
    "Mixture",
    "ModelConfig",
    "Muon",
    "NaFlexViT",
    "Noise",
    "Occlude",
    "Parquet",
    "Part",
    "Patchify",
    "Phase",
    "Precision",
    "Pretrained",
    "Prompt",
    "RandAugment",
    "RandomCrop",
    "RandomResizedCrop",
    "Resize",
    "Retrieval",
    "Run",
    "Scenes",
    "SentencePiece",
    "SigmoidContrastive",
    "SoftmaxContrastive",
    "Source",
    "TextTransformer",
    "Tfds",
    "Tokenizer",
    "Transform",
    "Tsv",
    "Tuxpaint",
    "ViT",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupRsqrt",
    "WarmupStableDecay",
    "WarmupSteps",
    "WebDataset",
    "ZeroShot",
    "choose",
    "presets",
]
