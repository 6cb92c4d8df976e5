import pytest

from vljax.config import UserError
from vljax.interop.new_folder import new_folder


def fill(out, source, **options):
    with new_folder(str(out), str(source), **options) as folder:
        (folder / "new").write_text("new")


def test_it_appears_complete_and_alone(tmp_path):
    fill(tmp_path / "out", tmp_path / "source", overwrite=False)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]


def test_what_is_there_is_replaced_when_asked(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(UserError, match="is not empty; add --overwrite"):
        fill(out, tmp_path / "source", overwrite=False)
    fill(out, tmp_path / "source", overwrite=True)
    assert [p.name for p in out.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_the_old_one(tmp_path):
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
def test_it_never_replaces_what_it_is_made_from(tmp_path, out):
    source = tmp_path / "run" / "checkpoints" / "1"
    source.mkdir(parents=True)
    for origin in (tmp_path / "run", source):
        with pytest.raises(UserError, match="itself; name another folder"):
            fill(tmp_path / out, origin, overwrite=True)
    assert source.is_dir()


@pytest.mark.parametrize("name", ["out.partial", "out.replaced"])
def test_folders_of_others_stay(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    with pytest.raises(
        UserError, match="is in the way, and vljax did not make it; rename or remove it"
    ):
        fill(tmp_path / "out", tmp_path / "source", overwrite=True)
    assert (tmp_path / name / "mine").exists()


def test_what_an_interrupted_command_left_is_no_obstacle(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / ".vljax").touch()
    fill(tmp_path / "out", tmp_path / "source", overwrite=False)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
