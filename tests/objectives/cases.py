"""Embeddings, meshes and compiled losses that the tests of this folder share."""

import functools
import math

import jax
import numpy as np

from vljax.objectives.contrastive import sigmoid_loss, softmax_loss
from vljax.objectives.pair_logits import Tiling, pair_logits
from vljax.parallel.mesh import MeshConfig, make_mesh

BATCH, DIM = 48, 24
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(BATCH, DIM))
TEXT = RNG.normal(size=(BATCH, DIM)) + 0.5 * IMAGE
SOME = RNG.random(BATCH) < 0.7
SCALES = {"cosine": 14.0, "dot": 0.3, "euclidean": 0.3}
KINDS = {"softmax": "both", "sigmoid": None}


def mesh_of(sizes):
    return make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])


def loss_of(similarity, direction, tiling):
    """The loss as a function of `(image, text, scale, bias, valid)`; sigmoid without direction."""

    def loss(image, text, scale, bias, valid):
        logits = pair_logits(image, text, valid, similarity, scale, bias)
        if direction:
            return softmax_loss(logits, direction, tiling).loss
        return sigmoid_loss(logits, tiling).loss

    return loss


@functools.cache
def compiled(similarity, direction, sizes=None, texts=None):
    """The jitted loss with its gradients by both embeddings, scale and bias; one for all tests."""
    tiling = Tiling(sizes and mesh_of(sizes), texts)
    return jax.jit(jax.value_and_grad(loss_of(similarity, direction, tiling), (0, 1, 2, 3)))
