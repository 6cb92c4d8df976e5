"""The names of BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019) in transformers."""

from __future__ import annotations

from collections.abc import Mapping

from vljax.config import UserError
from vljax.interop.axes import FLAT, LINEAR, LINEAR_OUT
from vljax.interop.mapping import Rule, rule
from vljax.interop.tensors import Lazy, Tensor
from vljax.interop.transformers_towers import linear, norm
from vljax.models.text import TextTransformer

PREFIXES = ("bert.", "roberta.")
HEADS = r"(cls|lm_head|classifier|qa_outputs)\..*"
IGNORED = (r"embeddings\.position_ids", HEADS)
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


def check(name: str, encoder: TextTransformer, layout: str) -> None:
    """Raises UserError if an encoder is none of a layout, "bert" or "roberta"."""
    for field, wanted in _FORM.items():
        if getattr(encoder, field) != wanted:
            path = f"model.encoders.{name}.{field}"
            raise UserError(f"{path}: must be {wanted} for weights of {layout}")
    if bool(encoder.position_offset) != (layout == "roberta"):
        wanted = "2" if layout == "roberta" else "0"
        path = f"model.encoders.{name}.position_offset"
        raise UserError(f"{path}: must be {wanted} for weights of {layout}")


def rules(name: str, pooler: str | None = None) -> list[Rule]:
    """The rules of an encoder.

    Args:
      name: of the encoder in the model.
      pooler: our path of the pooler; None for none.
    """
    here, there = f"{name}/blocks/{{i}}", "encoder.layer.{i}"
    made = [
        rule(f"{name}/embedding", "embeddings.word_embeddings.weight"),
        rule(f"{name}/positions", _POSITIONS),
        rule(f"{name}/token_types", "embeddings.token_type_embeddings.weight"),
        *norm(f"{name}/embedding_norm", "embeddings.LayerNorm"),
        *norm(f"{here}/attention_norm", f"{there}.attention.output.LayerNorm"),
        *norm(f"{here}/mlp_norm", f"{there}.output.LayerNorm"),
        *linear(f"{here}/mlp/up", f"{there}.intermediate.dense"),
        *linear(f"{here}/mlp/down", f"{there}.output.dense"),
        rule(
            f"{here}/attention/output/kernel", f"{there}.attention.output.dense.weight", LINEAR_OUT
        ),
        rule(f"{here}/attention/output/bias", f"{there}.attention.output.dense.bias"),
    ]
    for part in ("query", "key", "value"):
        ours, theirs = f"{here}/attention/{part}", f"{there}.attention.self.{part}"
        made.append(rule(f"{ours}/kernel", f"{theirs}.weight", LINEAR))
        made.append(rule(f"{ours}/bias", f"{theirs}.bias", FLAT))
    return made if pooler is None else [*made, *linear(pooler, "pooler.dense")]


def adapted(
    tensors: Mapping[str, Tensor], encoder: TextTransformer, source: str
) -> dict[str, Tensor]:
    """The tensors without the prefix of models with a head, and as many positions as are used.

    Raises:
      UserError: if there are fewer positions than the encoder has.
    """
    found = dict(tensors)
    for prefix in PREFIXES:
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    table = found.get(_POSITIONS)
    if table is not None and len(table.shape) == 2:
        count, context = table.shape[0], encoder.context_length + encoder.position_offset
        if count < context:
            most = count - encoder.position_offset
            raise UserError(
                f"{source}: has {most} positions, and context_length is {encoder.context_length};"
                " make it smaller"
            )
        shape = (context, table.shape[1])
        found[_POSITIONS] = Lazy(shape, table.dtype, lambda: table.read()[:context])
    return found
