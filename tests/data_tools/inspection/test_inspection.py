"""Parts of an inspection: headers, scripts, samples, histograms, processes."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.samples import encoded, picture
from vljax.data.images import read_header
from vljax.data.records import REJECTION_KINDS, ExampleError, Records
from vljax.data.tokenizers import Clip
from vljax.data_tools.inspection.inspect import measure_all, sample_indices
from vljax.data_tools.inspection.measure import OUTCOMES, Measurer, script_of
from vljax.data_tools.inspection.summary import distribution
from vljax.datasets import Builtin


def test_the_header_size_follows_the_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    header = read_header(encoded(picture(20, 30), "JPEG", exif=exif))
    assert (header.width, header.height, header.orientation) == (20, 30, 6)


@pytest.mark.parametrize(
    ("mode", "kind", "has_alpha"),
    [
        ("L", "PNG", False),
        ("CMYK", "JPEG", False),
        ("RGBA", "WEBP", True),
        ("LA", "PNG", True),
        ("1", "TIFF", False),
    ],
)
def test_the_header_has_mode_and_alpha(mode, kind, has_alpha):
    file = io.BytesIO()
    Image.new(mode, (5, 4)).save(file, kind)
    header = read_header(file.getvalue())
    assert (header.format, header.mode, header.has_alpha) == (kind, mode, has_alpha)


def test_a_file_that_is_not_an_image_is_rejected():
    with pytest.raises(ExampleError, match="image is none of JPEG, PNG") as error:
        read_header(b"<html>")
    assert error.value.kind == "not_an_image"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a dog", "Latin"),
        ("été", "Latin"),
        ("собака dog", "Cyrillic"),
        ("कुत्ता", "Devanagari"),
        ("犬", "Han"),
        ("いぬがいる", "Hiragana"),
        ("개", "Hangul"),
        ("ᚠᚢᚦ", "other"),
        ("12 !", "no letters"),
        ("🙂", "no letters"),
    ],
)
def test_the_script_of_a_text_is_found(text, script):
    assert script_of(text) == script


def test_a_sample_has_no_repeats_and_depends_on_the_seed():
    first = sample_indices(1000, 100, 1)
    assert len(set(first.tolist())) == 100
    assert (np.diff(first) > 0).all()
    assert sample_indices(1000, 100, 1).tolist() == first.tolist()
    assert sample_indices(1000, 100, 2).tolist() != first.tolist()
    assert list(sample_indices(5, 9, 0)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_each_value_is_in_one_bin(scale):
    values = np.random.default_rng(0).integers(1, 5000, 999)
    found = distribution(values, scale)
    assert sum(found["histogram"]["counts"]) == found["number"] == 999
    assert found["median"] == np.sort(values)[499]
    assert (found["smallest"], found["largest"]) == (values.min(), values.max())


def test_tokens_are_counted_as_they_are_encoded():
    tokenizer = Clip(context_length=40).load()
    texts = ["", "a dog", "Ein  Hund & eine Katze"]
    assert [tokenizer.count(text) for text in texts] == tokenizer(texts)[1].sum(1).tolist()


def test_several_processes_give_the_same_measurements(monkeypatch):
    measurer = Measurer(Builtin("test").open(), None, 10**6, True)
    indices = range(0, 424, 2)
    alone = measure_all(measurer, indices, 1, lambda done, total: None)
    monkeypatch.setattr("vljax.data_tools.inspection.inspect._TRIAL", -1)
    monkeypatch.setattr("vljax.data_tools.inspection.inspect._START", -1)
    shared = measure_all(measurer, indices, 2, lambda done, total: None)
    assert shared.examples.tobytes() == alone.examples.tobytes()
    assert shared.captions.tobytes() == alone.captions.tobytes()


@pytest.mark.parametrize("kind", REJECTION_KINDS)
def test_rejected_examples_are_counted_by_kind(kind):
    class Bad(Records):
        def __len__(self):
            return 1

        def annotation(self, index):
            raise ExampleError("bad", kind=kind)

        def image(self, index):
            raise AssertionError

    measured = Measurer(Bad(), None, 1000, True)([0])
    assert OUTCOMES[measured.examples["kind"][0]] == kind
    assert measured.reasons == {kind: [(0, "bad")]}
