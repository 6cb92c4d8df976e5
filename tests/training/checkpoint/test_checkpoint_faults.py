"""Damaged, half-written and impossible checkpoints: nothing that was saved before is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.config import UserError
from vljax.training.checkpoint import checkpointer, manifest, storage
from vljax.training.checkpoint.checkpointer import Checkpointer

TARGET = {"w": jax.ShapeDtypeStruct((100,), jnp.float32)}


def save(workdir: Path, *steps: int) -> None:
    saver = Checkpointer(str(workdir))
    for step in steps:
        saver.save(step, {"w": jnp.full(100, float(step))}, {"recipe.json": b"{}"})
    saver.close()


@pytest.fixture
def workdir(tmp_path):
    save(tmp_path, 1, 2)
    return tmp_path


def restored_step(workdir: Path) -> tuple[int | None, list[str]]:
    """The step that comes back, and what was said."""
    said: list[str] = []
    restored = Checkpointer(str(workdir), report=said.append).restore(TARGET)
    if restored is None:
        return None, said
    assert (np.asarray(restored.state["w"]) == restored.step).all()
    return restored.step, said


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_flipped_byte_in_any_file_is_found(workdir):
    paths = files_of(workdir / "checkpoints" / "2")
    assert len(paths) > 8
    for path in paths:
        content = path.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1}:
            damaged = bytearray(content)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            step, said = restored_step(workdir)
            assert step == 1, path
            assert len(said) == 1
            assert "2 is passed over" in said[0]
            assert path.name in said[0]
        path.write_bytes(content)
    assert restored_step(workdir) == (2, [])


def test_who_takes_the_newest_intact_one_is_told_of_a_damaged_one(workdir, caplog):
    (workdir / "checkpoints" / "2" / "recipe.json").write_bytes(b"[]")
    assert manifest.newest(str(workdir)).name == "1"
    (said,) = caplog.messages
    assert "checkpoints/2 is passed over: " in said
    assert "recipe.json" in said


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_truncated_or_missing_file_is_found(workdir, damage):
    for path in files_of(workdir / "checkpoints" / "2"):
        content = path.read_bytes()
        if damage == "truncated":
            path.write_bytes(content[:-1])
        else:
            path.unlink()
        step, said = restored_step(workdir)
        assert step == 1
        assert path.name in said[0]
        if path.name != "manifest.json":
            size = len(content)
            found = "is missing" if damage == "missing" else f"has {size - 1} of {size} bytes"
            assert found in said[0]
            assert not manifest.looks_intact(workdir / "checkpoints" / "2")
        path.write_bytes(content)
    assert restored_step(workdir) == (2, [])


def test_a_missing_manifest_means_half_written(workdir):
    (workdir / "checkpoints" / "2" / "manifest.json").unlink()
    step, said = restored_step(workdir)
    assert step == 1
    assert "2 is half-written: it has no manifest.json" in said[0]
    assert checkpointer.steps(workdir) == [1]
    with pytest.raises(UserError, match="2 is half-written"):
        checkpointer.read_file(workdir / "checkpoints" / "2", "recipe.json")


def test_a_manifest_belongs_to_its_step(workdir):
    shutil.copytree(workdir / "checkpoints" / "2", workdir / "checkpoints" / "9")
    assert restored_step(workdir)[0] == 2


@pytest.mark.parametrize("name", ["tokenizer/../../../outside", "/outside"])
def test_a_manifest_names_nothing_outside(workdir, name):
    folder = workdir / "checkpoints" / "2"
    entries = json.loads((folder / "manifest.json").read_text())["files"]
    entries[name] = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    (folder / "manifest.json").write_bytes(manifest._render(2, entries))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        manifest.names(folder)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def test_a_given_step_that_is_damaged_is_an_error(workdir):
    flip(workdir / "checkpoints" / "2" / "recipe.json")
    saver = Checkpointer(str(workdir))
    with pytest.raises(UserError, match=r"2 is damaged: recipe.json differs from its digest"):
        saver.restore(TARGET, step=2)
    with pytest.raises(UserError, match=r"2 is damaged: recipe.json"):
        saver.files(2)


def test_no_new_start_over_damaged_checkpoints(workdir):
    for step in (1, 2):
        flip(workdir / "checkpoints" / str(step) / "recipe.json")
    saver = Checkpointer(str(workdir), report=lambda text: None)
    assert saver.latest() is None
    with pytest.raises(UserError, match=r"is intact \(damaged: 1, 2\); restore them from a backup"):
        saver.restore(TARGET)


def test_a_damaged_step_is_replaced_when_it_is_reached_again(workdir):
    flip(workdir / "checkpoints" / "2" / "recipe.json")
    save(workdir, 2)
    assert restored_step(workdir) == (2, [])


def test_damaged_checkpoints_do_not_push_out_intact_ones(workdir):
    flip(workdir / "checkpoints" / "2" / "recipe.json")
    saver = Checkpointer(str(workdir), keep=2, report=lambda text: None)
    assert saver.latest() == 1
    saver.save(3, {"w": jnp.full(100, 3.0)}, {})
    saver.wait()
    assert checkpointer.verify(checkpointer.step_folder(workdir, 1)) == []
    assert saver.latest() == 3


KILLED = """
    import os, pathlib, signal, sys
    import jax.numpy as jnp
    from vljax.training import manifest, storage
    from vljax.training.checkpoint.checkpointer import Checkpointer

    workdir, moment = sys.argv[1:]
    die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

    def half(path, content):
        path.write_bytes(content[: len(content) // 2])
        if path.name == manifest.NAME:
            die()

    saver = Checkpointer(workdir, keep=1)
    if moment == "before the manifest":
        manifest.write = die
    if moment == "within the manifest":
        storage.write = half
    size = 20_000_000 if moment == "within the arrays" else 100
    saver.save(3, {"w": jnp.full(size, 3.0)}, {"recipe.json": b"{}"})
    while moment == "within the arrays":
        if any(path.is_file() for path in pathlib.Path(workdir, "checkpoints/3").rglob("*")):
            die()
    saver.wait()
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "moment", ["within the arrays", "before the manifest", "within the manifest"]
)
def test_killed_in_the_middle_of_a_save(workdir, moment):
    killed = run(KILLED, workdir, moment)
    assert killed.returncode == -9, killed.stderr
    assert files_of(workdir / "checkpoints" / "3")
    step, said = restored_step(workdir)
    assert step == 2
    assert "checkpoints/3" in said[0]
    assert checkpointer.verify(workdir / "checkpoints" / "1") == []  # pruned only when complete
    save(workdir, 3, 4)
    assert restored_step(workdir) == (4, [])


def test_half_written_leftovers_go_with_the_next_checkpoint(workdir):
    (workdir / "checkpoints" / "2" / "manifest.json").unlink()
    save(workdir, 3)
    assert sorted(os.listdir(workdir / "checkpoints")) == ["1", "3"]


def test_killed_during_the_very_first_save(tmp_path):
    run(KILLED, tmp_path, "before the manifest")
    step, said = restored_step(tmp_path)
    assert step is None
    assert "3 is half-written" in said[0]


FULL = """
    import resource, sys
    import jax, jax.numpy as jnp
    from vljax.config import UserError
    from vljax.training.checkpoint.checkpointer import Checkpointer

    workdir, what = sys.argv[1:]
    arrays = {f"w{i}": jax.random.normal(jax.random.key(i), (200_000,)) for i in range(4)}
    state = arrays if what == "arrays" else {"w": jnp.zeros(100)}
    files = {"big": bytes(500_000)} if what == "files" else {}
    saver = Checkpointer(workdir, keep=2)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        saver.save(3, state, files)
        saver.wait()
    except UserError as error:
        print(error)
    saver.wait()  # says it once
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    if what == "files":
        saver.save(4, {"w": jnp.full(100, 4.0)}, {})
        saver.close()
"""


@pytest.mark.parametrize("what", ["arrays", "files"])
def test_a_full_disk_is_one_clear_error(workdir, what):
    result = run(FULL, workdir, what)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        f"no room in {workdir}/checkpoints to save step 3 (File too large); earlier checkpoints are"
        " intact, the newest is of step 2; free some space there and run the same command again\n"
    )
    assert "Traceback" not in result.stderr
    assert not (workdir / "checkpoints" / "3").exists()
    # A save that fails leaves the checkpointer usable.
    assert restored_step(workdir) == ((4, []) if what == "files" else (2, []))


def test_a_full_disk_is_known_by_its_error():
    outer = RuntimeError("save failed")
    outer.__cause__ = ValueError("UNKNOWN: Failed to write: No space left on device [os_error]")
    assert storage.no_room(outer) == "No space left on device"
    assert storage.no_room(OSError(errno.ENOSPC, "?")) == "No space left on device"
    group = ExceptionGroup("several", [ValueError("x"), OSError(errno.EDQUOT, "?")])
    assert storage.no_room(group) == os.strerror(errno.EDQUOT)
    assert storage.no_room(PermissionError(errno.EACCES, "Permission denied")) is None


def test_a_save_that_cannot_start(workdir):
    saver = Checkpointer(str(workdir))
    folder, aside = workdir / "checkpoints", workdir / "aside"
    folder.rename(aside)
    folder.write_text("in the way")
    with pytest.raises(UserError) as caught:
        saver.save(3, {"w": jnp.zeros(100)}, {})
    assert str(caught.value) == (
        f"cannot save step 3 in {folder} (Not a directory); there is no earlier checkpoint;"
        " see to it that it can be written and run the same command again"
    )
    folder.unlink()
    aside.rename(folder)
    saver.save(4, {"w": jnp.full(100, 4.0)}, {})
    assert saver.latest() == 4


def test_a_failure_is_raised_by_the_next_save(workdir, monkeypatch):
    saver = Checkpointer(str(workdir))
    monkeypatch.setattr(storage, "write", lambda path, content: 1 / 0)
    saver.save(3, {"w": jnp.zeros(100)}, {"recipe.json": b""})
    with pytest.raises(UserError, match=r"cannot save step 3 .*ZeroDivisionError"):
        saver.save(4, {"w": jnp.zeros(100)}, {})
    assert sorted(os.listdir(workdir / "checkpoints")) == ["1", "2"]


@pytest.mark.parametrize("below", [True, False])
def test_a_workdir_that_is_a_file(tmp_path, below):
    (tmp_path / "file").write_text("precious")
    workdir = tmp_path / "file" / "run" if below else tmp_path / "file"
    with pytest.raises(UserError) as caught:
        Checkpointer(str(workdir))
    assert str(caught.value) == (
        f"cannot write to the folder {workdir}/checkpoints (Not a directory);"
        " choose another workdir or make this one writable"
    )
    assert (tmp_path / "file").read_text() == "precious"


def test_a_workdir_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user (root?) may write to any folder, whatever its mode")
    with pytest.raises(UserError, match=r"cannot write to the folder .*\(Permission denied\)"):
        Checkpointer(str(tmp_path / "run"))


def test_the_probe_leaves_nothing(tmp_path):
    Checkpointer(str(tmp_path))
    assert list(tmp_path.rglob("*")) == [tmp_path / "checkpoints"]


def test_space_is_asked_for_before_the_run(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5_000_000))
    workdir = tmp_path / "not" / "yet"
    assert checkpointer.check_space(workdir, 2_500_000) is None
    expected = f"the disk of the workdir {workdir} has 5 MB free, two checkpoints need "
    assert checkpointer.check_space(workdir, 2_600_000) == f"{expected}5.2 MB"
    with pytest.raises(UserError) as caught:
        checkpointer.check_space(workdir, 6_000_000_000)
    assert str(caught.value) == f"{expected}12 GB; free some space or choose another workdir"
    assert checkpointer.check_space("gs://bucket/run", 10**18) is None
