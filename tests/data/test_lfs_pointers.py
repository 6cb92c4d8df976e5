"""A Git LFS pointer in place of a data file or an image is named as such."""

import pytest

from vljax.config import UserError
from vljax.data.images import read_header
from vljax.data.records import ExampleError
from vljax.data.sources import ArrayRecord, Csv, JsonLines, Parquet, WebDataset
from vljax.data.transforms import Decode
from vljax.data.transforms.base import image_transforms
from vljax.files import find_files, read_user_file, refuse_lfs_pointer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:9bb748f4\nsize 1433\n"
NAMED = "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"


@pytest.mark.parametrize(
    ("source", "ending"),
    [
        (ArrayRecord, "array_record"),
        (Csv, "csv"),
        (JsonLines, "jsonl"),
        (Parquet, "parquet"),
        (WebDataset, "tar"),
    ],
)
def test_data_files(source, ending, tmp_path):
    file = tmp_path / f"a.{ending}"
    file.write_bytes(POINTER)
    with pytest.raises(UserError, match=rf"a\.{ending}: {NAMED}"):
        source(path=str(file)).open()


def test_images(tmp_path):
    for read in (read_header, lambda content: decoded(content)):
        with pytest.raises(ExampleError, match=NAMED) as error:
            read(POINTER)
        assert error.value.kind == "not_an_image"


def decoded(content):
    from vljax.data.pipeline.preprocessing import ImagePreprocessor

    return ImagePreprocessor(8, tuple(image_transforms((Decode(),))))(content)


def test_other_small_files_are_left_alone(tmp_path):
    for name, content in (("empty.csv", b""), ("short.csv", b"version"), ("a.csv", b"image\nb\n")):
        (tmp_path / name).write_bytes(content)
        refuse_lfs_pointer(tmp_path / name)
        assert read_user_file(str(tmp_path / name)) == content
    assert len(find_files(str(tmp_path), (".csv",), "path")) == 3
    refuse_lfs_pointer(tmp_path / "missing.csv")
