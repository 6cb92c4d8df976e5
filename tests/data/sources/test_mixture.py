"""Mixtures in a recipe."""

import dataclasses

import pytest

from tests.data.samples import captioned, sample_data, write_jsonl
from vljax import config
from vljax.config import UserError
from vljax.data.pipeline.pipeline import Data, stream_fingerprint, train_batches
from vljax.data.sources import JsonLines, Mixture, Part, Phase
from vljax.data.transforms import ChooseText, Decode, Resize, Tokenize
from vljax.datasets import Builtin
from vljax.evaluation.retrieval import Retrieval
from vljax.overrides import override


def two(weight=3.0, other=1.0, **changes):
    parts = {"photos": Part(JsonLines(), weight), "art": Part(Builtin("test"), other)}
    return Mixture(parts, **changes)


def data(source):
    return sample_data("", source=source)


@pytest.fixture
def path(tmp_path):
    return write_jsonl(tmp_path, captioned(5))


def test_a_mixture_is_encoded_and_decoded():
    source = two(schedule=(Phase(10, {"art": 2.5}),))
    assert config.decode(Data, config.encode(data(source))) == data(source)


def test_fields_of_a_mixture_are_overridden(path):
    source = two(schedule=(Phase(10, {"art": 2.5}),))
    found = override(
        data(source),
        [
            *("--source.parts.photos.source.path", path),
            *("--source.parts.art.source.split", "train"),
            *("--source.parts.photos.weight", "0.5"),
            *("--source.schedule.0.from_step", "7"),
            *("--source.schedule.0.weights.art", "4"),
        ],
    ).source
    assert found.parts["photos"] == Part(JsonLines(path), 0.5)
    assert found.parts["art"].source == Builtin("train")
    assert found.schedule == (Phase(7, {"art": 4.0}),)


def test_a_mixture_is_replaced_by_another_source(path):
    found = override(data(two()), ["--source", "jsonl", "--source.path", path])
    assert config.validate(found).source == JsonLines(path)


def test_unset_paths_of_parts_are_found():
    assert dict(config.paths(data(two()))) == {"source.parts.photos.source.path": None}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Mixture(), "source.parts: a mixture needs at least one"),
        (two(3.0, None), "source.parts: 'art' has no weight but others have; set all or none"),
        (two(3.0, -1.0), "source.parts: weights must be 0 or more, got -1"),
        (two(0.0, 0.0), "source.parts: all weights are 0"),
        (
            two(schedule=(Phase(5, {"art": 1.0}), Phase(5, {"art": 2.0}))),
            "source.schedule.1.from_step: must be after step 5, got 5",
        ),
        (
            two(schedule=(Phase(0, {"art": 1.0}),)),
            "source.schedule.0.from_step: must be after step 0, got 0",
        ),
        (
            two(schedule=(Phase(5, {"arts": 1.0}),)),
            "source.schedule.0.weights: no part 'arts'; did you mean 'art'?",
        ),
        (
            two(schedule=(Phase(5, {"art": 0.0, "photos": 0.0}),)),
            "source.schedule.0.weights: all weights are 0",
        ),
        (Mixture({"a b": Part(Builtin())}), "source.parts: 'a b' is not a name"),
        (Mixture({"x": Part(two())}), "source.parts.x.source: is a mixture itself"),
        (
            Mixture(
                {"x": Part(Builtin(), transforms=(Decode(), Resize(8), ChooseText(), Tokenize()))}
            ),
            "source.parts.x.transforms: make uint8[8, 8, 3] as image, "
            "train_transforms uint8[16, 16, 3]",
        ),
        (
            Mixture({"x": Part(Builtin(), transforms=(Decode(), Resize(16)))}),
            "source.parts.x.transforms: make nothing as text, train_transforms int32[12]",
        ),
    ],
)
def test_invalid_mixtures_are_an_error(source, message):
    with pytest.raises(UserError) as refused:
        config.validate(data(source))
    assert str(refused.value).startswith(message)


def test_a_mixture_cannot_be_evaluated_on():
    with pytest.raises(UserError, match="source: is a mixture, which is for training"):
        config.validate(Retrieval(two()))
    with pytest.raises(UserError, match=r"mixture:photos\+art: is for training only"):
        two().open()


def test_errors_name_the_part(tmp_path):
    with pytest.raises(
        UserError,
        match=r"data\.source\.parts\.photos\.source\.path: unset; set --data\.source\.parts",
    ):
        train_batches(data(two()), seed=0, global_batch=8)
    empty = Mixture({"nothing": Part(JsonLines(write_jsonl(tmp_path, [])))})
    with pytest.raises(UserError, match=r"parts\.nothing: jsonl:pets\.jsonl has no examples"):
        train_batches(data(empty), seed=0, global_batch=8)


def test_every_change_of_a_mixture_changes_the_fingerprint(path):
    photos, art = Part(JsonLines(path), 3), Part(Builtin("test"), 1)
    own = (Decode(), Resize(16), ChooseText(), Tokenize())
    variants = [
        Mixture({"photos": photos, "art": art}),
        Mixture({"art": art, "photos": photos}),
        Mixture({"pictures": photos, "art": art}),
        Mixture({"photos": dataclasses.replace(photos, weight=4), "art": art}),
        Mixture({"photos": dataclasses.replace(photos, transforms=own), "art": art}),
        Mixture({"photos": photos, "art": Part(Builtin("validation"), 1)}),
        Mixture({"photos": photos, "art": art}, (Phase(3, {"art": 2}),)),
        Mixture({"photos": photos, "art": art}, (Phase(4, {"art": 2}),)),
    ]
    plans = {stream_fingerprint(data(source), seed=0, global_batch=8) for source in variants}
    assert len(plans) == len(variants)
    same = Mixture({"photos": Part(JsonLines(path), 6), "art": Part(Builtin("test"), 2)})
    assert stream_fingerprint(data(same), seed=0, global_batch=8) in plans
