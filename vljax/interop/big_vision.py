"""Parameter names of big_vision: ViT, text transformer, and the two towers of LiT and SigLIP."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from vljax.config import UserError
from vljax.interop.files.tensors import Lazy, Tensor
from vljax.interop.mapping import BATCHED, SAME, Rule, rule
from vljax.models.encoders import TextTransformer, ViT

SUBTREES = {"image": "img", "text": "txt", "logit_scale": "t", "logit_bias": "b"}
"""The part of a two-tower file that belongs to each of our encoders and scalars."""

_ATTENTION, _MLP = "MultiHeadDotProductAttention_0", "MlpBlock_0"
# The first published ViTs numbered all modules of a block in one sequence.
_OLD_NAMES = {
    "MultiHeadDotProductAttention_1": _ATTENTION,
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": _MLP,
}


def rules(name: str, encoder: ViT | TextTransformer, head: str | None) -> list[Rule]:
    """The rules of an encoder.

    Args:
      name: the encoder's name in the model.
      encoder: its configuration.
      head: our path of the projection, or None. big_vision stores it in the tower.

    Raises:
      UserError: if a field of the encoder differs from big_vision's tower.
    """
    text = {"causal": False, "mask_padding": False}
    wanted_fields = {"activation": "gelu_tanh", **({} if isinstance(encoder, ViT) else text)}
    for field, wanted in wanted_fields.items():
        if getattr(encoder, field) != wanted:
            path = f"model.nodes.{name}.{field}"
            raise UserError(f"{path}: must be {wanted} for weights of big_vision")
    stack = "Transformer" if isinstance(encoder, ViT) else "Encoder_0"
    ours, theirs = f"{name}/blocks/{{i}}", f"{stack}/encoderblock_{{i}}"
    made = [
        *(_image(name, encoder) if isinstance(encoder, ViT) else _text(name)),
        *_norm(f"{ours}/attention_norm", f"{theirs}/LayerNorm_0"),
        *_norm(f"{ours}/mlp_norm", f"{theirs}/LayerNorm_1"),
        *_attention(f"{ours}/attention", f"{theirs}/{_ATTENTION}"),
        *_mlp(f"{ours}/mlp", f"{theirs}/{_MLP}"),
        *_norm(f"{name}/norm", f"{stack}/encoder_norm"),
    ]
    if encoder.pooling == "map":
        made += [
            rule(f"{name}/pooling/probe", "MAPHead_0/probe", BATCHED),
            *_attention(f"{name}/pooling/attention", f"MAPHead_0/{_ATTENTION}"),
            *_norm(f"{name}/pooling/norm", "MAPHead_0/LayerNorm_0"),
            *_mlp(f"{name}/pooling/mlp", f"MAPHead_0/{_MLP}"),
        ]
    if head is not None:
        made += _linear(head, "head")
    return made


def has_towers(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds an image tower and a text tower."""
    return {"image", "text"} <= parts(tensors)


def parts(tensors: Mapping[str, Tensor]) -> set[str]:
    """The names of our encoders and scalars that a file holds; empty for a single tower."""
    tops = {_below_params(name).partition("/")[0] for name in tensors}
    return {name for name, top in SUBTREES.items() if top in tops}


def adapted(tensors: Mapping[str, Tensor], encoder: ViT | TextTransformer) -> dict[str, Tensor]:
    """A tower's tensors under current names, with scanned stacks split into layers."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        segments = [_OLD_NAMES.get(part, part) for part in _below_params(name).split("/")]
        if "encoderblock" in segments:
            found |= _layers(segments, tensor)
        else:
            found["/".join(segments)] = tensor
    for old in ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"):
        if old in found:
            found["pos_embedding"] = found.pop(old)
    if isinstance(encoder, ViT):
        _split_class_position(found)
    elif "Encoder_0/pos_embedding" in found:  # some published text towers add positions twice
        found["pos_embedding"] = _sum(found["pos_embedding"], found.pop("Encoder_0/pos_embedding"))
    return found


def _below_params(name: str) -> str:
    return re.sub("^(params|opt/target)/", "", name)


def _layers(segments: list[str], tensor: Tensor) -> dict[str, Tensor]:
    """A scanned array as one array for each layer."""
    if not tensor.shape:
        raise UserError(f"{'/'.join(segments)}: not an array of layers")
    at = segments.index("encoderblock")

    def layer(i: int) -> Lazy:
        return Lazy(tuple(tensor.shape[1:]), tensor.dtype, lambda: tensor.read()[i])

    before, after = segments[:at], segments[at + 1 :]
    return {
        "/".join([*before, f"encoderblock_{i}", *after]): layer(i) for i in range(tensor.shape[0])
    }


def _split_class_position(found: dict[str, Tensor]) -> None:
    """Adds the class token's position to the token.

    Older ViTs store it as the first row of the position table.
    """
    table, token = found.get("pos_embedding"), found.get("cls")
    if table is None or token is None or len(table.shape) != 3:
        return
    count = table.shape[1]
    if math.isqrt(count) ** 2 == count or math.isqrt(count - 1) ** 2 != count - 1:
        return
    shape = (1, count - 1, table.shape[2])
    found["cls"] = _sum(token, Lazy((1, 1, shape[2]), table.dtype, lambda: table.read()[:, :1]))
    found["pos_embedding"] = Lazy(shape, table.dtype, lambda: table.read()[:, 1:])


def _sum(left: Tensor, right: Tensor) -> Lazy:
    make: Callable[[], np.ndarray] = lambda: (left.read() + right.read()).astype(left.dtype)  # noqa: E731
    return Lazy(tuple(left.shape), left.dtype, make)


def _image(name: str, encoder: ViT) -> list[Rule]:
    made = [
        rule(f"{name}/patch_embedding", "embedding/kernel"),
        rule(f"{name}/patch_bias", "embedding/bias"),
    ]
    if encoder.positions == "learned":
        made.append(rule(f"{name}/positions", "pos_embedding", BATCHED))
    if encoder.pooling == "cls":
        made.append(rule(f"{name}/cls", "cls", BATCHED))
    return made


def _text(name: str) -> list[Rule]:
    return [
        rule(f"{name}/embedding", "Embed_0/embedding"),
        rule(f"{name}/positions", "pos_embedding", BATCHED),
    ]


def _norm(own: str, foreign: str) -> list[Rule]:
    return [rule(f"{own}/{part}", f"{foreign}/{part}") for part in ("scale", "bias")]


def _linear(own: str, foreign: str) -> list[Rule]:
    return [rule(f"{own}/{part}", f"{foreign}/{part}", SAME) for part in ("kernel", "bias")]


def _mlp(own: str, foreign: str) -> list[Rule]:
    return [
        *_linear(f"{own}/up", f"{foreign}/Dense_0"),
        *_linear(f"{own}/down", f"{foreign}/Dense_1"),
    ]


def _attention(own: str, foreign: str) -> list[Rule]:
    names = {"query": "query", "key": "key", "value": "value", "output": "out"}
    return [one for a, b in names.items() for one in _linear(f"{own}/{a}", f"{foreign}/{b}")]
