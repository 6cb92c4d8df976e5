"""The index of a set of tar shards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from tests.data.written import sample, write_shards
from vljax.config import UserError
from vljax.data.sources import tar_index
from vljax.data.sources.tar_index import open_index
from vljax.data.sources.tar_scan import IndexOptions
from vljax.files import find_files

OPTIONS = IndexOptions(image=("jpg",), members=("txt",), filters=(), label=None)


def opened(path, *, folder=None, workers=1, progress=lambda done, total: None):
    shards = find_files(str(path), (".tar",), "path")
    return open_index(shards, OPTIONS, folder=folder, workers=workers, progress=progress)


def everything(index):
    return [(shard, row.tolist()) for shard, row in map(index.row, range(len(index)))]


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(write_shards(tmp_path / "set", [sample(i) for i in range(25)]))


@pytest.fixture
def scans(monkeypatch):
    names, plain = [], tar_index.scan

    def scan(shard, options):
        names.append(shard.name)
        return plain(shard, options)

    monkeypatch.setattr(tar_index, "scan", scan)
    return names


def test_an_index_is_built_once_and_kept_beside_the_shards(shards, scans):
    seen = []
    first = opened(shards, progress=lambda done, total: seen.append((done, total)))
    assert scans == ["00000.tar", "00001.tar", "00002.tar"]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [first.row(i)[0] for i in (0, 9, 10, 24)] == [0, 0, 1, 2]
    second = opened(shards)
    assert len(scans) == 3
    assert everything(second) == everything(first)
    assert second.identity == first.identity
    assert os.path.dirname(second.folder) == f"{shards}/.vljax"
    assert sorted(os.listdir(second.folder)) == ["index.json", "rows.bin"]
    with pytest.raises(IndexError, match="example 25 of 25"):
        first.row(25)


def test_processes_build_the_same_index(shards, tmp_path, monkeypatch):
    alone = opened(shards, folder=str(tmp_path / "alone"))
    monkeypatch.setattr(tar_index, "_MIN_PARALLEL_BYTES", 0)
    together = opened(shards, folder=str(tmp_path / "together"), workers=2)
    assert everything(together) == everything(alone)
    assert together.identity == alone.identity


def test_a_changed_shard_rebuilds_the_index(shards, scans):
    before = opened(shards)
    write_shards(shards, [sample(i, txt="longer than it was before") for i in range(25)])
    after = opened(shards)
    assert len(scans) == 6
    assert after.identity != before.identity


def test_the_identity_does_not_depend_on_the_folder(shards, tmp_path):
    before = opened(shards).identity
    moved = shards.rename(tmp_path / "elsewhere")
    for shard in moved.glob("*.tar"):
        os.utime(shard)
    assert opened(moved).identity == before


def test_the_index_of_read_only_shards_is_in_the_cache_folder(shards, tmp_path):
    (shards / ".vljax").write_text("no folder can be made here")
    index = opened(shards)
    assert index.folder.startswith(str(tmp_path / "cache" / "vljax" / "indices"))
    assert len(index) == 25


def test_an_interrupted_build_continues(shards, scans):
    whole = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(whole[:-20_000])
    with pytest.raises(UserError, match=rf"^{shards}/00001\.tar: ends at byte"):
        opened(shards)
    scans.clear()
    with pytest.raises(UserError, match=r"00001\.tar: ends at byte"):
        opened(shards)
    assert scans == ["00001.tar"]


def test_all_damaged_shards_are_counted(shards):
    for name in ("00000.tar", "00002.tar"):
        (shards / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"00000\.tar: is not a tar file .* \(and 1 more shards\)$"):
        opened(shards)


def test_a_truncated_index_is_rebuilt(shards, scans):
    index = opened(shards)
    Path(index.folder, "rows.bin").write_bytes(b"123")
    assert len(everything(opened(shards))) == 25
    assert len(scans) == 6


def test_the_index_of_remote_shards_is_kept_beside_them(shards, tmp_path, scans):
    system = fsspec.filesystem("memory")
    for shard in shards.glob("*.tar"):
        system.pipe_file(f"/bucket/{shard.name}", shard.read_bytes())
    remote = opened("memory://bucket")
    assert everything(remote) == everything(opened(shards))
    assert system.exists(f"/bucket/.vljax/{os.path.basename(remote.folder)}/index.json")
    scans.clear()
    os.rename(tmp_path / "cache", tmp_path / "another")  # as on another machine
    assert everything(opened("memory://bucket")) == everything(remote)
    assert scans == []
    system.rm("/bucket", recursive=True)


READ = """
import json, sys
import numpy as np
from vljax.data.sources.tar_index import TarIndex
index = TarIndex.load(sys.argv[1])
indices = np.random.default_rng(0).integers(0, len(index), 1000)
shards = [index.row(int(example))[0] for example in indices]
assert shards == (indices // 10_000).tolist()
# Not ru_maxrss: a child process starts with the value of its parent.
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps([len(index), peak]))
"""


@pytest.mark.slow(subject=["vljax/data/sources/tar_index.py"])
def test_an_index_of_a_hundred_million_examples_stays_on_disk(tmp_path):
    count, per_shard = 100_000_000, 10_000
    content = {
        "width": 3,
        "examples": [per_shard] * (count // per_shard),
        "accounting": {},
        "classes": [],
        "columns": ["jpg", "txt", "json"],
        "identity": "synthetic",
    }
    (tmp_path / "index.json").write_text(json.dumps(content))
    with open(tmp_path / "rows.bin", "wb") as rows:
        rows.truncate(count * 3 * 2 * 4)
    out = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)], check=True, capture_output=True, timeout=100
    )
    examples, peak = json.loads(out.stdout)
    assert examples == count
    assert peak < 2**30
