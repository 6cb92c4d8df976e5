"""Names that PyTorch, transformers and open_clip have used over the years for the same thing.

The importers of transformers and open_clip read weights, tokenizers and image processors through
these tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vljax.interop.files.tensors import Tensor

WEIGHTS = {
    "transformers": ("model.safetensors", "pytorch_model.bin"),
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "epoch_*.pt"),
}
"""The files of weights of a folder, in order of preference. `epoch_3.pt` is what open_clip's own
training writes."""

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of all names: of DistributedDataParallel and of torch.compile."""

_PARAMETERS = {"gamma": "weight", "beta": "bias"}
"""Parameters of a LayerNorm in the first BERTs, which came from TensorFlow. transformers renames
them when it loads (`bert-base-uncased` is still stored so). A layer scale is a `gamma` elsewhere,
so only those of a LayerNorm are renamed."""


def current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays of a file under the names that are used today.

    >>> import numpy as np
    >>> from vljax.interop.files.tensors import Lazy
    >>> ones = Lazy((3,), np.dtype(np.float32), lambda: np.ones(3, np.float32))
    >>> sorted(current_names({"module.bert.LayerNorm.gamma": ones, "module.ls1.gamma": ones}))
    ['bert.LayerNorm.weight', 'ls1.gamma']
    """
    found = dict(tensors)
    while found and (wrapper := [p for p in _WRAPPERS if all(n.startswith(p) for n in found)]):
        found = {name.removeprefix(wrapper[0]): tensor for name, tensor in found.items()}
    return {_current(name, found): tensor for name, tensor in found.items()}


def _current(name: str, names: Mapping[str, Tensor]) -> str:
    old = re.fullmatch(rf"((?:.*\.)?LayerNorm\.)({'|'.join(_PARAMETERS)})", name)
    new = old[1] + _PARAMETERS[old[2]] if old else name
    # Both names in one file: one array is left over, which is an error elsewhere.
    return name if new in names else new


TOKENIZER_CLASSES = {
    "bert": "BertTokenizer",
    "blip": "BertTokenizer",
    "clip": "CLIPTokenizer",
    "lxmert": "LxmertTokenizer",
    "roberta": "RobertaTokenizer",
    "siglip": "SiglipTokenizer",
    "vilt": "BertTokenizer",
    "visual_bert": "BertTokenizer",
}
"""The tokenizer class of a `model_type`, for folders that name none."""

_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
}
_BERT = {"sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
SPECIAL_TOKENS: dict[str, Mapping[str, str]] = {
    "BertTokenizer": _BERT,
    "CLIPTokenizer": {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    },
    "GemmaTokenizer": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "LxmertTokenizer": _BERT,
    "RobertaTokenizer": _ROBERTA,
    "SiglipTokenizer": {"eos_token": "</s>", "pad_token": "</s>"},
    "XLMRobertaTokenizer": _ROBERTA,
}
"""The special tokens of a tokenizer class, for folders whose files name none."""

IMAGE_PROCESSORS = {
    "blip": "BlipImageProcessor",
    "clip": "CLIPImageProcessor",
    "dinov2": "BitImageProcessor",
    "dinov2_with_registers": "BitImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip2": "Siglip2ImageProcessor",
    "vilt": "ViltImageProcessor",
    "vit": "ViTImageProcessor",
}
"""The image processor of a `model_type`, for folders that name none."""
