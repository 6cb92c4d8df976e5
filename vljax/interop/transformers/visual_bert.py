"""VisualBERT in transformers (Li et al. 2019): `VisualBertModel`, `VisualBertForQuestionAnswering`.

It reads regions of images as features that an object detector made, not images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vljax.config import UserError
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
from vljax.interop.mapping import Rule, rule
from vljax.interop.transformers import bert, questions
from vljax.interop.transformers import tokenizer as texts
from vljax.interop.transformers.towers import linear, norm, read_tower, write_stack
from vljax.models.encoders import RegionFeatures, TextTransformer
from vljax.models.fusion import SingleStream
from vljax.models.heads import Classifier
from vljax.models.node import Node

KIND = "visual_bert"
PREFIX = "visual_bert."
HEADS = r"cls\.(predictions|seq_relationship)\..*"
"""Heads of pre-training, which import leaves out."""
IGNORED = (r"embeddings\.position_ids", HEADS)

_ANSWERS = "VisualBertForQuestionAnswering"
# The text encoder only embeds: the norm of embeddings and the transformer are those of the fusion.
_TEXT: dict[str, Any] = {
    "depth": 0,
    "post_norm": True,
    "embedding_norm": False,
    "position_offset": 0,
}
_FUSION: dict[str, Any] = {
    "types": False,  # the encoders add them
    "projected": (),
    "embedding_norm": True,
    "post_norm": True,
    "layer_scale": None,
    "pooling": "first",
    "stream_pooling": "before_eos",
}
_REGIONS = 36
"""Regions of an image; the configuration does not tell."""


class _Names(NamedTuple):
    """The names of our nodes."""

    text: str
    regions: str
    fusion: str
    answer: str | None


def rules(names: _Names, pooler: bool, prefix: str) -> list[Rule]:
    """The rules of a model; `prefix` is that of the foreign names, except those of the head."""
    text, regions, fusion, answer = names
    there = "embeddings"
    made = [
        rule(f"{text}/embedding", f"{there}.word_embeddings.weight"),
        rule(f"{text}/positions", f"{there}.position_embeddings.weight"),
        rule(f"{text}/token_types", f"{there}.token_type_embeddings.weight"),
        *linear(f"{regions}/projection", f"{there}.visual_projection"),
        rule(f"{regions}/token_types", f"{there}.visual_token_type_embeddings.weight"),
        rule(f"{regions}/positions", f"{there}.visual_position_embeddings.weight"),
        *norm(f"{fusion}/embedding_norm", f"{there}.LayerNorm"),
        *bert.layer_rules(f"{fusion}/blocks/{{i}}", "encoder.layer.{i}"),
        *(linear(f"{fusion}/pooler", "pooler.dense") if pooler else []),
    ]
    made = [dataclasses.replace(each, foreign=f"{prefix}{each.foreign}") for each in made]
    return made if answer is None else [*made, *linear(f"{answer}/logits", "cls")]


def read(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> ForeignModel:
    """A folder whose `config.json` says `visual_bert`."""
    config = ForeignConfig(content, str(folder / "config.json"))
    config.must("bypass_transformer", False, False)
    types = config.get("type_vocab_size", 2)
    if types < 2:
        config.fail("type_vocab_size", f"is {types}; regions have the second type")
    tensors, notes = unprefixed(tensors, (PREFIX,), HEADS)
    answers_them = "cls.weight" in tensors
    kinds = config.raw("architectures")
    if answers_them and kinds != [_ANSWERS]:
        config.fail("architectures", f"is {kinds!r}; of heads, vljax has only [{_ANSWERS!r}]")
    context = config.get("max_position_embeddings", 512)
    if not (folder / "tokenizer.json").exists():
        raise UserError(
            f"{folder / 'tokenizer.json'}: no such file; VisualBERT reads the word pieces of BERT:"
            " put the tokenizer.json of bert-base-uncased there"
        )
    tokenizer = texts.read(folder, context, config)
    stack = read_tower(config, activation="gelu", epsilon=1e-12, text=True)
    text = "question" if answers_them else "text"
    regions = RegionFeatures(
        count=_REGIONS,
        dim=config.get("visual_embedding_dim", 512),
        width=stack["width"],
        token_types=types,
        positions=context,
    )
    pooler = answers_them or "pooler.dense.weight" in tensors
    nodes: dict[str, Node] = {
        text: TextTransformer(
            vocab_size=config.get("vocab_size", 30522),
            context_length=context,
            token_types=types,
            pooling="first",
            **{**stack, **_TEXT},
        ),
        "regions": regions,
        "fusion": SingleStream(streams=(text, "regions"), pooler=pooler, **{**stack, **_FUSION}),
    }
    answers: tuple[str, ...] = ()
    if answers_them:
        classes = questions.count_answers(config, tensors["cls.weight"])
        nodes["answer"] = Classifier(stream=f"fusion.{text}", classes=classes)
        answers = questions.read_answers(config, classes, notes)
    decode = DecodeFeatures(most=regions.count, dim=regions.dim)
    run = questions.recipe(nodes, (decode,), tokenizer.loaded.config, answers)
    names = _Names(text, "regions", "fusion", "answer" if answers_them else None)
    return ForeignModel(
        f"transformers {KIND}",
        run,
        tokenizer.loaded,
        tensors,
        rules(names, pooler, ""),
        IGNORED,
        notes,
        questions.vocabulary(answers),
    )


def write(trained: TrainedModel, issues: ExportIssues) -> tuple[list[Rule], dict[str, Any]]:
    """The rules, and all files except the arrays."""
    with issues.part("model"):
        names, text, regions, fusion, head = _parts(trained, issues)
        path = "model.nodes.{}".format
        issues.require(_TEXT, text, path(names.text))
        if text.token_types < 2:
            instead = f"{path(names.text)}.token_types"
            issues.refuse(instead, text.token_types, "at least 2", 2)
        tables = {"token_types": text.token_types, "positions": text.context_length}
        issues.require(tables, regions, path(names.regions))
        streams = {"streams": (names.text, names.regions)}
        needed = {} if head is None else {"pooler": True}
        issues.require({**_FUSION, **streams, **needed}, fusion, path(names.fusion))
        refuse_filters(trained.run.model, issues)
        refuse_gated_mlp(fusion, issues, path(names.fusion))
        if head is not None:
            wanted = {"stream": f"{names.fusion}.{names.text}", "features": "pooled"}
            issues.require({**wanted, "hidden": None}, head, path(names.answer))
    with issues.part(trained.tokenizer_path):
        inputs = ["input_ids", "attention_mask"]
        tokenizer = texts.write(trained, issues, inputs, bert_names=True)
    issues.stop()
    content = {
        "architectures": ["VisualBertModel" if head is None else _ANSWERS],
        "model_type": KIND,
        "dtype": trained.dtype,
        **write_stack(fusion),
        **tokenizer.ids,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "type_vocab_size": text.token_types,
        "visual_embedding_dim": regions.dim,
        "bypass_transformer": False,
        "hidden_dropout_prob": fusion.dropout,
        "attention_probs_dropout_prob": 0.0,
    }
    if head is not None:
        content |= {
            "num_labels": head.classes,
            **questions.write_answers(trained, head.classes, issues),
        }
    issues.notes.append(
        "transformers has no processor for visual_bert: pass visual_embeds and"
        " visual_attention_mask, the features of the regions and their mask"
    )
    if not fusion.pooler:
        model = "VisualBertModel.from_pretrained(OUT, add_pooling_layer=False)"
        issues.notes.append(f"without a pooler: {model}")
    prefix = "" if head is None else PREFIX
    return rules(names, fusion.pooler, prefix), {"config.json": content, **tokenizer.files}


def _parts(
    trained: TrainedModel, issues: ExportIssues
) -> tuple[_Names, TextTransformer, RegionFeatures, SingleStream, Classifier | None]:
    """The names of the nodes, and the nodes. Raises ExportRefused if the model has other parts."""
    nodes = trained.run.model.nodes
    kinds: dict[type, str] = {type(node): name for name, node in nodes.items()}
    needed = {TextTransformer, RegionFeatures, SingleStream}
    if set(kinds) - {Classifier} != needed or len(kinds) != len(nodes):
        parts = "a transformer of texts, region_features, a single_stream and at most a classifier"
        issues.refuse("model", [*nodes], parts)
        issues.stop()
    text, regions, fusion = (kinds[k] for k in (TextTransformer, RegionFeatures, SingleStream))
    names = _Names(text, regions, fusion, kinds.get(Classifier))
    head = None if names.answer is None else nodes[names.answer]
    found = nodes[text], nodes[regions], nodes[fusion]
    assert isinstance(found[0], TextTransformer)
    assert isinstance(found[1], RegionFeatures)
    assert isinstance(found[2], SingleStream)
    assert head is None or isinstance(head, Classifier)
    return names, found[0], found[1], found[2], head
