"""A sharded evaluation set has the same rows as the whole set."""

from pathlib import Path

import jax
import numpy as np
import pytest

from vljax import config
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.datasets import Builtin
from vljax.evaluation.evaluator import EvaluationData, ShardedEvaluationSet
from vljax.parallel import rows
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rules import batch_sharding
from vljax.run import Run

RECIPE = Path(__file__).parents[2] / "configs" / "quickstart.py"


@pytest.fixture(scope="module")
def whole():
    return EvaluationSet(config.load(f"{RECIPE}:tiny", Run).data, Builtin("validation"))


def test_batches_are_the_same(whole, monkeypatch):
    # As on a host whose devices are not adjacent in the mesh: their parts are read separately.
    monkeypatch.setattr(
        rows, "local_parts", lambda sharding, size: rows.BatchParts((0, 1, 2, 3), 4)
    )
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    split = ShardedEvaluationSet(whole, mesh)
    for found, expected in zip(split.batches(64), whole.batches(64), strict=True):
        assert found.keys() == expected.keys()
        for name in ("image", "text", "text_mask", "example_id"):
            assert found[name].sharding == batch_sharding(mesh)
            np.testing.assert_array_equal(found[name], expected[name])
        assert isinstance(found["valid"], np.ndarray)
        np.testing.assert_array_equal(found["valid"], expected["valid"])


def test_captions_labels_and_tokens_are_those_of_the_whole_set(whole):
    split = ShardedEvaluationSet(whole, make_mesh(MeshConfig()))
    assert isinstance(split, EvaluationData)
    assert split.captions == whole.captions
    assert split.annotations == whole.annotations
    assert split.class_names == whole.class_names
    np.testing.assert_array_equal(split.labels, whole.labels)
    np.testing.assert_array_equal(split.thumbnail(3, 16), whole.thumbnail(3, 16))
    jax.tree.map(np.testing.assert_array_equal, split.tokenizer(["a b"]), whole.tokenizer(["a b"]))


def test_another_source_is_split_in_the_same_way(whole):
    split, other = ShardedEvaluationSet(whole, make_mesh(MeshConfig())), Builtin("test")
    assert split.other(other) is split.other(other)
    assert whole.other(other) is whole.other(other)
    found, expected = (next(each.other(other).batches(64)) for each in (split, whole))
    np.testing.assert_array_equal(found["image"], expected["image"])
    np.testing.assert_array_equal(split.other(other).labels, whole.other(other).labels)
    assert len(whole.other(other).labels) != len(whole.labels)
