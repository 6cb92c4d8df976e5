"""What a device holds: no more logits than a tile, and no more program than it needs."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.cases import IMAGE, KINDS, SOME, TEXT, loss_of, mesh_of
from vljax.objectives.pair_logits import LOGITS, Layout
from vljax.parallel.rules import batch_sharding


def elements(program):
    """The sizes of all arrays of a program."""
    for dims in re.findall(r"\b(?:f32|f64|pred|s32|u32)\[([\d,]+)\]", program.as_text()):
        yield math.prod(map(int, dims.split(",")))


@pytest.mark.parametrize("kind", KINDS)
def test_no_array_is_larger_than_a_tile(kind):
    mesh, batch, dim, chunk = mesh_of((2, 2, 2)), 1024, 8, 32
    loss = loss_of(np.ones(batch, bool), "cosine", KINDS[kind], Layout(mesh, chunk))
    vectors = jax.ShapeDtypeStruct((batch, dim), jnp.float32, sharding=batch_sharding(mesh))
    program = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3))).lower(vectors, vectors, 1.0, 0.0)
    assert max(elements(program.compile())) == batch // 4 * chunk


def test_the_default_tile():
    assert Layout().texts(1) == LOGITS  # a block that is no larger is not split
    assert [Layout().texts(n) * n for n in (1024, 2048, 8192)] == [LOGITS] * 3
    assert Layout().texts(2**20) == 128
    assert Layout().texts(3000) % 128 == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_fits_a_tile_costs_what_the_dense_loss_does(kind):
    """Three matrix products without a loop: forward, and one gradient for each side."""
    loss = loss_of(SOME, "cosine", KINDS[kind], Layout(mesh_of((1, 1, 1))))
    program = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
    text = program.lower(jnp.float32(IMAGE), jnp.float32(TEXT), 14.0, -3.0).compile().as_text()
    assert len(re.findall(r" dot\(", text)) == 3
    assert " while(" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_program_does_not_grow_with_the_ring(kind):
    sizes = []
    for devices in (4, 8):
        mesh = mesh_of((devices, 1, 1))
        loss = loss_of(SOME, "cosine", KINDS[kind], Layout(mesh))
        text = jax.jit(jax.value_and_grad(loss)).lower(IMAGE, TEXT, 1.0, 0.0).compile().as_text()
        sizes.append(len(re.findall(r" collective-permute(?:-start)?\(", text)))
    assert sizes[0] == sizes[1] > 0
