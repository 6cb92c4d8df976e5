"""Shards named as in transformers, read by the safetensors package and by vljax."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from vljax.config import UserError
from vljax.interop.files.safetensors import read_folder, write_folder
from vljax.interop.files.tensors import Lazy


def lazy(array):
    return Lazy(array.shape, array.dtype, lambda: array)


ARRAYS = {f"a{i}": np.full((4, 4), i, np.float32) for i in range(5)}  # 64 bytes each


def write(folder, arrays, limit):
    tensors = {name: lazy(array) for name, array in arrays.items()}
    return write_folder(folder, "model", tensors, lambda done: None, limit)


def test_a_small_limit_makes_shards_and_an_index(tmp_path):
    files = write(tmp_path, ARRAYS, 130)
    assert [file.name for file in files] == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    assert [sorted(load_file(file)) for file in files] == [["a0", "a1"], ["a2", "a3"], ["a4"]]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 320}
    assert index["weight_map"]["a2"] == files[1].name
    found = read_folder(tmp_path, "model")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name].read(), array)


def test_an_array_may_be_larger_than_the_shard_limit(tmp_path):
    assert len(write(tmp_path, ARRAYS, 10)) == 5


def test_without_a_limit_one_file_is_written_with_the_metadata_for_transformers(tmp_path):
    (file,) = write(tmp_path, ARRAYS, None)
    assert file.name == "model.safetensors"
    assert not (tmp_path / "model.safetensors.index.json").exists()
    with safe_open(file, "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_bfloat16_and_scalars_preserve_every_bit(tmp_path):
    arrays = {"b": np.array([1.5, -2, 3e30], ml_dtypes.bfloat16), "s": np.array(7, np.float32)}
    write(tmp_path, arrays, None)
    found = read_folder(tmp_path, "model")
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].read().tobytes() == array.tobytes()


def test_a_missing_shard_and_a_wrong_index_are_named(tmp_path):
    files = write(tmp_path, ARRAYS, 130)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["a0"] = files[2].name
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"index\.json: .*-00003-.* does not hold 'a0'"):
        read_folder(tmp_path, "model")
    files[1].unlink()
    with pytest.raises(UserError, match=r"-00002-of-00003\.safetensors: no such file"):
        read_folder(tmp_path, "model")
    index.write_text("[]")
    with pytest.raises(UserError, match="not an index of files of weights"):
        read_folder(tmp_path, "model")
