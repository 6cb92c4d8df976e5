"""Folders of images, local and remote."""

import json
import os
import pickle

import fsspec
import pytest

from tests.data.written import jpeg
from vljax.config import UserError
from vljax.data.records import ExampleError
from vljax.data.sources import Folder
from vljax.data.sources.filters import Equals, Matches
from vljax.files import find_files


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "animals"
    for number, name in enumerate(["dog/b.jpg", "dog/a.JPG", "cat/deep/c.png", ".git/x.jpg"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    (root / "dog" / "a.txt").write_text("a dog\n\nbrown dog\n")
    (root / "dog" / ".DS_Store").write_text("x")
    return root


def test_sub_folders_are_classes_and_text_files_are_captions(folder):
    records = Folder(str(folder)).open()
    assert records.class_names == ("cat", "dog")
    assert [records[i].label for i in range(3)] == [0, 1, 1]
    assert [records[i].captions for i in range(3)] == [(), ("a dog", "brown dog"), ()]
    assert [records[i].tags for i in range(3)] == [("cat",), ("dog",), ("dog",)]
    assert [records[i].image for i in range(3)] == [jpeg(2), jpeg(1), jpeg(0)]
    assert records.counts.fields == {"image": 3, "class": 3, "txt": 1}
    assert pickle.loads(pickle.dumps(records))[1] == records[1]


def test_a_folder_without_sub_folders_has_no_classes(folder):
    records = Folder(str(folder / "dog")).open()
    assert records.class_names == ()
    assert [records[i].label for i in range(2)] == [None, None]
    assert records[0].captions == ("a dog", "brown dog")


def test_classes_named_by_numbers_keep_their_names(tmp_path):
    for name in ("10", "7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(jpeg())
    records = Folder(str(tmp_path)).open()
    assert records.class_names == ("10", "7")
    assert [records[i].label for i in range(2)] == [0, 1]


def test_images_are_filtered_by_class_and_caption(folder):
    assert len(Folder(str(folder), filters=(Equals("class", values=("dog",)),)).open()) == 2
    records = Folder(str(folder), filters=(Matches("txt", pattern="brown"),)).open()
    assert [records[i].captions[0] for i in range(len(records))] == ["a dog"]


def test_a_remote_folder_gives_the_same_examples(folder):
    system = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"/animals/{path.relative_to(folder)}", path.read_bytes())
    local, remote = Folder(str(folder)).open(), Folder("memory://animals").open()
    assert [remote[i] for i in range(3)] == [local[i] for i in range(3)]
    assert remote.identity == local.identity
    system.rm("/animals", recursive=True)


def test_invalid_captions_and_missing_images_reject_examples(folder):
    records = Folder(str(folder)).open()
    (folder / "dog" / "a.txt").write_bytes(b"\xff")
    (folder / "dog" / "b.jpg").unlink()
    with pytest.raises(ExampleError, match=r"txt is not UTF-8 \(byte 0\)"):
        records[1]
    with pytest.raises(ExampleError, match=r"'dog/b.jpg' cannot be read"):
        records[2]


def test_a_missing_folder_or_one_without_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}: no images \(\.jpg"):
        Folder(str(tmp_path)).open()
    with pytest.raises(UserError, match=r"data\.source\.path: no folder .*gone"):
        Folder(str(tmp_path / "gone")).open()
    with pytest.raises(UserError, match=r"set --data\.source\.path to one folder"):
        Folder().open()


def test_the_identity_follows_names_and_sizes(folder, tmp_path):
    before = Folder(str(folder)).open().identity
    moved = folder.rename(tmp_path / "moved")
    assert Folder(str(moved)).open().identity == before
    (moved / "dog" / "a.txt").write_text("another caption")
    assert Folder(str(moved)).open().identity != before


def test_captions_of_windows_editors_have_no_mark_and_lines_end_at_line_breaks_only(folder):
    (folder / "dog" / "a.txt").write_bytes(b"\xef\xbb\xbfa dog\r\n\r\nbrown\xe2\x80\xa8dog\r\n")
    assert Folder(str(folder)).open()[1].captions == ("a dog", "brown\u2028dog")


def test_names_that_are_not_utf8_can_be_written(tmp_path):
    inside = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(inside)
    for name, content in ((b"0.jpg", jpeg()), (b"0.txt", b"a cup")):
        with open(inside + b"/" + name, "wb") as file:
            file.write(content)
    records = Folder(str(tmp_path)).open()
    assert (records.class_names, records[0].tags) == (("caf\ufffd",), ("caf\ufffd",))
    assert (records[0].captions, records[0].image) == (("a cup",), jpeg())
    assert records.other_columns(0)["path"] == "caf\ufffd/0.jpg"


def test_endings_may_be_in_upper_case(tmp_path):
    for name, content in {
        "IMG_0.JPG": jpeg(0),
        "IMG_0.TXT": b"zero",
        "IMG_0.JSON": b'{"a": 1}',
        "IMG_1.JPG": jpeg(1),
        "IMG_1.TXT": b"not this",
        "IMG_1.txt": b"one",
        "IMG_1.JSON": b'{"b": 2}',
        "IMG_1.json": b'{"c": 3}',
    }.items():
        (tmp_path / name).write_bytes(content)
    records = Folder(str(tmp_path)).open_with_all_columns(None, lambda done, total: None)
    assert [records[i].captions for i in range(2)] == [("zero",), ("one",)]
    assert records.other_columns(0) == {"path": "IMG_0.JPG", "json": {"a": 1}}
    second = records.other_columns(1)
    assert (second["json"], json.loads(second["JSON"])) == ({"c": 3}, {"b": 2})
    before = Folder(str(tmp_path)).open().identity
    (tmp_path / "README.TXT").write_text("not beside an image")
    assert Folder(str(tmp_path)).open().identity == before
    (tmp_path / "IMG_0.TXT").write_text("another")
    assert Folder(str(tmp_path)).open().identity != before


@pytest.fixture
def cats(tmp_path):
    (tmp_path / "cats").mkdir()
    for i in range(3):
        (tmp_path / "cats" / f"{i}.jpg").write_bytes(jpeg(i))
        (tmp_path / "cats" / f"{i}.txt").write_text(f"cat {i}")
    return tmp_path


def read(folder):
    """The caption of each example of a folder, or the kind of its error."""
    records = Folder(str(folder)).open()
    found = []
    for i in range(len(records)):
        try:
            found.append(records[i].captions[0])
        except ExampleError as error:
            found.append(error.kind)
    return found


def test_links_in_a_circle_are_followed_once(cats):
    (cats / "cats" / "up").symlink_to("..")
    (cats / "other").mkdir()
    (cats / "other" / "back").symlink_to(cats / "cats")
    (cats / "cats" / "other").symlink_to(cats / "other")
    assert read(cats) == ["cat 0", "cat 1", "cat 2"] * 2
    assert read(cats / "cats") == ["cat 0", "cat 1", "cat 2"]


def test_a_folder_under_two_names_is_read_as_two(cats):
    (cats / "more").symlink_to("cats")
    assert read(cats) == ["cat 0", "cat 1", "cat 2"] * 2


def test_links_to_nothing_reject_their_example_only(cats):
    (cats / "cats" / "1.txt").unlink()
    (cats / "cats" / "1.txt").symlink_to("/nowhere/1.txt")
    (cats / "cats" / "9.jpg").symlink_to("/nowhere/9.jpg")
    (cats / "README.md").symlink_to("/nowhere/README.md")
    assert read(cats) == ["cat 0", "unreadable", "cat 2", "unreadable"]


def test_pipes_are_not_waited_for(cats):
    os.mkfifo(cats / "cats" / "3.jpg")
    os.mkfifo(cats / "cats" / "4.txt")
    (cats / "cats" / "4.jpg").write_bytes(jpeg())
    assert read(cats) == ["cat 0", "cat 1", "cat 2", "unreadable", "unreadable"]
    os.mkfifo(cats / "0.tar")
    with pytest.raises(UserError, match=r"0\.tar: a pipe or device, not a file"):
        find_files(str(cats), (".tar",), "path")


def test_a_folder_that_cannot_be_read_is_named(cats, monkeypatch):
    plain = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    (cats / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    records = Folder(str(cats)).open()
    assert len(records) == 3
    assert records.counts.named == {"folder cannot be read (Permission denied)": ["locked"]}
