"""The models of `make_families.py`: sizes and options that differ wherever they can."""

from __future__ import annotations

from typing import Any

_A = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
_B = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
_DINO_A = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2}
_DINO_B = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "mlp_ratio": 3}

SIGLIP2: dict[str, dict[str, Any]] = {
    "siglip2_a": {
        "kind": "siglip2",
        "vision": {**_A, "patch_size": 4, "num_patches": 25},
        "text": {**_B, "max_position_embeddings": 12},
        "budget": 24,
        "masks": False,
    },
    "siglip2_b": {
        "kind": "siglip2",
        "vision": {**_B, "patch_size": 6, "num_patches": 16, "layer_norm_eps": 1e-5},
        "text": {**_A, "max_position_embeddings": 9, "hidden_act": "gelu"},
        "budget": 30,
        "masks": True,
    },
}

IMAGE: dict[str, dict[str, Any]] = {
    "vit_a": {"kind": "vit", "config": {**_A, "image_size": 32, "patch_size": 8}},
    "vit_b": {
        "kind": "vit",
        "config": {**_B, "image_size": 30, "patch_size": 6, "pooler_output_size": 20},
    },
    # As the released ones: positions for larger images than the processor makes.
    "dinov2_a": {
        "kind": "dinov2",
        "config": {**_DINO_A, "image_size": 56, "patch_size": 8},
        "sizes": (36, 32),
    },
    "dinov2_b": {
        "kind": "dinov2",
        "config": {
            **_DINO_B,
            "image_size": 30,
            "patch_size": 6,
            "use_swiglu_ffn": True,
            "use_mask_token": False,
        },
        "sizes": (30, 30),
    },
    "dinov2_with_registers_a": {
        "kind": "dinov2_with_registers",
        "config": {**_DINO_A, "image_size": 56, "patch_size": 8, "num_register_tokens": 4},
        "sizes": (36, 32),
    },
    "dinov2_with_registers_b": {
        "kind": "dinov2_with_registers",
        "config": {**_DINO_B, "image_size": 30, "patch_size": 6, "num_register_tokens": 2},
        "sizes": (34, 30),
    },
}

TEXT: dict[str, dict[str, Any]] = {
    "bert_a": {"kind": "bert", "config": {**_A, "max_position_embeddings": 12}},
    "bert_b": {
        "kind": "bert",
        "config": {**_B, "max_position_embeddings": 9, "hidden_act": "gelu_new"},
    },
    "roberta_a": {
        "kind": "roberta",
        "config": {**_A, "max_position_embeddings": 14, "type_vocab_size": 1},
    },
    "roberta_b": {
        "kind": "roberta",
        "config": {**_B, "max_position_embeddings": 11, "layer_norm_eps": 1e-5},
    },
}
