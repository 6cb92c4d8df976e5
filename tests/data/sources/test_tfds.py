"""Data sets that TFDS wrote, read without TensorFlow."""

import io
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data.written import jpeg
from vljax.config import UserError
from vljax.data.records import ExampleError
from vljax.data.sources import Tfds
from vljax.data.sources.filters import Range


class Pets(tfds.core.GeneratorBasedBuilder):
    """Two splits with nested captions."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=["zebra", "ant"]),
            "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
            "title": tfds.features.Text(),
            "width": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            yield (
                i,
                {
                    "image": io.BytesIO(jpeg(i)),
                    "label": i % 2 if i else -1,
                    "captions": [{"text": f"one {i}", "id": 1}, {"text": f"zwölf {i}", "id": 2}],
                    "title": b"\xff" if i == 5 else f"title {i}",
                    "width": i,
                },
            )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    builder = Pets(data_dir=str(tmp_path_factory.mktemp("tfds")), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)


def by_width(source):
    """TFDS shuffles the examples that it writes; the width identifies each."""
    records = source.open()
    return {int(records.values(i)("width")): records[i] for i in range(len(records))}


def test_examples_written_by_tfds_are_read(folder):
    source = Tfds(folder, captions=("captions.text",), label="label", split="test")
    records = by_width(source)
    assert sorted(records) == [0, 1]
    assert records[1].image == jpeg(1)
    assert records[1].captions == ("one 1", "zwölf 1")
    assert [records[i].label for i in range(2)] == [None, 1]
    assert source.open().class_names == ("zebra", "ant")
    assert (source.full_name, source.dataset, source.split_name) == (
        "tfds:pets-1.2.0:test",
        "pets",
        "test",
    )


def test_split_expressions_are_read_and_pickled(folder):
    records = Tfds(folder, captions=("width",), split="train[:2]+test").open()
    assert len(records) == 4
    assert pickle.loads(pickle.dumps(records)).image(3) == records.image(3)


def test_filters(folder):
    source = Tfds(folder, captions=("captions.text",), filters=(Range("width", minimum=2),))
    assert sorted(by_width(source)) == [2, 3, 4, 5]
    assert source.open().counts.left_out == {"width is not at least 2": 2}
    assert source.open().identity != Tfds(folder, captions=("captions.text",)).open().identity


def test_a_caption_that_is_not_utf8_rejects_its_example(folder):
    records = Tfds(folder, captions=("title",), filters=(Range("width", minimum=5),)).open()
    with pytest.raises(ExampleError, match=r"title is not UTF-8 \(byte 0\)"):
        records[0]
    assert records.annotation(0).captions == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": ("captions",)}, r"captions: .* has no 'captions'; did you mean 'captions\."),
        ({"image": "img"}, r"image: tfds:pets-1.2.0:train has no 'img'"),
        ({"split": "trian"}, r"split: .* has no split 'trian'; did you mean 'train'\?"),
    ],
)
def test_a_missing_feature_or_split_is_an_error_with_a_suggestion(folder, changes, message):
    with pytest.raises(UserError, match=rf"^data\.source\.{message}"):
        Tfds(folder, **changes).open()


def test_a_folder_not_prepared_by_tfds_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"is not a data set prepared by TFDS; name .*_info\.json"):
        Tfds(str(tmp_path)).open()
    with pytest.raises(UserError, match=r"unset; set --data\.source\.path to the folder"):
        Tfds().open()


def test_tensorflow_is_not_imported(folder):
    program = (
        "import sys; from vljax.data.sources import Tfds; "
        f"source = Tfds({folder!r}, captions=('captions.text',), label='label', split='test'); "
        "records = source.open(); "
        "assert {records[i].captions[0] for i in range(2)} == {'one 0', 'one 1'}; "
        "assert all(records.image(i).startswith(bytes([0xFF, 0xD8])) for i in range(2)); "
        "assert 'tensorflow_datasets' in sys.modules; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_tfds_is_a_default_dependency_and_tensorflow_is_not():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    required = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    assert {"tensorflow-datasets", "importlib_resources"} <= required
    assert "tensorflow" not in required


def test_other_columns_are_the_unused_features(folder):
    records = Tfds(folder, captions=("title",), label="label").open_with_all_columns(
        1, lambda *_: None
    )
    found = {}
    for i in range(len(records)):
        if records.values(i)("width") != 5:  # its title is not valid UTF-8
            columns = records.other_columns(i)
            found[columns["width"]] = columns
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert found[3] == {"captions.text": ["one 3", "zwölf 3"], "captions.id": [1, 2], "width": 3}
