"""Everything that a recipe is written with. Recipes import from here and nowhere else in vljax.

    from vljax.recipes import AdamW, Data, JsonLines, ModelConfig, Run, SoftmaxContrastive, ViT

- The run: `Run`, `ModelConfig`, `Data`, `Precision`, `InitFrom`, `Pretrained`, `LowRank`,
  `MeshConfig`, `DistributedConfig`.
- Components, which overrides can replace by name. Each kind is a base class:
  `Encoder`, `Head`, `Source`, `Filter`, `Transform`, `Tokenizer`, `Objective`, `Optimizer`,
  `Schedule`, `Evaluator`. Derive from a kind to add a member in a recipe file.
- Helpers: `choose` for variants, `presets` for towers of published sizes, `BUILTIN_VOCABULARY`,
  `SCENES_VOCABULARY`.

The docstring of each class shows its use; `vljax check RECIPE --help` lists the fields of a recipe.
"""

from vljax.config import choose
from vljax.data.pipeline.pipeline import Data
from vljax.data.records import Source
from vljax.data.sources import (
    ArrayRecord,
    Clevr,
    Csv,
    Expand,
    Folder,
    Gqa,
    JsonLines,
    Karpathy,
    Matching,
    Mixture,
    Nlvr2,
    Parquet,
    Part,
    Phase,
    RefCoco,
    SugarCrepe,
    Tfds,
    Tsv,
    VqaV2,
    WebDataset,
    Winoground,
    Xm3600,
    filters,
)
from vljax.data.sources.filters import Equals, Filter, Length, Matches, Range
from vljax.data.tokenizers import Clip, HuggingFace, SentencePiece, Tokenizer
from vljax.data.transforms import (
    AnswerCells,
    Blur,
    CentreCrop,
    ChooseQuestions,
    ChooseText,
    ColourJitter,
    Decode,
    EncodeAnswers,
    EncodeTags,
    Flip,
    Greyscale,
    GridLabels,
    Hide,
    Label,
    Noise,
    Occlude,
    OtherImage,
    PadRegions,
    Patchify,
    Prompt,
    RandAugment,
    RandomCrop,
    RandomResizedCrop,
    Regions,
    Resize,
    Tokenize,
    Transform,
)
from vljax.data.vocabulary import VocabularyFile, answer_vocabulary, object_names, tag_vocabulary
from vljax.datasets import Builtin, Scenes, Tuxpaint
from vljax.datasets.builtin.vocabulary import FILE as BUILTIN_VOCABULARY
from vljax.datasets.scenes.vocabulary import FILE as SCENES_VOCABULARY
from vljax.evaluation import (
    CaptionChoice,
    Contributions,
    FewShot,
    LinearProbe,
    MultiLabel,
    MultilingualRetrieval,
    NearestNeighbours,
    Questions,
    Retrieval,
    WinogroundAccuracy,
    ZeroShot,
)
from vljax.evaluation.evaluator import Evaluator
from vljax.models import presets
from vljax.models.assembly import ModelConfig
from vljax.models.encoders import ConvGrid, EfficientNetLite, NaFlexViT, TextTransformer, ViT
from vljax.models.filters import Gate, ModalityDropout, StreamFilter
from vljax.models.fusion import CrossAttention, Fusion
from vljax.models.heads import Classifier, Embedding
from vljax.models.low_rank import LowRank
from vljax.models.node import Encoder, Node
from vljax.models.numerics import Precision
from vljax.models.pretrained import InitFrom, Pretrained
from vljax.objectives import (
    AttentionTarget,
    BalancedClassification,
    Classification,
    SigmoidContrastive,
    SoftmaxContrastive,
)
from vljax.objectives.objective import Objective
from vljax.optim import SGD, Adafactor, AdamW, Group, Lion, Muon, Optimizer
from vljax.optim.schedules import (
    Schedule,
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
    "SCENES_VOCABULARY",
    "SGD",
    "Adafactor",
    "AdamW",
    "AnswerCells",
    "ArrayRecord",
    "AttentionTarget",
    "BalancedClassification",
    "Blur",
    "Builtin",
    "CaptionChoice",
    "CentreCrop",
    "ChooseQuestions",
    "ChooseText",
    "Classification",
    "Classifier",
    "Clevr",
    "Clip",
    "ColourJitter",
    "Contributions",
    "ConvGrid",
    "CrossAttention",
    "Csv",
    "Data",
    "Decode",
    "DistributedConfig",
    "EfficientNetLite",
    "Embedding",
    "EncodeAnswers",
    "EncodeTags",
    "Encoder",
    "Equals",
    "Evaluator",
    "Expand",
    "FewShot",
    "Filter",
    "Flip",
    "Folder",
    "Fusion",
    "Gate",
    "Gqa",
    "Greyscale",
    "GridLabels",
    "Group",
    "Hide",
    "HuggingFace",
    "InitFrom",
    "JsonLines",
    "Karpathy",
    "Label",
    "Length",
    "LinearProbe",
    "Lion",
    "LowRank",
    "Matches",
    "Matching",
    "MeshConfig",
    "Mixture",
    "ModalityDropout",
    "ModelConfig",
    "MultiLabel",
    "MultilingualRetrieval",
    "Muon",
    "NaFlexViT",
    "NearestNeighbours",
    "Nlvr2",
    "Node",
    "Noise",
    "Objective",
    "Occlude",
    "Optimizer",
    "OtherImage",
    "PadRegions",
    "Parquet",
    "Part",
    "Patchify",
    "Phase",
    "Precision",
    "Pretrained",
    "Prompt",
    "Questions",
    "RandAugment",
    "RandomCrop",
    "RandomResizedCrop",
    "Range",
    "RefCoco",
    "Regions",
    "Resize",
    "Retrieval",
    "Run",
    "Scenes",
    "Schedule",
    "SentencePiece",
    "SigmoidContrastive",
    "SoftmaxContrastive",
    "Source",
    "StreamFilter",
    "SugarCrepe",
    "TextTransformer",
    "Tfds",
    "Tokenize",
    "Tokenizer",
    "Transform",
    "Tsv",
    "Tuxpaint",
    "ViT",
    "VocabularyFile",
    "VqaV2",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupRsqrt",
    "WarmupStableDecay",
    "WarmupSteps",
    "WebDataset",
    "Winoground",
    "WinogroundAccuracy",
    "Xm3600",
    "ZeroShot",
    "answer_vocabulary",
    "choose",
    "filters",
    "object_names",
    "presets",
    "tag_vocabulary",
]
