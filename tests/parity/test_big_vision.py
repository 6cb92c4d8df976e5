"""Towers of big_vision as pretrained weights, against its own modules (`make_big_vision.py`).

The references are float64, the towers compute in float32.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.config import UserError, differences
from vljax.data.pipeline.pipeline import Data
from vljax.data.tokenizers import HuggingFace
from vljax.data.transforms import ChooseText, Decode, Resize, Tokenize
from vljax.datasets import Builtin
from vljax.interop import pretrained
from vljax.models.assembly import ModelConfig, Variables
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.models.pretrained import Pretrained
from vljax.objectives import SigmoidContrastive, SoftmaxContrastive
from vljax.run import Run, prepare

DATA = Path(__file__).parent / "data"
SIGLIP, LIT = DATA / "big_vision.npz", DATA / "big_vision_cls.npz"
TOLERANCE = 5e-6


def run(path: Path, *, scan: bool) -> Run:
    """A model of the file's sizes, with all weights from the file."""
    siglip = path == SIGLIP
    image = ViT(
        **{"image_size": 32, "patch_size": 8, "width": 32, "depth": 3, "heads": 4, "mlp_dim": 56},
        pooling="map" if siglip else "cls",
        scan=scan,
    )
    text = TextTransformer(
        **{"width": 24, "depth": 2, "heads": 3, "mlp_dim": 40, "vocab_size": 50},
        context_length=9,
        mask_padding=False,
        pooling="last" if siglip else "map",
        scan=scan,
    )
    projections = {"image": "none" if siglip else "affine", "text": "affine"}
    names = ["image", "text", "logit_scale", *(["logit_bias"] if siglip else [])]
    transforms = (Decode(), Resize(32), ChooseText(), Tokenize())
    return Run(
        model=ModelConfig(
            {
                "image": image,
                "text": text,
                "embedding": Embedding(32 if siglip else 20, projections),
            }
        ),
        pretrained={name: Pretrained(path=str(path), layout="big_vision") for name in names},
        data=Data(
            source=Builtin(),
            tokenizers={"text": HuggingFace(None, context_length=9)},
            train_transforms=transforms,
            eval_transforms=transforms,
        ),
        objectives={"main": SigmoidContrastive() if siglip else SoftmaxContrastive()},
        steps=1,
        global_batch=8,
    )


@functools.cache
def prepared(path: Path, scan: bool):
    return prepare(run(path, scan=scan))


@pytest.mark.parametrize("path", [SIGLIP, LIT], ids=["siglip", "lit"])
@pytest.mark.parametrize("scan", [False, True])
def test_both_towers_compute_the_same_as_in_big_vision(path, scan):
    of = prepared(path, scan)
    loaded = pretrained.load(of)
    shapes = of.shapes.params
    assert jax.tree.map(np.shape, loaded.params) == jax.tree.map(np.shape, shapes)
    with np.load(path.with_name(f"{path.stem}_outputs.npz")) as stored:
        wanted = dict(stored)
    batch = {name: jnp.asarray(wanted[name]) for name in ("image", "text")}
    batch["text_mask"] = jnp.ones(batch["text"].shape, bool)
    apply = jax.jit(lambda v: of.model.apply(v, batch)[0])
    outputs = apply(Variables(loaded.params, {}))
    for name in ("image/pooled", "text/pooled", "image/embedding", "text/embedding"):
        np.testing.assert_allclose(outputs[name], wanted[name], atol=TOLERANCE, err_msg=name)
    with np.load(path) as weights:
        assert outputs["logit_scale"] == weights["params/t"][0]
        assert "params/b" not in weights or outputs["logit_bias"] == weights["params/b"][0]


def with_source(like: Path, name: str, **fields) -> Run:
    """The model of a file with one source of weights."""
    of = prepared(like, False).run
    source = Pretrained(**{"path": str(like), "layout": "big_vision", **fields})
    return dataclasses.replace(of, pretrained={name: source})


@pytest.mark.parametrize("part", ["", ":img"])
def test_one_tower_may_be_loaded_alone(part):
    of = prepare(with_source(LIT, "image", path=f"{LIT}{part}"))
    assert set(pretrained.load(of).params) == {"image", "embedding"}
    assert set(pretrained.load(of).params["embedding"]) == {"image"}


def test_the_classifier_of_a_single_tower_is_left_out(tmp_path):
    with np.load(LIT) as stored:
        tower = {
            k.removeprefix("params/img/"): v
            for k, v in stored.items()
            if k.startswith("params/img/")
        }
    np.savez(tmp_path / "vit.npz", **tower)
    of = prepare(with_source(LIT, "image", path=str(tmp_path / "vit.npz")))
    assert set(pretrained.load(of).params) == {"image"}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("image", {"path": f"{SIGLIP}:imag"}, "has no part 'imag'; did you mean"),
        ("image", {"path": "nowhere.npz"}, "nowhere.npz: no such file"),
        ("image", {"path": None}, r"pretrained\.image\.path: unset; add --pretrained\.image\.path"),
        ("image", {"layout": "bert"}, "bert is for transformer, but model.nodes.image is vit"),
        (
            "imag",
            {},
            "pretrained: the model has no encoder or learned scalar 'imag'; did you mean 'image'",
        ),
        ("image", {"path": str(SIGLIP)}, "lacks 'cls'"),
    ],
)
def test_fields_that_do_not_fit_are_an_error(name, fields, message):
    with pytest.raises(UserError, match=message):
        pretrained.load(prepare(with_source(LIT, name, **fields)))


def test_the_digest_of_a_file_belongs_to_the_identity_of_a_run():
    run = with_source(LIT, "image")
    digest = pretrained.pinned(run).pretrained["image"].sha256
    assert len(digest) == 64
    again = with_source(LIT, "image", sha256=digest)
    assert pretrained.pinned(again) == pretrained.pinned(run)
    other = with_source(SIGLIP, "image", sha256=digest)
    with pytest.raises(UserError, match=r"pretrained\.image\.sha256: .* it is another file"):
        pretrained.pinned(other)


def test_a_recipe_with_a_digest_has_the_same_identity_without_the_file():
    there = with_source(LIT, "image", sha256="0" * 64)
    gone = with_source(LIT, "image", path="moved.npz", sha256="0" * 64)
    assert not differences(there, gone)
    assert differences(there, with_source(LIT, "image", sha256="1" * 64))
    assert pretrained.pinned(gone) == gone
