"""Text towers of transformers: BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019).

The models are `BertModel` and `RobertaModel`. `rules`, `check` and `adapted` also serve
`Run.pretrained`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vljax.config import UserError
from vljax.interop.export_plan import ExportIssues, TrainedModel, refuse_gated_mlp, single_tower
from vljax.interop.files.tensors import Lazy, Tensor
from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.foreign_model import ForeignModel, read_head, text_run, unprefixed
from vljax.interop.mapping import FLAT, LINEAR, LINEAR_OUT, Rule, rule
from vljax.interop.transformers import tokenizer as texts
from vljax.interop.transformers.towers import linear, norm, read_tower, write_stack
from vljax.models.encoders import TextTransformer

PREFIXES = ("bert.", "roberta.")
HEADS = r"(cls|lm_head|classifier|qa_outputs)\..*"
IGNORED = (r"embeddings\.position_ids", HEADS)
"""A table of 0, 1, 2, ..., and heads for tasks, which import leaves out."""

_POSITIONS = "embeddings.position_embeddings.weight"
# Fields that are the same for all of these towers. Pretrained values allow any pooling.
_PRETRAINED_FORM = {
    "post_norm": True,
    "embedding_norm": True,
    "causal": False,
    "activation": "gelu",
    "mask_padding": True,
}


def check(name: str, encoder: TextTransformer, layout: str) -> None:
    """Raises UserError if an encoder does not fit a layout, "bert" or "roberta"."""
    for field, wanted in _PRETRAINED_FORM.items():
        if getattr(encoder, field) != wanted:
            path = f"model.nodes.{name}.{field}"
            raise UserError(f"{path}: must be {wanted} for weights of {layout}")
    if bool(encoder.position_offset) != (layout == "roberta"):
        wanted = "2" if layout == "roberta" else "0"
        path = f"model.nodes.{name}.position_offset"
        raise UserError(f"{path}: must be {wanted} for weights of {layout}")


def rules(name: str, pooler: str | None = None) -> list[Rule]:
    """The rules of an encoder.

    Args:
      name: the encoder's name in the model.
      pooler: our path of the pooler, or None.
    """
    made = [
        rule(f"{name}/embedding", "embeddings.word_embeddings.weight"),
        rule(f"{name}/positions", _POSITIONS),
        rule(f"{name}/token_types", "embeddings.token_type_embeddings.weight"),
        *norm(f"{name}/embedding_norm", "embeddings.LayerNorm"),
        *layer_rules(f"{name}/blocks/{{i}}", "encoder.layer.{i}"),
    ]
    return made if pooler is None else [*made, *linear(pooler, "pooler.dense")]


def layer_rules(here: str, there: str) -> list[Rule]:
    """The rules of a layer, which BLIP and LXMERT share."""
    return [
        *attention_rules(f"{here}/attention", f"{there}.attention"),
        *linear(f"{here}/mlp/up", f"{there}.intermediate.dense"),
        *linear(f"{here}/mlp/down", f"{there}.output.dense"),
        *norm(f"{here}/mlp_norm", f"{there}.output.LayerNorm"),
    ]


def attention_rules(here: str, there: str, inner: str = "self") -> list[Rule]:
    """The rules of an attention and of the norm after it.

    Args:
      here: our path; that of the norm ends with `_norm`.
      there: the foreign name of both.
      inner: the name of query, key and value there.
    """
    made = [
        rule(f"{here}/output/kernel", f"{there}.output.dense.weight", LINEAR_OUT),
        rule(f"{here}/output/bias", f"{there}.output.dense.bias"),
        *norm(f"{here}_norm", f"{there}.output.LayerNorm"),
    ]
    for part in ("query", "key", "value"):
        made.append(rule(f"{here}/{part}/kernel", f"{there}.{inner}.{part}.weight", LINEAR))
        made.append(rule(f"{here}/{part}/bias", f"{there}.{inner}.{part}.bias", FLAT))
    return made


def adapted(
    tensors: Mapping[str, Tensor], encoder: TextTransformer, source: str
) -> dict[str, Tensor]:
    """The tensors without the prefixes of task models, and only the positions that are used.

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
                f"{source}: has {most} positions, but context_length is {encoder.context_length};"
                " make it smaller"
            )
        shape = (context, table.shape[1])
        found[_POSITIONS] = Lazy(shape, table.dtype, lambda: table.read()[:context])
    return found


# --- Folders ---

_CLASSES = {"bert": "BertModel", "roberta": "RobertaModel"}
KINDS = tuple(_CLASSES)
_FORM: dict[str, Any] = {
    "causal": False,
    "mask_padding": True,
    "pooling": "first",
    "post_norm": True,
    "embedding_norm": True,
}


def read(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> ForeignModel:
    """A folder whose `config.json` says one of `KINDS`."""
    config = ForeignConfig(content, str(folder / "config.json"))
    kind = str(config.raw("model_type"))
    for name in ("is_decoder", "add_cross_attention"):
        config.must(name, False, False)
    config.must("position_embedding_type", "absolute", "absolute")
    tensors, notes = unprefixed(tensors, PREFIXES, HEADS)
    roberta = kind == "roberta"
    # RoBERTa numbers positions from the id of padding + 1.
    offset = config.get("pad_token_id", 1) + 1 if roberta else 0
    context = config.get("max_position_embeddings", 512) - offset
    tokenizer = texts.read(folder, context, config)
    pad = tokenizer.loaded.special.pad
    if roberta and pad + 1 != offset:
        config.fail("pad_token_id", f"is {offset - 1}, but the tokenizer pads with {pad}")
    encoder = TextTransformer(
        vocab_size=config.get("vocab_size", 50265 if roberta else 30522),
        context_length=context,
        token_types=config.get("type_vocab_size", 2),
        position_offset=offset,
        **read_tower(config, activation="gelu", epsilon=1e-12, text=True),
        **_FORM,
    )
    head = read_head("text", encoder.width, tensors)
    pooler = "embedding/text" if head.projections["text"] == "tanh" else None
    run = text_run(encoder, head, tokenizer.loaded)
    return ForeignModel(
        f"transformers {kind}",
        run,
        tokenizer.loaded,
        tensors,
        rules("text", pooler),
        IGNORED,
        notes,
    )


def write(trained: TrainedModel, issues: ExportIssues) -> tuple[list[Rule], dict[str, Any]]:
    """The rules, and all files except the arrays."""
    path = "model.nodes.text"
    with issues.part("model"):
        encoder, head, label = single_tower(trained, issues, "text", TextTransformer)
        kind = kind_of(encoder)
        issues.require({**_FORM, "layer_scale": None}, encoder, path)
        refuse_gated_mlp(encoder, issues, path)
        if not encoder.token_types:
            issues.refuse(f"{path}.token_types", 0, "at least 1", 1)
        if head.projections["text"] == "tanh" and head.dim != encoder.width:
            width = f"{encoder.width}, the width"
            issues.refuse(f"model.nodes.{label}.dim", head.dim, width, encoder.width)
    with issues.part(trained.tokenizer_path):
        inputs = ["input_ids", "attention_mask"]
        tokenizer = texts.write(trained, issues, inputs, bert_names=True)
        first = (tokenizer.ids["pad_token_id"] or 0) + 1
        offset = getattr(trained.run.model.encoders.get("text"), "position_offset", 0)
        if offset not in (0, first):
            issues.refuse(f"{path}.position_offset", offset, "the id of padding + 1", first)
    issues.stop()
    content = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "dtype": trained.dtype,
        **write_stack(encoder),
        **tokenizer.ids,
        "vocab_size": encoder.vocab_size,
        "max_position_embeddings": encoder.context_length + encoder.position_offset,
        "type_vocab_size": encoder.token_types,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": 0.0,
        "is_decoder": False,
    }
    pooler = f"{label}/text" if head.projections["text"] == "tanh" else None
    if pooler is None:
        name = _CLASSES[kind]
        issues.notes.append(
            f"without a pooler: {name}.from_pretrained(OUT, add_pooling_layer=False)"
        )
    return rules("text", pooler), {"config.json": content, **tokenizer.files}


def kind_of(encoder: TextTransformer) -> str:
    """The `model_type` of an encoder."""
    return "roberta" if encoder.position_offset else "bert"
