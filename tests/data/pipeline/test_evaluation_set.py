import itertools

import numpy as np
import pytest
from PIL import Image

from tests.data.samples import captioned, encoded, picture, sample_data, write_jsonl
from vljax.config import UserError
from vljax.data.pipeline.batches import unpack_ids
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import train_batches
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import Clip, SentencePiece
from vljax.data.transforms import ChooseText, Decode, Resize, Tokenize
from vljax.datasets import Builtin

COUNT = 11


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    path = write_jsonl(tmp_path_factory.mktemp("pets"), captioned(COUNT))
    return EvaluationSet(sample_data(path), JsonLines(path))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 10, 11, 12, 40])
def test_each_example_comes_once_in_order_for_any_batch_size(examples, batch_size):
    batches = list(examples.batches(batch_size))
    assert {batch["image"].shape[0] for batch in batches} == {batch_size}
    whole = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    assert whole["valid"].tolist() == [True] * COUNT + [False] * (len(whole["valid"]) - COUNT)
    order = unpack_ids(whole["example_id"])
    assert order.tolist() == [*range(COUNT), *[-1] * (len(order) - COUNT)]
    assert whole["label"].dtype == np.int32
    assert whole["label"].tolist() == [*examples.labels, *[-1] * (len(order) - COUNT)]
    assert len(whole["image"]) - COUNT < batch_size


@pytest.mark.parametrize(("processes", "workers"), [(2, 0), (4, 0), (2, 1)])
def test_batches_of_processes_join_to_those_of_one_process(examples, processes, workers):
    data = sample_data(examples.source.path, workers=workers)
    alone = list(examples.batches(4))
    parts = []
    for index in range(processes):
        batches = EvaluationSet(data, examples.source).batches(4, index, processes)
        parts.append(list(batches))
        batches.close()
    assert {len(part) for part in parts} == {len(alone)}
    for expected, *pieces in zip(alone, *parts, strict=True):
        for key, array in expected.items():
            assert np.array_equal(np.concatenate([piece[key] for piece in pieces]), array)


def test_batches_have_the_evaluation_transforms(examples):
    batch = next(iter(examples.batches(4)))
    for i in range(4):
        expected = Image.fromarray(picture(20, 24, seed=i)).resize(
            (16, 16), Image.Resampling.BICUBIC
        )
        assert np.array_equal(batch["image"][i], np.asarray(expected))
    ids, mask = Clip(context_length=12).load()([f"photo number {i}" for i in range(4)])
    assert np.array_equal(batch["text"], ids)
    assert np.array_equal(batch["text_mask"], mask)


def test_batches_can_be_read_again(examples):
    first, second = (list(examples.batches(4)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)


def test_captions_labels_and_classes(examples):
    assert examples.captions == [(f"photo number {i}",) for i in range(COUNT)]
    assert examples.class_names == ("even", "odd")
    assert examples.labels.tolist() == [i % 2 for i in range(COUNT)]
    assert len(examples) == COUNT
    assert examples.tokenizer(["a"])[0].shape == (1, 12)


def test_all_captions_come_in_order_and_the_transforms_choose_the_first(tmp_path):
    rows = [{"captions": ["", "second", "&nbsp;", "third"]}, {"captions": []}]
    path = write_jsonl(tmp_path, rows)
    examples = EvaluationSet(sample_data(path), JsonLines(path))
    batch = next(iter(examples.batches(2)))
    assert examples.captions == [("second", "third"), ()]
    assert batch["label"].tolist() == examples.labels.tolist() == [-1, -1]
    assert np.array_equal(batch["text"], examples.tokenizer(["second", ""])[0])


def test_images_without_a_caption_are_valid_but_not_in_training(tmp_path):
    rows = [{"captions": [], "class": "a"}, {"caption": " ", "class": "b"}]
    rows += [{"caption": "&nbsp;"}]  # empty after CLIP's cleaning
    rows += [{"image": "lost.png", "class": "b"}, {"image": "page.png"}, {"caption": "c"}]
    (tmp_path / "page.png").write_bytes(b"<html>not found</html>")
    path = write_jsonl(tmp_path, rows)
    data = sample_data(path)
    examples = EvaluationSet(data, JsonLines(path))
    (batch,) = examples.batches(6)
    assert batch["valid"].tolist() == [True, True, True, False, False, True]
    assert batch["image"].any(axis=(1, 2, 3)).tolist() == batch["valid"].tolist()
    assert batch["label"].tolist() == [0, 1, -1, -1, -1, -1]  # that of a lost image is blank
    assert examples.labels.tolist() == [0, 1, -1, 1, -1, -1]
    assert examples.captions == [(), (), (), (), (), ("c",)]
    assert np.array_equal(batch["text"], examples.tokenizer(["", "", "", "", "", "c"])[0])
    batches = train_batches(data, seed=0, global_batch=6)
    trained = next(batches)
    batches.close()
    assert unpack_ids(trained["example_id"][trained["valid"]]).tolist() == [5]


def test_an_unusable_example_keeps_its_id(tmp_path):
    rows = [*captioned(1), {"image": "lost.png", "caption": "a", "class": "odd"}]
    path = write_jsonl(tmp_path, rows)
    batch = next(iter(EvaluationSet(sample_data(path), JsonLines(path)).batches(3)))
    assert batch["valid"].tolist() == [True, False, False]
    assert unpack_ids(batch["example_id"]).tolist() == [0, 1, -1]
    assert batch["label"].tolist() == [0, -1, -1]


def test_bad_examples_are_logged_once_in_a_process(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("vljax.data.pipeline.batches._logged", set())
    rows = [*captioned(1), {"image": "lost.png", "caption": "a"}, {"image": "b.png"}]
    (tmp_path / "b.png").write_bytes(b"no image")
    path = write_jsonl(tmp_path, rows)

    def messages():
        caplog.clear()
        for examples in [EvaluationSet(sample_data(path), JsonLines(path)) for _ in range(2)]:
            for _ in range(2):
                list(examples.batches(2))
        return [record.getMessage().split(": ")[0] for record in caplog.records]

    assert messages() == ["example jsonl:pets.jsonl/1", "example jsonl:pets.jsonl/2"]
    assert messages() == []
    (tmp_path / "other").mkdir()
    path = write_jsonl(tmp_path / "other", [{"image": "lost.png"}])  # of the same name
    assert messages() == ["example jsonl:pets.jsonl/0"]


def test_open_reads_files_once_and_reports_bad_ones(tmp_path):
    path = write_jsonl(tmp_path, captioned(2))
    data = sample_data(path)
    examples = EvaluationSet(data, JsonLines(path))
    examples.open()
    (tmp_path / "pets.jsonl").unlink()
    assert len(examples) == 2
    with pytest.raises(UserError, match=r"pets\.jsonl: cannot be read"):
        EvaluationSet(data, JsonLines(path)).open()
    data = sample_data(path, tokenizers={"text": SentencePiece(str(tmp_path / "lost.model"))})
    with pytest.raises(UserError, match=r"lost\.model: cannot be read"):
        EvaluationSet(data, Builtin("test")).open()


def test_thumbnails_show_the_whole_image_or_grey(tmp_path):
    image = np.zeros((10, 20, 4), np.uint8)
    image[:, 10:] = (255, 0, 0, 255)
    (tmp_path / "wide.png").write_bytes(encoded(image))
    rows = [{"image": "wide.png", "caption": "a"}, {"image": "lost.png", "caption": "b"}]
    path = write_jsonl(tmp_path, rows)
    steps = (Decode(background=(0, 255, 0)), Resize(16, mode="shortest"), ChooseText(), Tokenize())
    data = sample_data(path, train_transforms=steps, eval_transforms=steps)
    examples = EvaluationSet(data, JsonLines(path))
    thumbnail = examples.thumbnail(0, 8)
    assert thumbnail.shape == (8, 8, 3)
    for row, column in itertools.product([0, 7], [0, 7]):  # padding
        assert thumbnail[row, column].tolist() == [0, 255, 0]
    assert thumbnail[4, 0].tolist() == [0, 255, 0]
    assert thumbnail[4, 7].tolist() == [255, 0, 0]
    assert (examples.thumbnail(1, 8) == 128).all()
