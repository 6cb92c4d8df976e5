"""Local and remote folders that conversions write to."""

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from vljax.data_tools.convert import files


class Listed(LocalFileSystem):
    """Keeps what it listed, as file systems of object stores do."""

    cachable = False

    def ls(self, path, detail=False, **kwargs):
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True, **kwargs)
        return self.dircache[path]

    def invalidate_cache(self, path=None):
        self.dircache.clear()


def test_sizes_are_those_of_now(tmp_path, monkeypatch):
    system = Listed()
    monkeypatch.setattr(files, "filesystem", lambda url: (system, url.removeprefix("gs://")))
    (tmp_path / "a").write_bytes(b"1")
    assert files.sizes(f"gs://{tmp_path}") == {"a": 1}
    (tmp_path / "b").write_bytes(b"22")  # by another machine
    assert files.sizes(f"gs://{tmp_path}") == {"a": 1, "b": 2}


class Failing(MemoryFileSystem):
    """Raises what clients of object stores raise, which is no OSError."""

    cachable = False

    def fail(self, *args, **kwargs):
        raise RuntimeError("Forbidden, 403")

    put_file = makedirs = ls = fail


def test_errors_of_object_stores_name_the_address(monkeypatch):
    monkeypatch.setattr(files, "filesystem", lambda url: (Failing(), url))
    for action in (
        lambda: files.write("gs://b/x/y", b"1"),
        lambda: files.make_folder("gs://b/x"),
        lambda: files.sizes("gs://b/x"),
    ):
        with pytest.raises(OSError, match="Forbidden") as raised:
            action()
        assert (raised.value.filename, raised.value.strerror) == ("gs://b/x", "Forbidden, 403")
    with (
        pytest.raises(OSError, match="Forbidden") as raised,
        files.completed("gs://b/x/y") as place,
    ):
        open(place, "wb").close()
    assert raised.value.filename == "gs://b/x/y"
