"""A new folder appears complete or not at all."""

import pytest

from vljax.config import UserError
from vljax.interop.new_folder import new_folder


def fill(out, *sources, **options):
    with new_folder(str(out), *map(str, sources), **options) as folder:
        (folder / "new").write_text("new")


def test_a_folder_appears_complete(tmp_path):
    fill(tmp_path / "out", tmp_path / "source", overwrite=False)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]


def test_overwrite_replaces_an_existing_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(UserError, match="is not empty; add --overwrite"):
        fill(out, tmp_path / "source", overwrite=False)
    fill(out, tmp_path / "source", overwrite=True)
    assert [p.name for p in out.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failure_keeps_the_old_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()

    def fail():
        with new_folder(str(out), "source", overwrite=True) as folder:
            (folder / "new").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in out.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("out", ["run", ".", "run/../run"])
def test_a_folder_never_replaces_its_own_source(tmp_path, out):
    source = tmp_path / "run" / "checkpoints" / "1"
    source.mkdir(parents=True)
    for origin in (tmp_path / "run", source):
        with pytest.raises(UserError, match="itself; name another folder"):
            fill(tmp_path / out, origin, overwrite=True)
        with pytest.raises(UserError, match=f"contains {origin} itself; name another folder"):
            fill(tmp_path / out, tmp_path.parent / "elsewhere", origin, overwrite=True)
    assert source.is_dir()


@pytest.mark.parametrize("name", ["out.partial", "out.replaced"])
def test_folders_of_others_are_never_removed(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    with pytest.raises(
        UserError, match="is in the way, and vljax did not make it; rename or remove it"
    ):
        fill(tmp_path / "out", tmp_path / "source", overwrite=True)
    assert (tmp_path / name / "mine").exists()


def test_a_partial_folder_of_an_interrupted_command_is_removed(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / ".vljax").touch()
    fill(tmp_path / "out", tmp_path / "source", overwrite=False)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
