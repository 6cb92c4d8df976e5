"""Text towers in transformers: `BertModel` and `RobertaModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vljax.interop import bert
from vljax.interop import transformers_texts as texts
from vljax.interop.expressible import Fields, Losses
from vljax.interop.format import Reading, Trained, require_activation
from vljax.interop.lone_tower import one_tower, read_head, text_run, unprefixed
from vljax.interop.mapping import Rule
from vljax.interop.tensors import Tensor
from vljax.interop.transformers_towers import read_tower, write_stack
from vljax.run import TextTransformer

_CLASSES = {"bert": "BertModel", "roberta": "RobertaModel"}
KINDS = tuple(_CLASSES)
_FORM: dict[str, Any] = {
    "causal": False,
    "mask_padding": True,
    "pooling": "first",
    "post_norm": True,
    "embedding_norm": True,
}


def read(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> Reading:
    """A folder whose `config.json` says one of `KINDS`."""
    config = Fields(content, str(folder / "config.json"))
    kind = str(config.raw("model_type"))
    for name in ("is_decoder", "add_cross_attention"):
        config.must(name, False, False)
    config.must("position_embedding_type", "absolute", "absolute")
    tensors, notes = unprefixed(tensors, bert.PREFIXES, bert.HEADS)
    roberta = kind == "roberta"
    # RoBERTa counts positions from behind the id of padding.
    offset = config.get("pad_token_id", 1) + 1 if roberta else 0
    context = config.get("max_position_embeddings", 512) - offset
    tokenizer = texts.read(folder, context)
    pad = tokenizer.loaded.special.pad
    if roberta and pad + 1 != offset:
        config.fail("pad_token_id", f"is {offset - 1}, and the tokenizer pads with {pad}")
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
    rules = bert.rules("text", pooler)
    return Reading(
        f"transformers {kind}", run, tokenizer.loaded, tensors, rules, bert.IGNORED, notes
    )


def write(trained: Trained, losses: Losses) -> tuple[list[Rule], dict[str, Any]]:
    """The rules, and the files beside the arrays."""
    encoder, head, label = one_tower(trained, losses, "text", TextTransformer)
    kind, path = kind_of(encoder), "model.encoders.text"
    losses.require({**_FORM, "layer_scale": None}, encoder, path)
    require_activation(encoder, losses, path)
    if not encoder.token_types:
        losses.refuse(f"{path}.token_types", 0, "at least 1")
    inputs = ["input_ids", "attention_mask"]
    tokenizer = texts.write(trained, losses, inputs, bert_names=True)
    pad = tokenizer.ids["pad_token_id"]
    if kind == "roberta" and encoder.position_offset != (pad or 0) + 1:
        losses.refuse(f"{path}.position_offset", encoder.position_offset, "the id of padding + 1")
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
        losses.notes.append(
            f"without a pooler: {name}.from_pretrained(OUT, add_pooling_layer=False)"
        )
    elif head.dim != encoder.width:
        losses.refuse(f"model.heads.{label}.dim", head.dim, f"{encoder.width}, the width")
    return bert.rules("text", pooler), {"config.json": content, **tokenizer.files}


def kind_of(encoder: TextTransformer) -> str:
    """The `model_type` that has such towers."""
    return "roberta" if encoder.position_offset else "bert"
