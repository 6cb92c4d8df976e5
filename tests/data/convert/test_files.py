"""Local and remote folders that conversions write to."""

from fsspec.implementations.local import LocalFileSystem

from vljax.data.convert import files


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
