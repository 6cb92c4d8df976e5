"""The Beam pipeline with Beam's local runner; needs an environment with the extra `beam`."""

import pytest

from tests.data.written import sample, write_shards
from vljax.config import UserError
from vljax.data.sources import WebDataset
from vljax.data_tools.convert.run import ConvertOptions, convert
from vljax.datasets import Builtin

pytest.importorskip("apache_beam", reason="the extra `beam` is for an environment of its own")

LOCAL = ("--runner=DirectRunner",)


def nothing(done, total):
    pass


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("to", ["webdataset", "array_record"])
def test_a_pipeline_writes_the_same_bytes_and_resumes(to, tmp_path):
    for name, beam in (("here", None), ("beam", LOCAL)):
        options = ConvertOptions(
            str(tmp_path / name), to, examples_per_shard=100, workers=1, beam=beam
        )
        assert convert(Builtin("test"), options, nothing, nothing)["new_shards"] == 5
    assert contents(tmp_path / "beam") == contents(tmp_path / "here")
    next((tmp_path / "beam").glob("00002.*")).unlink()
    assert convert(Builtin("test"), options, nothing, nothing)["new_shards"] == 1
    assert contents(tmp_path / "beam") == contents(tmp_path / "here")


def test_an_error_of_a_worker_is_a_one_line_error(tmp_path):
    source = WebDataset(write_shards(tmp_path / "in", [sample(0, npy=b"\0")]))
    options = ConvertOptions(str(tmp_path / "out"), "array_record", beam=LOCAL)
    with pytest.raises(UserError, match=r"example 0: column 'npy' is bytes, .* by --drop npy") as e:
        convert(source, options, nothing, nothing)
    assert str(e.value).startswith("webdataset:in, ")
