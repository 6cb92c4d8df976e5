"""ViLT in transformers (Kim et al. 2021).

The models are `ViltModel`, `ViltForQuestionAnswering` and `ViltForImageAndTextRetrieval`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vljax.data.transforms import Decode, Patchify, Transform
from vljax.data.transforms.patches import most_patches
from vljax.interop.export_plan import (
    ExportIssues,
    TrainedModel,
    refuse_filters,
    refuse_gated_mlp,
    transform_path,
)
from vljax.interop.files.tensors import Tensor
from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.foreign_model import ForeignModel, unprefixed
from vljax.interop.mapping import BATCHED, CONVOLUTION, STACKED_BATCHED, Rule, rule
from vljax.interop.transformers import images, questions, vit
from vljax.interop.transformers import tokenizer as texts
from vljax.interop.transformers.towers import linear, norm, read_tower, write_stack
from vljax.models.encoders import NaFlexViT, TextTransformer
from vljax.models.fusion import SingleStream
from vljax.models.heads import Classifier
from vljax.models.node import Node

KIND = "vilt"
PREFIX = "vilt."
HEADS = r"mlm_score\..*|classifier\.(weight|bias)"
"""Heads for other tasks, which import leaves out: masked words, and classes of tokens."""
IGNORED = (r"embeddings\.text_embeddings\.(position_ids|token_type_ids)", HEADS)

# The encoders only embed: the transformer is that of the fusion.
_SHALLOW: dict[str, Any] = {"depth": 0, "post_norm": True}
_IMAGE: dict[str, Any] = {
    **_SHALLOW,
    "pooling": "cls",
    "cls_position": True,
    "positions": "learned",
    "position_filter": "bilinear_corners",
    "input_norm": False,
    "patch_bias": True,
    "registers": 0,
    "mask_token": False,
}
_TEXT: dict[str, Any] = {**_SHALLOW, "embedding_norm": True, "position_offset": 0}
_FUSION: dict[str, Any] = {
    "types": True,
    "projected": (),
    "embedding_norm": False,
    "post_norm": False,
    "layer_scale": None,
    "pooling": "first",
}
# The layer norm of the head has the epsilon of PyTorch, which no field there changes.
_ANSWER: dict[str, Any] = {"norm": "before", "activation": "gelu", "norm_epsilon": 1e-5}


class _Names(NamedTuple):
    """The names of our nodes."""

    text: str
    image: str
    fusion: str
    head: str | None


def rules(names: _Names, fusion: SingleStream, head: Classifier | None, prefix: str) -> list[Rule]:
    """The rules of a model; `prefix` is that of the foreign names, except those of the head."""
    text, image, own, label = names
    words, there = "embeddings.text_embeddings", "embeddings"
    positions = (f"{image}/cls_position", f"{image}/positions")
    made = [
        rule(f"{text}/embedding", f"{words}.word_embeddings.weight"),
        rule(f"{text}/positions", f"{words}.position_embeddings.weight"),
        rule(f"{text}/token_types", f"{words}.token_type_embeddings.weight"),
        *norm(f"{text}/embedding_norm", f"{words}.LayerNorm"),
        rule(f"{image}/cls", f"{there}.cls_token", BATCHED),
        rule(positions, f"{there}.position_embeddings", STACKED_BATCHED),
        rule(
            f"{image}/patch_embedding", f"{there}.patch_embeddings.projection.weight", CONVOLUTION
        ),
        rule(f"{image}/patch_bias", f"{there}.patch_embeddings.projection.bias"),
        rule(f"{own}/types", f"{there}.token_type_embeddings.weight"),
        *vit.blocks(f"{own}/blocks/{{i}}", fusion),
        *norm(f"{own}/norm", "layernorm"),
        *(linear(f"{own}/pooler", "pooler.dense") if fusion.pooler else []),
    ]
    made = [dataclasses.replace(each, foreign=f"{prefix}{each.foreign}") for each in made]
    if head is None:
        return made
    if head.hidden is None:
        return [*made, *linear(f"{label}/logits", "rank_output")]
    return [
        *made,
        *linear(f"{label}/hidden", "classifier.0"),
        *norm(f"{label}/norm", "classifier.1"),
        *linear(f"{label}/logits", "classifier.3"),
    ]


def read(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> ForeignModel:
    """A folder whose `config.json` says `vilt`."""
    config = ForeignConfig(content, str(folder / "config.json"))
    config.must("qkv_bias", True, True)
    config.must("modality_type_vocab_size", 2, 2)
    tensors, notes = unprefixed(tensors, (PREFIX,), HEADS)
    size, patch = config.side("image_size", 384), config.side("patch_size", 32)
    patchify, pixels = _read_processor(folder, patch)
    limit = config.get("max_image_length", -1)
    if 0 <= limit < patchify.lengths[0]:
        config.fail(
            "max_image_length",
            f"is {limit}: transformers reads {limit} random patches of images that have more,"
            f" vljax reads all of them; use -1 (or at least {patchify.lengths[0]})",
        )
    context = config.get("max_position_embeddings", 40)
    tokenizer = texts.read(folder, context, config)
    stack = read_tower(config, activation="gelu", epsilon=1e-12, text=False)
    width = stack["width"]
    asks = "classifier.3.weight" in tensors
    text = "question" if asks else "text"
    ranks = "rank_output.weight" in tensors
    fusion = SingleStream(
        streams=(text, "image"),
        pooler=asks or ranks or "pooler.dense.weight" in tensors,
        **{**stack, **_FUSION},
    )
    nodes: dict[str, Node] = {
        text: TextTransformer(
            vocab_size=config.get("vocab_size", 30522),
            context_length=context,
            token_types=config.get("type_vocab_size", 2),
            pooling="first",
            **{**stack, **_TEXT},
        ),
        "image": NaFlexViT(
            image_size=size // max(1, patch) * patch,
            patch_size=patch,
            **{**stack, **_IMAGE},
            **pixels,
        ),
        "fusion": fusion,
    }
    answers: tuple[str, ...] = ()
    head, label = None, None
    if asks:
        classes = questions.count_answers(config, tensors["classifier.3.weight"])
        head = Classifier(stream="fusion", classes=classes, hidden=2 * width, **_ANSWER)
        label = "answer"
        answers = questions.read_answers(config, classes, notes)
    elif ranks:
        head, label = Classifier(stream="fusion", classes=1), "match"
    if head is not None and label is not None:
        nodes[label] = head
    inputs = (Decode(), patchify)
    run = questions.recipe(nodes, inputs, tokenizer.loaded.config, answers, loss="sigmoid")
    return ForeignModel(
        f"transformers {KIND}",
        run,
        tokenizer.loaded,
        tensors,
        rules(_Names(text, "image", "fusion", label), fusion, head, ""),
        IGNORED,
        notes,
        questions.vocabulary(answers),
    )


def _read_processor(folder: Path, patch: int) -> tuple[Patchify, dict[str, Any]]:
    """The transform from images to patches, and our fields for pixel normalisation."""
    fields = images.processor(folder)
    kind = images.processor_class(fields, KIND)
    if not kind.startswith("Vilt"):
        fields.fail("image_processor_type", f"is {kind!r}; vilt has ViltImageProcessor")
    images.check_steps(fields)
    fields.must("do_pad", True, True)
    fields.must("size_divisor", patch, 32)
    stated = fields.raw("size", {"shortest_edge": 384})
    shortest = stated.get("shortest_edge") if isinstance(stated, dict) else stated
    if not isinstance(shortest, int) or isinstance(shortest, bool) or shortest < patch:
        fields.fail("size", f"{stated!r} does not state a shortest_edge of at least {patch} pixels")
    assert isinstance(shortest, int)
    name: Any = images.interpolation(fields, "bicubic")
    most = (most_patches(shortest, patch),)
    patchify = Patchify(patch, most, interpolation=name, shortest=shortest)
    return patchify, images.normalisation(fields)


def write(trained: TrainedModel, issues: ExportIssues) -> tuple[list[Rule], dict[str, Any]]:
    """The rules, and all files except the arrays."""
    with issues.part("model"):
        names, text, image, fusion, head = _parts(trained, issues)
        path = "model.nodes.{}".format
        own = {"norm_epsilon": fusion.norm_epsilon}
        issues.require({**_TEXT, **own}, text, path(names.text))
        issues.require(_IMAGE, image, path(names.image))
        streams = {"streams": (names.text, names.image)}
        issues.require({**_FUSION, **streams}, fusion, path(names.fusion))
        refuse_filters(trained.run.model, issues)
        refuse_gated_mlp(fusion, issues, path(names.fusion))
        if not text.token_types:
            issues.refuse(f"{path(names.text)}.token_types", 0, "at least 1", 1)
        if head is not None:
            issues.require({"pooler": True}, fusion, path(names.fusion))
            reads = {"stream": names.fusion, "features": "pooled"}
            hidden = {"hidden": 2 * fusion.width, **_ANSWER}
            ranks = head.classes == 1 and head.hidden is None
            issues.require(reads if ranks else {**reads, **hidden}, head, path(names.head))
    with issues.part(trained.tokenizer_path):
        inputs = ["input_ids", "attention_mask"]
        tokenizer = texts.write(trained, issues, inputs, bert_names=True)
    with issues.part("data.eval_transforms"):
        processor = _write_processor(trained.run.data.eval_transforms, issues)
    issues.stop()
    if head is None:
        kind = "ViltModel"
    else:
        ranks = head.hidden is None
        kind = "ViltForImageAndTextRetrieval" if ranks else "ViltForQuestionAnswering"
    content = {
        "architectures": [kind],
        "model_type": KIND,
        "dtype": trained.dtype,
        **write_stack(fusion),
        **tokenizer.ids,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "type_vocab_size": text.token_types,
        "modality_type_vocab_size": 2,
        "image_size": image.image_size,
        "patch_size": image.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "max_image_length": -1,
        "hidden_dropout_prob": fusion.dropout,
        "attention_probs_dropout_prob": 0.0,
    }
    if head is not None and head.hidden is not None:
        content |= {
            "num_labels": head.classes,
            **questions.write_answers(trained, head.classes, issues),
        }
    if head is None and not fusion.pooler:
        issues.notes.append(
            "without a pooler: ViltModel.from_pretrained(OUT, add_pooling_layer=False)"
        )
    processor |= images.written_normalisation(image) | {"size_divisor": image.patch_size}
    files = {"config.json": content, "preprocessor_config.json": processor, **tokenizer.files}
    return rules(names, fusion, head, "" if head is None else PREFIX), files


def _write_processor(transforms: Sequence[Transform], issues: ExportIssues) -> dict[str, Any]:
    """The content of `preprocessor_config.json`, without what the image encoder decides."""
    patchify = images.only_patchify(transforms, issues)
    path = transform_path(transforms, patchify)
    if patchify.shortest is None:
        issues.refuse(f"{path}.shortest", None, "a length of the shortest side in pixels", 384)
    issues.stop()
    issues.notes.append(
        "AutoProcessor.from_pretrained(FOLDER, backend='pil') gives the same pixels; its default,"
        " torchvision, sometimes differs by one level"
    )
    return {
        "image_processor_type": "ViltImageProcessor",
        "processor_class": "ViltProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": patchify.shortest},
        "resample": images.FILTERS[patchify.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_pad": True,
    }


def _parts(
    trained: TrainedModel, issues: ExportIssues
) -> tuple[_Names, TextTransformer, NaFlexViT, SingleStream, Classifier | None]:
    """The names of the nodes, and the nodes. Raises ExportRefused if the model has other parts."""
    nodes = trained.run.model.nodes
    kinds: dict[type, str] = {type(node): name for name, node in nodes.items()}
    needed = {TextTransformer, NaFlexViT, SingleStream}
    if set(kinds) - {Classifier} != needed or len(kinds) != len(nodes):
        wanted = "a transformer of texts, a naflex_vit, a single_stream and at most a classifier"
        issues.refuse("model", [*nodes], wanted)
        issues.stop()
    names = _Names(
        kinds[TextTransformer], kinds[NaFlexViT], kinds[SingleStream], kinds.get(Classifier)
    )
    text, image, fusion = nodes[names.text], nodes[names.image], nodes[names.fusion]
    head = None if names.head is None else nodes[names.head]
    assert isinstance(text, TextTransformer)
    assert isinstance(image, NaFlexViT)
    assert isinstance(fusion, SingleStream)
    assert head is None or isinstance(head, Classifier)
    return names, text, image, fusion, head
