"""LXMERT in transformers (Tan & Bansal 2019): `LxmertModel` and `LxmertForQuestionAnswering`.

It reads regions of images as features that an object detector made, not images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vljax.data.transforms import DecodeFeatures
from vljax.interop.export_plan import (
    ExportIssues,
    TrainedModel,
    refuse_filters,
    refuse_gated_mlp,
)
from vljax.interop.files.tensors import Tensor
from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.foreign_model import ForeignModel, unprefixed
from vljax.interop.mapping import Rule
from vljax.interop.transformers import bert, questions
from vljax.interop.transformers import tokenizer as texts
from vljax.interop.transformers.towers import ACTIVATIONS, linear, norm, write_stack
from vljax.models.encoders import RegionEncoder, TextTransformer
from vljax.models.fusion import CoAttention
from vljax.models.heads import Classifier
from vljax.models.node import Node

KIND = "lxmert"
PREFIX = "lxmert."
HEADS = r"(cls|obj_predict_head)\..*"
"""Heads of pre-training, which import leaves out."""
IGNORED = (r"embeddings\.position_ids", HEADS)

_EPSILON = 1e-12  # a constant there, not a field
_STACK: dict[str, Any] = {"post_norm": True, "layer_scale": None, "norm_epsilon": _EPSILON}
_TEXT: dict[str, Any] = {
    "causal": False,
    "mask_padding": True,
    "embedding_norm": True,
    "position_offset": 0,
    "pooling": "first",
}
_FUSION: dict[str, Any] = {
    "cross_attention": "before_self",
    "cross_every": 1,
    "shared": True,
    "pooling": "first",
}
_ANSWER: dict[str, Any] = {"features": "pooled", "activation": "gelu", "norm_epsilon": _EPSILON}
_REGIONS = 36
"""Regions of an image in the released features; the configuration does not tell."""


class _Names(NamedTuple):
    """The names of our nodes."""

    text: str
    regions: str
    fusion: str
    answer: str | None


def rules(names: _Names, prefix: str = "") -> list[Rule]:
    """The rules of a model.

    Args:
      names: the names of our nodes.
      prefix: of the foreign names, except those of the head.
    """
    text, regions, fusion, answer = names
    block, layer = f"{fusion}/blocks/{{i}}", "encoder.x_layers.{i}"
    shared = f"{layer}.visual_attention"
    made = [
        *bert.rules(text),
        *linear(f"{regions}/features", "encoder.visn_fc.visn_fc"),
        *norm(f"{regions}/features_norm", "encoder.visn_fc.visn_layer_norm"),
        *linear(f"{regions}/boxes", "encoder.visn_fc.box_fc"),
        *norm(f"{regions}/boxes_norm", "encoder.visn_fc.box_layer_norm"),
        *bert.layer_rules(f"{regions}/blocks/{{i}}", "encoder.r_layers.{i}"),
        *bert.attention_rules(f"{block}/cross_attention", shared, "att"),
        *linear(f"{fusion}/{text}_pooler", "pooler.dense"),
    ]
    for ours, theirs in ((text, "lang"), (regions, "visn")):
        here, there = f"{block}/{ours}", f"{layer}.{theirs}"
        made += bert.attention_rules(f"{here}/attention", f"{there}_self_att")
        made += linear(f"{here}/mlp/up", f"{there}_inter.dense")
        made += linear(f"{here}/mlp/down", f"{there}_output.dense")
        made += norm(f"{here}/mlp_norm", f"{there}_output.LayerNorm")
    made = [dataclasses.replace(each, foreign=f"{prefix}{each.foreign}") for each in made]
    if answer is not None:
        head = "answer_head.logit_fc"
        made += linear(f"{answer}/hidden", f"{head}.0")
        made += norm(f"{answer}/norm", f"{head}.2")
        made += linear(f"{answer}/logits", f"{head}.3")
    return made


def read(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> ForeignModel:
    """A folder whose `config.json` says `lxmert`."""
    config = ForeignConfig(content, str(folder / "config.json"))
    config.must("visual_pos_dim", 4, 4)
    tensors, notes = unprefixed(tensors, (PREFIX,), HEADS)
    width = config.get("hidden_size", 768)
    stack: dict[str, Any] = {
        "width": width,
        "heads": config.get("num_attention_heads", 12),
        "mlp_dim": config.get("intermediate_size", 3072),
        "activation": config.one_of("hidden_act", ACTIVATIONS, "gelu"),
        "scan": False,
        **_STACK,
    }
    context = config.get("max_position_embeddings", 512)
    tokenizer = texts.read(folder, context, config)
    regions = RegionEncoder(
        feature_dim=config.get("visual_feat_dim", 2048),
        regions=_REGIONS,
        depth=config.get("r_layers", 5),
        **stack,
    )
    nodes: dict[str, Node] = {
        "question": TextTransformer(
            vocab_size=config.get("vocab_size", 30522),
            context_length=context,
            token_types=config.get("type_vocab_size", 2),
            depth=config.get("l_layers", 9),
            **stack,
            **_TEXT,
        ),
        "regions": regions,
        "fusion": CoAttention(
            streams=("question", "regions"),
            poolers=("question",),
            depth=config.get("x_layers", 5),
            **stack,
            **_FUSION,
        ),
    }
    answers: tuple[str, ...] = ()
    if "answer_head.logit_fc.0.weight" in tensors:
        classes = config.get("num_qa_labels", 9500)
        nodes["answer"] = Classifier(
            stream="fusion.question", classes=classes, hidden=2 * width, **_ANSWER
        )
        answers = questions.read_answers(config, classes, notes)
    decode = DecodeFeatures(most=regions.regions, dim=regions.feature_dim)
    run = questions.recipe(nodes, (decode,), tokenizer.loaded.config, answers)
    names = _Names("question", "regions", "fusion", "answer" if "answer" in nodes else None)
    return ForeignModel(
        f"transformers {KIND}",
        run,
        tokenizer.loaded,
        tensors,
        rules(names),
        IGNORED,
        notes,
        questions.vocabulary(answers),
    )


def write(trained: TrainedModel, issues: ExportIssues) -> tuple[list[Rule], dict[str, Any]]:
    """The rules, and all files except the arrays."""
    with issues.part("model"):
        names = _names(trained, issues)
        nodes = trained.run.model.nodes
        text, regions, fusion = nodes[names.text], nodes[names.regions], nodes[names.fusion]
        assert isinstance(text, TextTransformer)
        assert isinstance(regions, RegionEncoder)
        assert isinstance(fusion, CoAttention)
        path = "model.nodes.{}".format
        own = {name: getattr(text, name) for name in ("width", "heads", "mlp_dim", "activation")}
        issues.require({**_STACK, **_TEXT}, text, path(names.text))
        issues.require({**_STACK, **own, "pooling": "mean"}, regions, path(names.regions))
        streams = {"streams": (names.text, names.regions), "poolers": (names.text,)}
        issues.require({**_STACK, **own, **_FUSION, **streams}, fusion, path(names.fusion))
        refuse_filters(trained.run.model, issues)
        refuse_gated_mlp(text, issues, path(names.text))
        if not text.token_types:
            issues.refuse(f"{path(names.text)}.token_types", 0, "at least 1", 1)
        head = None if names.answer is None else nodes[names.answer]
        if isinstance(head, Classifier):
            wanted = {"stream": f"{names.fusion}.{names.text}", "hidden": 2 * text.width}
            issues.require({**_ANSWER, **wanted}, head, path(names.answer))
    with issues.part(trained.tokenizer_path):
        inputs = ["input_ids", "attention_mask"]
        tokenizer = texts.write(trained, issues, inputs, bert_names=True)
    issues.stop()
    content = {
        "architectures": ["LxmertModel" if head is None else "LxmertForQuestionAnswering"],
        "model_type": KIND,
        "dtype": trained.dtype,
        **{
            name: value
            for name, value in write_stack(text).items()
            if name not in ("num_hidden_layers", "layer_norm_eps")
        },
        **tokenizer.ids,
        "l_layers": text.depth,
        "r_layers": regions.depth,
        "x_layers": fusion.depth,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "type_vocab_size": text.token_types,
        "visual_feat_dim": regions.feature_dim,
        "visual_pos_dim": 4,
        "hidden_dropout_prob": text.dropout,
        "attention_probs_dropout_prob": 0.0,
    }
    if isinstance(head, Classifier):
        content["num_qa_labels"] = head.classes
        content |= questions.write_answers(trained, head.classes, issues)
    issues.notes.append(
        "transformers has no processor for lxmert: pass visual_feats and visual_pos, the features"
        " and the boxes in 0..1"
    )
    prefix = "" if head is None else PREFIX
    return rules(names, prefix), {"config.json": content, **tokenizer.files}


def _names(trained: TrainedModel, issues: ExportIssues) -> _Names:
    """The names of the nodes. Raises ExportRefused if the model has other parts."""
    nodes = trained.run.model.nodes
    kinds: dict[type, str] = {type(node): name for name, node in nodes.items()}
    needed = {TextTransformer, RegionEncoder, CoAttention}
    if set(kinds) - {Classifier} != needed or len(kinds) != len(nodes):
        wanted = "a text transformer, an encoder of regions, a co_attention and, if needed, a"
        issues.refuse("model", [*nodes], f"{wanted} classifier")
        issues.stop()
    text, regions, fusion = (kinds[k] for k in (TextTransformer, RegionEncoder, CoAttention))
    return _Names(text, regions, fusion, kinds.get(Classifier))
