"""Damaged, half-written and failed checkpoints: earlier ones are never lost."""

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
import orbax.checkpoint as ocp
import pytest

from vljax.config import UserError
from vljax.training import checkpoint
from vljax.training.checkpoint import Checkpointer, manifest, storage

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
    """The restored step, and the reported lines."""
    said: list[str] = []
    restored = Checkpointer(str(workdir), report=said.append).restore(TARGET)
    if restored is None:
        return None, said
    assert (np.asarray(restored.state["w"]) == restored.step).all()
    return restored.step, said


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_flipped_byte_in_any_file_is_detected(workdir):
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
            assert "2 is skipped" in said[0]
            assert path.name in said[0]
        path.write_bytes(content)
    assert restored_step(workdir) == (2, [])


def test_find_intact_logs_the_damaged_checkpoints_it_skips(workdir, caplog):
    (workdir / "checkpoints" / "2" / "recipe.json").write_bytes(b"[]")
    assert checkpoint.find_intact(str(workdir)).name == "1"
    (said,) = caplog.messages
    assert "checkpoints/2 is skipped: " in said
    assert "recipe.json" in said


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_truncated_or_missing_file_is_detected(workdir, damage):
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


def test_a_checkpoint_without_manifest_is_half_written(workdir):
    (workdir / "checkpoints" / "2" / "manifest.json").unlink()
    step, said = restored_step(workdir)
    assert step == 1
    assert "2 is half-written: it has no manifest.json" in said[0]
    assert checkpoint.complete_steps(workdir) == [1]
    with pytest.raises(UserError, match="2 is half-written"):
        checkpoint.read_file(workdir / "checkpoints" / "2", "recipe.json")


def test_a_copy_under_another_step_is_not_restored(workdir):
    shutil.copytree(workdir / "checkpoints" / "2", workdir / "checkpoints" / "9")
    assert restored_step(workdir)[0] == 2


@pytest.mark.parametrize("name", ["tokenizer/../../../outside", "/outside"])
def test_a_manifest_with_paths_outside_its_folder_is_damaged(workdir, name):
    folder = workdir / "checkpoints" / "2"
    entries = json.loads((folder / "manifest.json").read_text())["files"]
    entries[name] = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    (folder / "manifest.json").write_bytes(manifest._render(2, entries))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        manifest.file_names(folder)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def test_restoring_a_given_damaged_step_is_an_error(workdir):
    flip(workdir / "checkpoints" / "2" / "recipe.json")
    saver = Checkpointer(str(workdir))
    with pytest.raises(UserError, match=r"2 is damaged: recipe.json differs from its digest"):
        saver.restore(TARGET, step=2)
    with pytest.raises(UserError, match=r"2 is damaged: recipe.json"):
        saver.files(2)


def test_a_run_does_not_start_anew_over_damaged_checkpoints(workdir):
    for step in (1, 2):
        flip(workdir / "checkpoints" / str(step) / "recipe.json")
    saver = Checkpointer(str(workdir), report=lambda text: None)
    assert saver.latest() is None
    with pytest.raises(UserError, match=r"is intact \(damaged: 1, 2\); restore them from a backup"):
        saver.restore(TARGET)


def test_a_damaged_step_is_replaced_by_the_next_save_of_it(workdir):
    flip(workdir / "checkpoints" / "2" / "recipe.json")
    save(workdir, 2)
    assert restored_step(workdir) == (2, [])


def test_damaged_checkpoints_do_not_count_for_retention(workdir):
    flip(workdir / "checkpoints" / "2" / "recipe.json")
    saver = Checkpointer(str(workdir), keep=2, report=lambda text: None)
    assert saver.latest() == 1
    saver.save(3, {"w": jnp.full(100, 3.0)}, {})
    saver.wait()
    assert checkpoint.verify(checkpoint.step_folder(workdir, 1)) == []
    assert saver.latest() == 3


def test_orbax_retention_would_remove_the_last_intact_checkpoint(tmp_path):
    """Why the checkpointer does not use `CheckpointManager`, see its docstring."""
    seen = {}

    def look():
        seen.update({path.name: path.read_bytes() for path in files_of(tmp_path)})

    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, async_options=ocp.options.AsyncOptions(post_finalization_callback=look)
    )
    arrays = ocp.args.Composite(state=ocp.args.StandardSave({"w": jnp.zeros(100)}))
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        for step in (1, 2):
            manager.save(step, args=arrays)
            manager.wait_until_finished()
        # Digests cannot be written in the callback: Orbax changes files after it.
        assert seen["manifest.ocdbt"] != next((tmp_path / "2").rglob("manifest.ocdbt")).read_bytes()
        # A damaged checkpoint counts, and pushes out the intact one.
        next((tmp_path / "2").rglob("manifest.ocdbt")).write_bytes(b"")
        manager.save(3, args=arrays)
        manager.wait_until_finished()
        assert sorted(os.listdir(tmp_path)) == ["2", "3"]
        # What a killed save leaves where folders are not renamed counts as the newest step.
        (tmp_path / "9" / "state").mkdir(parents=True)
        manager.reload()
        assert manager.latest_step() == 9


KILLED = """
    import os, pathlib, signal, sys
    import jax.numpy as jnp
    from vljax.training.checkpoint import manifest, storage
    from vljax.training.checkpoint import Checkpointer

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
def test_a_killed_save_keeps_earlier_checkpoints(workdir, moment):
    killed = run(KILLED, workdir, moment)
    assert killed.returncode == -9, killed.stderr
    assert files_of(workdir / "checkpoints" / "3")
    step, said = restored_step(workdir)
    assert step == 2
    assert "checkpoints/3" in said[0]
    assert (
        checkpoint.verify(workdir / "checkpoints" / "1") == []
    )  # removed only once a newer one is complete
    save(workdir, 3, 4)
    assert restored_step(workdir) == (4, [])


def test_half_written_checkpoints_are_removed_after_the_next_save(workdir):
    (workdir / "checkpoints" / "2" / "manifest.json").unlink()
    save(workdir, 3)
    assert sorted(os.listdir(workdir / "checkpoints")) == ["1", "3"]


def test_a_killed_first_save_is_not_restored(tmp_path):
    run(KILLED, tmp_path, "before the manifest")
    step, said = restored_step(tmp_path)
    assert step is None
    assert "3 is half-written" in said[0]


FULL = """
    import resource, sys
    import jax, jax.numpy as jnp
    from vljax.config import UserError
    from vljax.training.checkpoint import Checkpointer

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
    saver.wait()  # raised once
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    if what == "files":
        saver.save(4, {"w": jnp.full(100, 4.0)}, {})
        saver.close()
"""


@pytest.mark.parametrize("what", ["arrays", "files"])
def test_a_full_disk_gives_one_line(workdir, what):
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


def test_full_disk_errors_are_recognised():
    outer = RuntimeError("save failed")
    outer.__cause__ = ValueError("UNKNOWN: Failed to write: No space left on device [os_error]")
    assert storage.disk_full_message(outer) == "No space left on device"
    assert storage.disk_full_message(OSError(errno.ENOSPC, "?")) == "No space left on device"
    group = ExceptionGroup("several", [ValueError("x"), OSError(errno.EDQUOT, "?")])
    assert storage.disk_full_message(group) == os.strerror(errno.EDQUOT)
    assert storage.disk_full_message(PermissionError(errno.EACCES, "Permission denied")) is None


def test_a_save_that_cannot_start_names_the_folder_and_the_reason(workdir):
    saver = Checkpointer(str(workdir))
    folder, aside = workdir / "checkpoints", workdir / "aside"
    folder.rename(aside)
    folder.write_text("in the way")
    with pytest.raises(UserError) as caught:
        saver.save(3, {"w": jnp.zeros(100)}, {})
    assert str(caught.value) == (
        f"cannot save step 3 in {folder} (Not a directory); there is no earlier checkpoint;"
        " make the folder writable and run the same command again"
    )
    folder.unlink()
    aside.rename(folder)
    saver.save(4, {"w": jnp.full(100, 4.0)}, {})
    assert saver.latest() == 4


def test_a_background_failure_is_raised_by_the_next_save(workdir, monkeypatch):
    saver = Checkpointer(str(workdir))
    monkeypatch.setattr(storage, "write", lambda path, content: 1 / 0)
    saver.save(3, {"w": jnp.zeros(100)}, {"recipe.json": b""})
    with pytest.raises(UserError, match=r"cannot save step 3 .*ZeroDivisionError"):
        saver.save(4, {"w": jnp.zeros(100)}, {})
    assert sorted(os.listdir(workdir / "checkpoints")) == ["1", "2"]


@pytest.mark.parametrize("below", [True, False])
def test_a_workdir_that_is_a_file_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("precious")
    workdir = tmp_path / "file" / "run" if below else tmp_path / "file"
    with pytest.raises(UserError) as caught:
        Checkpointer(str(workdir))
    assert str(caught.value) == (
        f"cannot write to the folder {workdir}/checkpoints (Not a directory);"
        " choose another workdir or make this one writable"
    )
    assert (tmp_path / "file").read_text() == "precious"


def test_a_workdir_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user (root?) may write to any folder, whatever its mode")
    with pytest.raises(UserError, match=r"cannot write to the folder .*\(Permission denied\)"):
        Checkpointer(str(tmp_path / "run"))


def test_the_write_check_leaves_no_file(tmp_path):
    Checkpointer(str(tmp_path))
    assert list(tmp_path.rglob("*")) == [tmp_path / "checkpoints"]


def test_free_space_is_checked_before_the_run(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5_000_000))
    workdir = tmp_path / "not" / "yet"
    assert checkpoint.check_space(workdir, 2_500_000) is None
    expected = f"the disk of the workdir {workdir} has 5 MB free, two checkpoints need "
    assert checkpoint.check_space(workdir, 2_600_000) == f"{expected}5.2 MB"
    with pytest.raises(UserError) as caught:
        checkpoint.check_space(workdir, 6_000_000_000)
    assert str(caught.value) == f"{expected}12 GB; free some space or choose another workdir"
    assert checkpoint.check_space("gs://bucket/run", 10**18) is None
