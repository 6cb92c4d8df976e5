"""Embeddings, meshes and losses that the tests of this folder share."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from vljax.objectives.contrastive import sigmoid_loss, softmax_loss
from vljax.objectives.pair_logits import pairs
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


def loss_of(valid, similarity, direction, layout):
    def loss(image, text, scale, bias):
        of = pairs(image, text, jnp.asarray(valid), similarity, scale, bias)
        return (softmax_loss(of, direction, layout) if direction else sigmoid_loss(of, layout)).loss

    return loss
