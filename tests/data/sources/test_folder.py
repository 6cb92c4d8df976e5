"""Folders of images, local and remote."""

import os
import pickle

import fsspec
import pytest

from tests.data.written import jpeg
from vljax.config import UserError
from vljax.data.records import ExampleError
from vljax.data.sources import Folder
from vljax.data.sources.filters import Equals, Matches


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
