"""Local and remote files: patterns, listings, ranges, atomic writes."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from vljax import files
from vljax.config import UserError
from vljax.files import (
    atomic_file,
    exclusive,
    expand_braces,
    find_files,
    list_folder,
    make_folder,
    open_file,
    read_names,
    read_range,
    write_file,
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("{00009..00011}.tar", ["00009.tar", "00010.tar", "00011.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{name}", ["{name}"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern, expected):
    assert expand_braces(pattern) == expected


def test_a_range_must_not_end_before_it_begins():
    with pytest.raises(UserError, match=r"\{3\.\.1\}: a range must not end before it begins"):
        expand_braces("{3..1}")


@pytest.fixture
def tree(tmp_path):
    for name in ("a/00001.tar", "a/00000.tar", "a/notes.txt", "b/00000.tar"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return str(tmp_path)


@pytest.fixture
def remote():
    system = fsspec.filesystem("memory")
    for name in ("/set/a/00001.tar", "/set/a/00000.tar", "/set/a/notes.txt", "/set/b/00000.tar"):
        system.pipe_file(name, name.removeprefix("/set/").encode())
    yield "memory://set"
    system.rm("/set", recursive=True)


@pytest.fixture(params=["local", "remote"])
def root(request, tree):
    return tree if request.param == "local" else request.getfixturevalue("remote")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ("/a", ["00000.tar", "00001.tar"]),
        ("/a/00001.tar", ["00001.tar"]),
        ("/a/{00000..00001}.tar", ["00000.tar", "00001.tar"]),
        ("/*/00000.tar", ["a/00000.tar", "b/00000.tar"]),
        (("/b", "/a/00001.tar"), ["b/00000.tar", "a/00001.tar"]),
        (("/a", "/a/00000.tar"), ["00000.tar", "00001.tar"]),
    ],
)
def test_file_names_are_relative_to_the_folder_they_share(root, paths, names):
    full = root + paths if isinstance(paths, str) else tuple(root + path for path in paths)
    found = find_files(full, (".tar",), "data.source.path")
    assert [file.name for file in found] == names
    content = [read_range(file.path, file.stamp, 0, 100).decode() for file in found]
    assert all(text.endswith(name) for text, name in zip(content, names, strict=True))
    assert [file.size for file in found] == [11] * len(names)


@pytest.mark.parametrize("path", ["/c", "/a/{00000..00002}.tar", "/*.tar"])
def test_a_path_without_files_is_an_error(root, path):
    with pytest.raises(UserError, match=r"^data\.source\.path: no file .*, nor a folder with .tar"):
        find_files(root + path, (".tar",), "data.source.path")


def test_remote_folders_are_listed_once(remote, monkeypatch):
    system, calls = fsspec.filesystem("memory"), []
    plain = system.ls
    monkeypatch.setattr(system, "ls", lambda *a, **k: calls.append(a) or plain(*a, **k))
    find_files(f"{remote}/a/{{00000..00001}}.tar", (".tar",), "path")
    assert len(calls) == 1


def test_a_stamp_changes_with_the_file(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(b"one")
    before = find_files(str(path), (), "path")[0]
    path.unlink()
    path.write_bytes(b"two")
    after = find_files(str(path), (), "path")[0]
    assert before.stamp != after.stamp
    assert read_range(after.path, after.stamp, 0, 3) == b"two"


def test_a_range_stops_at_the_end_of_the_file(tree):
    file = find_files(f"{tree}/a/00000.tar", (), "path")[0]
    assert read_range(file.path, file.stamp, 8, 100) == b"tar"


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"gone: cannot be read \(No such file"):
        open_file(f"{tmp_path}/gone")
    with pytest.raises(UserError, match=r"http://x: unknown kind of address; known: gs://, s3://"):
        open_file("http://x")


def test_a_file_is_written_with_its_folders(tmp_path):
    for path in (f"{tmp_path}/new/file", "memory://new/file"):
        write_file(path, b"content")
        with open_file(path) as stream:
            assert stream.read() == b"content"


def test_threads_that_open_a_file_at_once_read_it(tmp_path, monkeypatch):
    path = tmp_path / "rows.bin"
    path.write_bytes(b"AAAABBBB")
    opened = os.open

    def slow_open(*args):
        time.sleep(0.05)
        return opened(*args)

    monkeypatch.setattr(os, "open", slow_open)
    with ThreadPoolExecutor(4) as pool:
        read = pool.map(lambda _: read_range(str(path), "stamp", 4, 4), range(4))
        assert list(read) == [b"BBBB"] * 4


def test_a_broken_link_is_an_error(tmp_path):
    (tmp_path / "0.tar").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"0\.tar: cannot be read \(No such file or directory\)"):
        find_files(str(tmp_path), (".tar",), "data.source.path")


def test_a_failed_write_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"before")

    def write_half():
        with atomic_file(str(path)) as partial, open(partial, "wb") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"x.bin": b"before"}


class Listed(LocalFileSystem):
    """Caches its listings, as file systems of object stores do."""

    cachable = False

    def ls(self, path, detail=False, **kwargs):
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True, **kwargs)
        return self.dircache[path]

    def invalidate_cache(self, path=None):
        self.dircache.clear()


def test_a_remote_listing_is_never_stale(tmp_path, monkeypatch):
    system = Listed()
    monkeypatch.setattr(files, "filesystem", lambda url: (system, url.removeprefix("gs://")))
    (tmp_path / "a").write_bytes(b"1")
    assert list_folder(f"gs://{tmp_path}") == {"a": 1}
    (tmp_path / "b").write_bytes(b"22")  # by another machine
    assert list_folder(f"gs://{tmp_path}") == {"a": 1, "b": 2}


class Failing(MemoryFileSystem):
    """Raises errors that are not OSError, as clients of object stores do."""

    cachable = False

    def fail(self, *args, **kwargs):
        raise RuntimeError("Forbidden, 403")

    pipe_file = put_file = makedirs = ls = fail


def test_errors_of_object_stores_name_the_address(monkeypatch):
    monkeypatch.setattr(files, "filesystem", lambda url: (Failing(), url))

    def write_atomically(url):
        with atomic_file(url) as path:
            open(path, "wb").close()

    for action in (lambda url: write_file(url, b"1"), write_atomically, make_folder, list_folder):
        with pytest.raises(OSError, match="Forbidden") as raised:
            action("gs://b/x")
        assert (raised.value.filename, raised.value.strerror) == ("gs://b/x", "Forbidden, 403")


_HOLD = """
import sys, time
from vljax.files import exclusive
with exclusive(sys.argv[1], "W: another run writes there"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    lock = str(tmp_path / "w" / ".lock")
    with subprocess.Popen([sys.executable, "-c", _HOLD, lock], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        named = f"W: another run writes there: process {holder.pid} on {socket.gethostname()}; wait"
        with pytest.raises(UserError, match=named), exclusive(lock, "W: another run writes there"):
            raise AssertionError
        holder.kill()  # it cannot release the lock itself
    for _ in range(2):
        with exclusive(lock, "W"):
            assert os.path.exists(f"{lock}.json")
        assert not os.path.exists(f"{lock}.json")
    with exclusive("memory://w/.lock", "W"), exclusive("memory://w/.lock", "W"):
        pass


@pytest.mark.parametrize("name", ["null\0byte.txt", "half an emoji \ud83d.txt"])
def test_a_path_that_is_no_file_name_is_an_error_of_the_file(name):
    with pytest.raises(UserError, match=r"txt: cannot be read \(not a file name"):
        files.read_user_file(name)


def test_a_pointer_of_git_lfs_is_not_a_list_of_names(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    with pytest.raises(UserError, match=r"--classes: .*classes\.txt: it is a Git LFS pointer"):
        read_names(str(file), "--classes")
