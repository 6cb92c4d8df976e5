"""The models of `make_fusions.py`: sizes and options that differ wherever they can."""

from __future__ import annotations

from typing import Any

_A = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}
_B = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}

BLIP: dict[str, dict[str, Any]] = {
    "blip_a": {
        "kind": "blip",
        "vision": {**_A, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
        "text": {**_B, "num_hidden_layers": 1, "max_position_embeddings": 12},
        "dim": 20,
    },
    "blip_b": {
        "kind": "blip",
        "vision": {
            **_B,
            "num_hidden_layers": 1,
            "image_size": 30,
            "patch_size": 6,
            "layer_norm_eps": 1e-3,
        },
        "text": {
            **_A,
            "num_hidden_layers": 2,
            "max_position_embeddings": 9,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
        },
        "dim": 12,
    },
}

LXMERT: dict[str, dict[str, Any]] = {
    "lxmert_a": {
        "kind": "lxmert",
        "config": {
            **_A,
            "l_layers": 2,
            "r_layers": 1,
            "x_layers": 2,
            "visual_feat_dim": 10,
            "max_position_embeddings": 12,
        },
        "answers": ("yes", "no", "Red", "2 dogs", "left of it"),
    },
    # LxmertModel, without a head for answers.
    "lxmert_b": {
        "kind": "lxmert",
        "config": {
            **_B,
            "l_layers": 1,
            "r_layers": 2,
            "x_layers": 1,
            "visual_feat_dim": 7,
            "max_position_embeddings": 9,
            "hidden_act": "gelu_new",
            "type_vocab_size": 1,
        },
        "answers": (),
    },
}

_LAYERS_A, _LAYERS_B = {**_A, "num_hidden_layers": 2}, {**_B, "num_hidden_layers": 1}

VILT: dict[str, dict[str, Any]] = {
    "vilt_a": {
        "kind": "vilt",
        "config": {
            **_LAYERS_A,
            "image_size": 32,
            "patch_size": 8,
            "max_position_embeddings": 12,
        },
        "shortest": 32,
        "model": "ViltForQuestionAnswering",
        "answers": ("yes", "no", "Red", "2 dogs", "left of it"),
    },
    "vilt_b": {
        "kind": "vilt",
        "config": {
            **_LAYERS_B,
            "image_size": 30,
            "patch_size": 6,
            "max_position_embeddings": 9,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "type_vocab_size": 3,
        },
        "shortest": 20,
        "model": "ViltForImageAndTextRetrieval",
        "answers": (),
    },
    "vilt_c": {
        "kind": "vilt",
        "config": {
            **_LAYERS_B,
            "image_size": 20,
            "patch_size": 4,
            "max_position_embeddings": 9,
            "type_vocab_size": 1,
        },
        "shortest": 17,
        "model": "ViltModel",
        "answers": (),
    },
}

VISUAL_BERT: dict[str, dict[str, Any]] = {
    "visual_bert_a": {
        "kind": "visual_bert",
        "config": {**_LAYERS_A, "visual_embedding_dim": 10, "max_position_embeddings": 12},
        "model": "VisualBertForQuestionAnswering",
        "answers": ("yes", "no", "Red", "2 dogs", "left of it", "blue"),
    },
    "visual_bert_b": {
        "kind": "visual_bert",
        "config": {
            **_LAYERS_B,
            "visual_embedding_dim": 7,
            "max_position_embeddings": 9,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "type_vocab_size": 3,
        },
        "model": "VisualBertModel",
        "answers": (),
    },
}

CASES = {**BLIP, **LXMERT, **VILT, **VISUAL_BERT}
