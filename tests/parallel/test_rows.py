"""The rows that a process reads, also on meshes that follow the wiring of a TPU slice."""

import jax
import numpy as np
import pytest

from vljax.parallel import rows
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rows import BatchParts
from vljax.parallel.rules import batch_sharding


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        # One process has all rows; one of four the second quarter; two devices hold the same rows.
        ([(0, 8), (8, 16)], BatchParts((0,), 1)),
        ([(4, 6), (6, 8)], BatchParts((1,), 4)),
        ([(8, 16), (8, 16)], BatchParts((1,), 2)),
        # A host of 2 x 2 chips in a slice of 4 x 4, in which rows go along the first dimension.
        ([(0, 1), (1, 2), (4, 5), (5, 6)], BatchParts((0, 2), 8)),
        # A span that does not start at a multiple of its size.
        ([(4, 12)], BatchParts((1, 2), 4)),
    ],
)
def test_parts(spans, expected):
    found = rows.parts_of_spans(spans, 16)
    assert found == expected
    size = 16 // found.total
    read = {row for part in found.own for row in range(part * size, (part + 1) * size)}
    assert read == {row for begin, end in spans for row in range(begin, end)}


def test_one_process_reads_everything():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert rows.local_parts(batch_sharding(mesh), 16) == BatchParts((0,), 1)


class Source:
    """The batches of a part; each row holds its index in the stream."""

    def __init__(self, part, total, log):
        self.part, self.total, self.log, self.batch = part, total, log, -1

    def __iter__(self):
        return self

    def __next__(self):
        self.batch += 1
        size = 16 // self.total
        first = self.batch * 16 + self.part * size
        return {"image": np.arange(first, first + size)}

    def close(self):
        self.log.append(self.part)


def test_parts_are_read_in_order_and_closed():
    closed = []
    batches = rows.read_parts(
        lambda part, total: Source(part, total, closed), BatchParts((0, 2), 8)
    )
    assert next(batches)["image"].tolist() == [0, 1, 4, 5]
    assert next(batches)["image"].tolist() == [16, 17, 20, 21]
    batches.close()
    assert sorted(closed) == [0, 2]


def test_global_arrays_have_the_batch_sharding():
    sharding = batch_sharding(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    whole = np.arange(32).reshape(16, 2)
    for array in (
        rows.global_arrays({"image": whole}, sharding, 16)["image"],
        rows.shard_array(whole, sharding),
    ):
        assert array.sharding == sharding
        np.testing.assert_array_equal(array, whole)
    assert rows.shard_array(array, sharding) is array
    assert isinstance(array, jax.Array)
