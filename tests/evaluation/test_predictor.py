"""A predictor computes wanted outputs on any mesh, and compiles once for them and the shapes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.config import UserError
from vljax.evaluation.predictor import Forward, Predictor
from vljax.models.assembly import ModelConfig, Variables, build
from vljax.models.compute import Compute
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads import Embedding
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rows import shard_array
from vljax.parallel.rules import batch_sharding, constrain, replicated

TOWER = {"width": 8, "depth": 1, "heads": 2, "mlp_dim": 16, "pooling": "mean"}
CONFIG = ModelConfig(
    {
        "image": ViT(image_size=8, patch_size=4, **TOWER),
        "text": TextTransformer(vocab_size=9, context_length=4, **TOWER),
        "embedding": Embedding(3),
    }
)
EMBEDDINGS = ("image/embedding", "text/embedding")
MESHES = [(1, 1), (8, 1), (2, 4)]


def batch(rows):
    rng = np.random.default_rng(rows)
    return {
        "image": rng.integers(0, 256, (rows, 8, 8, 3), np.uint8),
        "text": rng.integers(0, 9, (rows, 4), np.int32),
        "text_mask": np.arange(4) < rng.integers(1, 5, (rows, 1)),
    }


def model_of(mesh):
    compute = Compute(constrain=constrain(mesh))
    return build(CONFIG, compute, {"logit_scale": 2.5})


def forward(sizes):
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    return mesh, Forward(model_of(mesh), CONFIG, mesh, replicated(mesh))


def variables(mesh, seed=0):
    made = jax.jit(model_of(mesh).init)(jax.random.key(seed), batch(1))
    return jax.device_put(made, replicated(mesh))


def predictor(sizes=(8, 1), seed=0):
    mesh, program = forward(sizes)
    return program.bind(variables(mesh, seed))


def expected(rows, want, seed=0):
    mesh = make_mesh(MeshConfig(1), jax.devices()[:1])
    outputs, _ = jax.jit(model_of(mesh).apply)(variables(mesh, seed), batch(rows))
    return {name: np.asarray(outputs[name]) for name in want}


@pytest.mark.parametrize("rows", [1, 5, 8, 11])
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_outputs_equal_those_of_the_model_on_one_device(sizes, rows):
    want = ("text/tokens", *EMBEDDINGS, "logit_scale")
    made, wanted = predictor(sizes).run(want, batch(rows)), expected(rows, want)
    assert tuple(made) == want
    for name, array in made.items():
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(array, wanted[name], rtol=0, atol=1e-6, err_msg=name)
    assert made["logit_scale"] == 2.5


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_global_arrays_and_arrays_of_jax_are_taken(sizes):
    mesh, program = forward(sizes)
    bound, host = program.bind(variables(mesh)), batch(8)
    found = bound.run(EMBEDDINGS, host)
    at = batch_sharding(mesh)
    for other in (lambda x: shard_array(x, at), jnp.asarray):
        # Host arrays may stand beside global ones, as `valid` of an evaluation set does.
        mixed = {name: other(x) if name == "image" else x for name, x in host.items()}
        for given in (mixed, {name: other(x) for name, x in host.items()}):
            jax.tree.map(np.testing.assert_array_equal, bound.run(EMBEDDINGS, given), found)
    five = {name: jnp.asarray(x[:5]) for name, x in host.items()}
    np.testing.assert_array_equal(bound.run(EMBEDDINGS[:1], five)[EMBEDDINGS[0]].shape, (5, 3))


def test_only_what_is_wanted_is_read_and_computed():
    bound = predictor()
    images = {name: x for name, x in batch(5).items() if name == "image"}
    bound.run(["image/embedding"], images | {"label": np.zeros(3), "names": ["a", "b"]})
    program = bound.forward._compiled.lower(
        bound.variables, {"image": np.zeros((8, 8, 8, 3), np.uint8)}, {}, ("image/embedding",), ()
    )
    # Neither the text tower nor its embeddings are in the program.
    sizes = {int(n) for n in re.findall(r"tensor<(\d+)x8xf32>", program.as_text())}
    assert 9 not in sizes
    assert bound.run(["logit_scale"], {})["logit_scale"] == 2.5


def test_one_compile_for_the_wanted_outputs_and_the_shapes():
    mesh, program = forward((8, 1))
    first, second = (program.bind(variables(mesh, seed)) for seed in (0, 1))
    count = program._compiled._cache_size
    for bound in (first, second):
        bound.run(EMBEDDINGS, batch(16))
        bound.run(EMBEDDINGS[::-1], batch(16))
        bound.run(EMBEDDINGS, batch(11))  # padded to 16 rows
        bound.run(EMBEDDINGS, batch(16) | {"valid": np.ones(16, bool)})
        assert count() == 1
    first.run(EMBEDDINGS, batch(24))
    first.run(EMBEDDINGS[:1], batch(16))
    assert count() == 3
    made = second.run(EMBEDDINGS, batch(16))
    for name, array in expected(16, EMBEDDINGS, seed=1).items():
        np.testing.assert_allclose(made[name], array, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("want", "entries", "message"),
    [
        ("image/embeding", ["image"], "no node makes 'image/embeding'; did you mean 'image/embedd"),
        ("image/pooledd", ["image"], "no node makes 'image/pooledd'; did you mean 'image/pooled'?"),
        ("audio/tokens", ["image"], "no node makes 'audio/tokens'; did you mean"),
        (
            "text/embedding",
            ["texts"],
            "text/embedding: the node 'text' needs the batch entry 'text', which is not there; "
            "did you mean 'texts'?",
        ),
        (
            "image/tokens",
            [],
            "image/tokens: the node 'image' needs the batch entry 'image', which is not there",
        ),
    ],
)
def test_errors_name_what_is_missing(want, entries, message):
    given = {name: np.zeros((2, 8, 8, 3), np.uint8) for name in entries}
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        predictor().run([want], given)


def test_entries_of_different_length_are_refused():
    given = batch(3) | {"image": batch(4)["image"]}
    with pytest.raises(ValueError, match=r"different numbers of rows: \{'image': 4, 'text': 3"):
        predictor().run(EMBEDDINGS, given)


def test_it_is_a_predictor():
    assert isinstance(predictor(), Predictor)
    assert isinstance(predictor().variables, Variables)
