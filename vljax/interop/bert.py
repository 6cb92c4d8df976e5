"""The names of BERT text towers in transformers (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping

from vljax.config import UserError
from vljax.interop.axes import FLAT, LINEAR, LINEAR_OUT
from vljax.interop.mapping import Rule, rule
from vljax.interop.tensors import Lazy, Tensor
from vljax.models.text import TextTransformer

IGNORED = (r"embeddings\.position_ids", r"pooler\..*", r"cls\..*")
"""A table of 0, 1, 2, ..., and heads of the tasks that it was trained on."""

_POSITIONS = "embeddings.position_embeddings.weight"
# What makes a text tower a BERT; the rest are sizes.
_FORM = {
    "post_norm": True,
    "embedding_norm": True,
    "causal": False,
    "activation": "gelu",
    "mask_padding": True,
}


def rules(name: str, encoder: TextTransformer) -> list[Rule]:
    """The rules of an encoder.

    Args:
      name: of the encoder in the model.
      encoder: its form.

    Raises:
      UserError: if it is no BERT.
    """
    for field, wanted in _FORM.items():
        if getattr(encoder, field) != wanted:
            raise UserError(f"model.encoders.{name}.{field}: must be {wanted} for weights of BERT")
    here, there = f"{name}/blocks/{{i}}", "encoder.layer.{i}"
    made = [
        rule(f"{name}/embedding", "embeddings.word_embeddings.weight"),
        rule(f"{name}/positions", _POSITIONS),
        rule(f"{name}/token_types", "embeddings.token_type_embeddings.weight"),
        *_norm(f"{name}/embedding_norm", "embeddings.LayerNorm"),
        *_norm(f"{here}/attention_norm", f"{there}.attention.output.LayerNorm"),
        *_norm(f"{here}/mlp_norm", f"{there}.output.LayerNorm"),
        *_linear(f"{here}/mlp/up", f"{there}.intermediate.dense"),
        *_linear(f"{here}/mlp/down", f"{there}.output.dense"),
        rule(
            f"{here}/attention/output/kernel", f"{there}.attention.output.dense.weight", LINEAR_OUT
        ),
        rule(f"{here}/attention/output/bias", f"{there}.attention.output.dense.bias"),
    ]
    for part in ("query", "key", "value"):
        ours, theirs = f"{here}/attention/{part}", f"{there}.attention.self.{part}"
        made.append(rule(f"{ours}/kernel", f"{theirs}.weight", LINEAR))
        made.append(rule(f"{ours}/bias", f"{theirs}.bias", FLAT))
    return made


def adapted(
    tensors: Mapping[str, Tensor], encoder: TextTransformer, source: str
) -> dict[str, Tensor]:
    """The tensors without the prefix of models with a head, and as many positions as are used.

    Raises:
      UserError: if there are fewer positions than the encoder has.
    """
    found = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    table = found.get(_POSITIONS)
    if table is not None and len(table.shape) == 2:
        count, context = table.shape[0], encoder.context_length
        if count < context:
            raise UserError(
                f"{source}: has {count} positions, and context_length is {context}; make it smaller"
            )
        shape = (context, table.shape[1])
        found[_POSITIONS] = Lazy(shape, table.dtype, lambda: table.read()[:context])
    return found


def _linear(own: str, foreign: str) -> list[Rule]:
    kernel = rule(f"{own}/kernel", f"{foreign}.weight", LINEAR)
    return [kernel, rule(f"{own}/bias", f"{foreign}.bias")]


def _norm(own: str, foreign: str) -> list[Rule]:
    return [rule(f"{own}/scale", f"{foreign}.weight"), rule(f"{own}/bias", f"{foreign}.bias")]
