import os
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from vljax.config import UserError
from vljax.data.files import braces, expand, open_file, read_range, write_file


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
def test_braces_are_written_out_as_by_a_shell(pattern, expected):
    assert braces(pattern) == expected


def test_a_range_must_not_end_before_it_begins():
    with pytest.raises(UserError, match=r"\{3\.\.1\}: a range must not end before it begins"):
        braces("{3..1}")


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
def test_files_are_named_free_of_the_place_of_their_set(root, paths, names):
    full = root + paths if isinstance(paths, str) else tuple(root + path for path in paths)
    files = expand(full, (".tar",), "data.source.path")
    assert [file.name for file in files] == names
    content = [read_range(file.path, file.stamp, 0, 100).decode() for file in files]
    assert all(text.endswith(name) for text, name in zip(content, names, strict=True))
    assert [file.size for file in files] == [11] * len(names)


@pytest.mark.parametrize("path", ["/c", "/a/{00000..00002}.tar", "/*.tar"])
def test_a_path_that_names_nothing_is_an_error(root, path):
    with pytest.raises(UserError, match=r"^data\.source\.path: no file .*, nor a folder with .tar"):
        expand(root + path, (".tar",), "data.source.path")


def test_remote_folders_are_listed_once(remote, monkeypatch):
    system, calls = fsspec.filesystem("memory"), []
    plain = system.ls
    monkeypatch.setattr(system, "ls", lambda *a, **k: calls.append(a) or plain(*a, **k))
    expand(f"{remote}/a/{{00000..00001}}.tar", (".tar",), "path")
    assert len(calls) == 1


def test_a_stamp_changes_with_the_file(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(b"one")
    before = expand(str(path), (), "path")[0]
    path.unlink()
    path.write_bytes(b"two")
    after = expand(str(path), (), "path")[0]
    assert before.stamp != after.stamp
    assert read_range(after.path, after.stamp, 0, 3) == b"two"


def test_ranges_end_where_the_file_ends(tree):
    file = expand(f"{tree}/a/00000.tar", (), "path")[0]
    assert read_range(file.path, file.stamp, 8, 100) == b"tar"


def test_missing_files_are_errors_that_name_them(tmp_path):
    with pytest.raises(UserError, match=r"gone: cannot be read \(No such file"):
        open_file(f"{tmp_path}/gone")
    with pytest.raises(UserError, match=r"http://x: unknown kind of address; known: gs://, s3://"):
        open_file("http://x")


def test_files_are_written_with_their_folders(tmp_path):
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


def test_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "0.tar").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"0\.tar: cannot be read \(No such file or directory\)"):
        expand(str(tmp_path), (".tar",), "data.source.path")
