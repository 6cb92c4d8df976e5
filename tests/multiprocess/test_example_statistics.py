"""Every example is counted once, by one of the processes; the first knows the sums."""

import pytest

from tests.multiprocess.conftest import news
from tests.multiprocess.joined import joined
from vljax.training import example_statistics

SCRIPT = """
import jax, numpy as np
from vljax.data.pipeline.batches import BatchStatistics
from vljax.data.pipeline.batches import RejectedExample
from vljax.parallel import rows
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rules import batch_sharding
from vljax.training.example_statistics import ExampleStatistics
sharding = batch_sharding(make_mesh(MeshConfig(*MESH), jax.devices()))
counted = rows.counted_rows(sharding, 8)
parts = rows.local_parts(sharding, 8)
statistics = ExampleStatistics(WORKDIR, 0, LIMIT)
for step in range(3):
    for part in parts.own:
        size = 8 // parts.total
        bad = [row for row in range(size) if (part * size + row) % 4 == step]
        valid = np.array([row not in bad for row in range(size)])
        rejected = tuple(
            RejectedExample(row, "pets", "", 10 * step + part * size + row, "damaged", "why")
            for row in bad
        )
        batch = BatchStatistics(step, valid, ~valid, rejected)
        statistics.record(batch, np.split(counted, parts.total)[part])
    statistics.check(step) if step == 2 else None
    found = statistics.flush(step + 1)
print(sorted(found.items()))
statistics.check(3)
"""


def script(workdir, mesh, limit):
    text = SCRIPT.replace("WORKDIR", repr(str(workdir))).replace("MESH", repr(mesh))
    return joined(text.replace("LIMIT", str(limit)))


# Where `data` or `fsdp` splits the rows over two processes, process 0 has the first four. With
# `tensor` 4, both processes read all eight.
@pytest.mark.parametrize(
    ("count", "mesh"), [(1, (4, 1, 1)), (2, (2, 2, 1)), (2, (1, 2, 2)), (2, (1, 1, 4))]
)
def test_each_row_is_counted_by_one_process(run, tmp_path, count, mesh):
    out, _ = run(count, script(tmp_path, mesh, 1.0))
    sums = {"decoded": 18.0, "rejected": 6.0, "rejected/damaged": 6.0, "repeated": 6.0}
    assert news(out[0]) == [str([(f"data/{name}", value) for name, value in sums.items()])]
    assert all(news(text) == ["[]"] for text in out[1:])
    found = sorted((row["step"], row["index"]) for row in example_statistics.read(str(tmp_path)))
    assert found == [(1, 0), (1, 4), (2, 11), (2, 15), (3, 22), (3, 26)]


def test_too_many_bad_examples_end_all_processes_alike(start, tmp_path):
    statuses, _, err = start(2, script(tmp_path, (4, 1, 1), 0.0)).wait()
    assert statuses == [2, 2]
    for text in err:
        assert "data.max_rejected_share: 4 of the last 16 examples up to step 2" in text
