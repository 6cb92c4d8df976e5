import dataclasses
import hashlib
import itertools
import json
import logging
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.data.samples import captioned, encoded, picture, sample_data, write_jsonl
from vljax.config import UserError, validate
from vljax.data.pipeline.batches import pack_ids, unpack_ids
from vljax.data.pipeline.pipeline import stream_fingerprint, train_batches
from vljax.data.randomness import example_generator
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import Clip, SentencePiece
from vljax.data.transforms import (
    ChooseText,
    Decode,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Tokenize,
)
from vljax.datasets import Builtin

COUNT = 22  # not a multiple of the batch sizes, so that some batches have examples of two epochs


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("pets"), captioned(COUNT))


def take(data, steps, **options):
    options = {"seed": 3, "global_batch": 8, **options}
    batches = train_batches(data, **options)
    try:
        return list(itertools.islice(batches, steps))
    finally:
        batches.close()


def joined(parts):
    """Batches of several processes put together, as the global arrays are."""
    return [
        {key: np.concatenate([part[key] for part in batch]) for key in batch[0]}
        for batch in zip(*parts, strict=True)
    ]


def digests(batches):
    """SHA-256 of the stream of ids and of everything."""
    ids, whole = hashlib.sha256(), hashlib.sha256()
    for batch in batches:
        ids.update(batch["example_id"].tobytes())
        for key in sorted(batch):
            whole.update(f"{key}{batch[key].shape}{batch[key].dtype}".encode())
            whole.update(np.ascontiguousarray(batch[key]).tobytes())
    return ids.hexdigest(), whole.hexdigest()


def indices(batches):
    return np.concatenate([unpack_ids(np.asarray(batch["example_id"])) for batch in batches])


@pytest.fixture(scope="module")
def reference(path):
    return digests(take(sample_data(path), 12))


@pytest.mark.parametrize(("processes", "workers"), [(2, 0), (4, 0), (2, 2)])
def test_the_stream_is_the_same_for_any_processes_and_workers(path, reference, processes, workers):
    data = sample_data(path, workers=workers)
    parts = [take(data, 12, process_index=i, process_count=processes) for i in range(processes)]
    assert digests(joined(parts)) == reference


@pytest.mark.parametrize("prefetch", [1, 5])
def test_the_stream_is_the_same_for_any_prefetch(path, reference, prefetch):
    assert digests(take(sample_data(path, prefetch=prefetch), 12)) == reference


@pytest.mark.parametrize(
    ("start", "workers", "processes"), [(1, 0, 1), (7, 0, 1), (7, 0, 2), (7, 2, 1)]
)
def test_a_run_started_at_a_later_step_gets_the_same_batches(path, start, workers, processes):
    whole = digests(take(sample_data(path), 12)[start:])
    data = sample_data(path, workers=workers)
    parts = [
        take(data, 12 - start, start_step=start, process_index=i, process_count=processes)
        for i in range(processes)
    ]
    assert digests(joined(parts)) == whole


def test_a_far_step_is_reached_quickly(path):
    take(sample_data(path), 1)  # imports
    started = time.perf_counter()
    far = take(sample_data(path), 1, start_step=10**12)
    assert time.perf_counter() - started < 5
    assert digests(far) != digests(take(sample_data(path), 1))


def test_epochs_are_different_permutations(path):
    order = indices(take(sample_data(path), 3 * COUNT, global_batch=4))[: 12 * COUNT]
    epochs = order.reshape(12, COUNT)
    assert (np.sort(epochs, axis=1) == np.arange(COUNT)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 12


def test_neighbouring_seeds_share_no_epoch(path):
    epochs = [
        tuple(epoch)
        for seed in (0, 1, 2)
        for epoch in indices(take(sample_data(path), 4, global_batch=COUNT, seed=seed))
        .reshape(4, COUNT)
        .tolist()
    ]
    assert len(set(epochs)) == len(epochs)


def test_augmentation_depends_on_seed_source_epoch_and_index_only():
    draws = {
        key: example_generator(*key).random(4).tobytes()
        for key in [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1)]
    }
    assert len(set(draws.values())) == 5
    assert example_generator(0, "a", 0, 0).random(4).tobytes() == draws[0, "a", 0, 0]


def test_augmentation_does_not_depend_on_the_batch_size(path):
    def images(global_batch, steps):
        batches = take(sample_data(path), steps, global_batch=global_batch)
        return np.concatenate([batch["image"] for batch in batches])

    assert np.array_equal(images(4, 12), images(16, 3))


def test_the_same_example_is_augmented_anew_each_epoch(path):
    first, second = take(sample_data(path), 2, global_batch=COUNT)
    order = [np.argsort(indices([batch])) for batch in (first, second)]
    same = (first["image"][order[0]] == second["image"][order[1]]).all(axis=(1, 2, 3))
    assert not same.any()


def test_an_example_is_its_transforms_with_the_generator_of_its_epoch(path):
    data = sample_data(path)
    records = data.source.open()
    batch = take(data, 5, global_batch=8)[4]  # positions 32 to 39, all in epoch 1
    for row, index in enumerate(indices([batch]).tolist()):
        rng = example_generator(3, "jsonl:pets.jsonl", 1, index)
        example = {"record": records[index]}
        *others, tokenize = data.train_transforms
        assert tokenize == Tokenize()
        for transform in others:
            example = transform(example, rng)
        assert np.array_equal(batch["image"][row], example["image"])
        ids, mask = data.tokenizers["text"].load()([example["text"]])
        assert np.array_equal(batch["text"][row], ids[0])
        assert np.array_equal(batch["text_mask"][row], mask[0])


def test_a_source_of_one_example_repeats_it(tmp_path):
    data = sample_data(write_jsonl(tmp_path, captioned(1)))
    batch = take(data, 2, global_batch=4)[1]
    assert unpack_ids(batch["example_id"]).tolist() == [0, 0, 0, 0]
    assert len({image.tobytes() for image in batch["image"]}) > 1


def test_batches_match_the_spec(path):
    data = sample_data(path)
    for batch, size in ((take(data, 1)[0], 8), (take(data, 1, process_count=4)[0], 2)):
        described = {key: (array.shape, array.dtype) for key, array in batch.items()}
        assert described == data.batch_spec(size)
        assert batch["valid"].all()


def test_the_spec_opens_no_file():
    data = sample_data("/lost.jsonl", tokenizers={"text": SentencePiece(context_length=33)})
    assert data.batch_spec(4)["text"] == ((4, 33), np.dtype(np.int32))
    assert data.batch_spec(4)["image"] == ((4, 16, 16, 3), np.dtype(np.uint8))


def damaged_rows(folder):
    jpeg = encoded(picture(32, 32), "JPEG")
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "corrupt.png").write_bytes(encoded(picture(32, 32))[:60] + b"\x00" * 500)
    (folder / "page.jpg").write_bytes(b"<html>not found</html>")
    (folder / "ok.jpg").write_bytes(jpeg)
    return [
        {"caption": "fine"},
        {"image": "truncated.jpg", "caption": "a"},
        {"image": "corrupt.png", "caption": "b"},
        {"image": "page.jpg", "caption": "c"},
        {"image": "lost.jpg", "caption": "d"},
        {"image": "ok.jpg", "caption": ""},
        {"image": "ok.jpg", "caption": "&nbsp;"},  # empty after CLIP's cleaning
        {"caption": "fine too"},
    ]


REASONS = {
    1: "image cannot be decoded (",
    2: "image cannot be decoded (",
    3: "image is none of JPEG",
    4: "image 'lost.jpg' cannot be read (No such file or directory)",
    5: "no caption",
    6: "text '&nbsp;' is empty after cleaning",
}


KINDS = {
    1: "truncated",
    2: "damaged",
    3: "not_an_image",
    4: "unreadable",
    5: "no_caption",
    6: "no_caption",
}


@pytest.mark.parametrize("workers", [0, 2])
def test_rejected_examples_stay_in_the_batch_and_are_logged_once(
    tmp_path, caplog, monkeypatch, workers
):
    monkeypatch.setattr("vljax.data.pipeline.batches._logged", set())
    data = sample_data(write_jsonl(tmp_path, damaged_rows(tmp_path)), workers=workers)
    with caplog.at_level(logging.WARNING):
        batches = take(data, 4, global_batch=8)  # four epochs
    empty, empty_mask = Clip(context_length=12).load()([""])
    for batch in batches:
        order = indices([batch])
        assert sorted(order) == list(range(8))
        valid = dict(zip(order.tolist(), batch["valid"].tolist(), strict=True))
        assert valid == {i: i not in REASONS for i in range(8)}
        bad = ~np.asarray(batch["valid"])
        assert not batch["image"][bad].any()
        assert (batch["text"][bad] == empty).all()
        assert (batch["text_mask"][bad] == empty_mask).all()
        assert batch["image"][~bad].any(axis=(1, 2, 3)).all()
    messages = sorted(
        r.getMessage() for r in caplog.records if r.name == "vljax.data.pipeline.batches"
    )
    assert len(messages) == len(REASONS)
    for message, (index, reason) in zip(messages, sorted(REASONS.items()), strict=True):
        assert message.startswith(f"example jsonl:pets.jsonl/{index}: {reason}")
        assert message.endswith(": masked out")
        assert "\n" not in message


def test_only_the_first_bad_examples_are_logged(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("vljax.data.pipeline.batches._logged", set())
    monkeypatch.setattr("vljax.data.pipeline.batches._MOST_LOGGED", 2)
    with caplog.at_level(logging.WARNING):
        take(sample_data(write_jsonl(tmp_path, damaged_rows(tmp_path))), 2)
    messages = [r.getMessage() for r in caplog.records if r.name == "vljax.data.pipeline.batches"]
    assert [line.endswith(": masked out") for line in messages] == [True, True, False]
    assert messages[2] == "more examples are masked out; from here on, they are not named"


def test_on_batch_gets_the_statistics_of_each_batch(tmp_path):
    statistics = []
    data = sample_data(write_jsonl(tmp_path, damaged_rows(tmp_path)))
    batches = take(data, 2, start_step=1, global_batch=6, on_batch=statistics.append)
    assert [entry.step for entry in statistics] == [1, 2]
    for batch, entry in zip(batches, statistics, strict=True):
        assert np.array_equal(entry.valid, batch["valid"])
        found = {bad.row: (bad.index, bad.kind) for bad in entry.rejected}
        bad = np.flatnonzero(~batch["valid"])
        order = indices([batch])
        assert found == {row: (order[row], KINDS[order[row]]) for row in bad}
        assert {bad.source for bad in entry.rejected} == {"jsonl:pets.jsonl"}
    # Positions 6 to 17; an epoch has 8 examples.
    repeated = np.concatenate([entry.repeated for entry in statistics])
    assert repeated.tolist() == [False] * 2 + [True] * 10


def test_a_bug_in_a_transform_raises(path):
    @dataclasses.dataclass(frozen=True)
    class Broken(Resize):
        def __call__(self, example, rng):
            return {**example, "image": example["image"][:3]}

    data = sample_data(path, train_transforms=(Decode(), Broken(16), ChooseText(), Tokenize()))
    with pytest.raises(
        ValueError, match=r"made image uint8\[3, 24, 3\] .* expected uint8\[16, 16, 3\]"
    ):
        take(data, 1)


def test_invalid_arguments_and_sources_are_an_error(path, tmp_path):
    with pytest.raises(UserError, match=r"global_batch: 8 .* among 3 processes"):
        train_batches(sample_data(path), seed=0, global_batch=8, process_count=3)
    with pytest.raises(UserError, match=r"jsonl:pets\.jsonl has no examples"):
        train_batches(sample_data(write_jsonl(tmp_path, [])), seed=0, global_batch=8)
    with pytest.raises(UserError, match="unset"):
        train_batches(sample_data(path, source=JsonLines()), seed=0, global_batch=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_transforms": (Decode(), ChooseText(), Tokenize())},
            "train_transforms: none .* fixes the image",
        ),
        (
            {"eval_transforms": (Decode(), Resize(16), Tokenize())},
            "eval_transforms: tokenize reads 'text', .* put choose_text before it",
        ),
        (
            {"eval_transforms": (Decode(), Resize(16), ChooseText())},
            "eval_transforms: make 'text', which nothing encodes; add tokenize",
        ),
        (
            {"eval_transforms": (Decode(), Resize(16), ChooseText(), Tokenize("texts"))},
            "eval_transforms: tokenize reads 'texts', .*; did you mean 'text'",
        ),
        (
            {"train_transforms": (Decode(), Resize(16), ChooseText(), Tokenize(tokenizer="txt"))},
            "train_transforms: tokenize: no tokenizer 'txt' .*; did you mean 'text'",
        ),
        (
            {"train_transforms": (Resize(16), ChooseText(), Tokenize())},
            "train_transforms: resize reads 'image', .* put decode before it",
        ),
        (
            {"eval_transforms": (Decode(), Resize(32), ChooseText(), Tokenize())},
            r"eval_transforms: make image uint8\[32, 32, 3\], train_transforms uint8\[16, 16, 3\]",
        ),
        ({"workers": -1}, "workers: must be 0 or more"),
        ({"prefetch": 0}, "prefetch: must be at least 1"),
        ({"max_rejected_share": 1.5}, "max_rejected_share: must be within 0 and 1, got 1.5"),
    ],
)
def test_invalid_recipes_are_an_error(path, changes, message):
    validate(sample_data(path))
    with pytest.raises(UserError, match=message):
        validate(sample_data(path, **changes))


def test_the_last_transform_with_a_size_decides_it(path):
    transforms = (Decode(), Resize(40), RandomResizedCrop(16), ChooseText(), Tokenize())
    assert sample_data(path, train_transforms=transforms).batch_spec(1)["image"][0] == (
        1,
        16,
        16,
        3,
    )


def test_the_transforms_of_clip_and_siglip_are_valid(path):
    clip = sample_data(
        path,
        train_transforms=(Decode(), RandomCrop(224), ChooseText(), Tokenize()),
        eval_transforms=(Decode(), Resize(224, mode="shortest"), ChooseText(), Tokenize()),
    )
    plain = Resize(256, interpolation="bilinear", antialias=False)
    transforms = (Decode(), plain, ChooseText("random"), Tokenize())
    siglip = sample_data(path, train_transforms=transforms, eval_transforms=transforms)
    assert [validate(d).batch_spec(1)["image"][0][1] for d in (clip, siglip)] == [224, 256]


def test_ids_hold_source_and_index_beyond_32_bits():
    indices = np.array([0, 1, 2**32, 2**48 - 1, -1], np.int64)
    packed = pack_ids(indices, source_number=5)
    assert packed.tolist()[0] == [5 << 16, 0]
    assert packed.tolist()[3] == [(5 << 16) | 0xFFFF, 0xFFFFFFFF]
    assert packed.tolist()[4] == [0xFFFFFFFF, 0xFFFFFFFF]
    assert unpack_ids(packed).tolist() == [*((5 << 48) | indices[:4]).tolist(), -1]


# --- Fingerprint of the stream


def test_the_fingerprint_does_not_depend_on_folder_and_workers(tmp_path):
    fingerprints = set()
    for name, workers in (("here", 0), ("there", 2)):
        (tmp_path / name).mkdir()
        data = sample_data(write_jsonl(tmp_path / name, captioned(5)), workers=workers)
        fingerprints.add(stream_fingerprint(data, seed=0, global_batch=8))
    assert len(fingerprints) == 1


def test_the_fingerprint_changes_with_the_stream(path, tmp_path):
    data = sample_data(path)
    other = sample_data(write_jsonl(tmp_path, captioned(COUNT + 1)))
    variants = [
        stream_fingerprint(data, seed=0, global_batch=8),
        stream_fingerprint(data, seed=1, global_batch=8),
        stream_fingerprint(data, seed=0, global_batch=16),
        stream_fingerprint(other, seed=0, global_batch=8),
        stream_fingerprint(
            sample_data(path, tokenizers={"text": Clip(context_length=13)}), seed=0, global_batch=8
        ),
        stream_fingerprint(sample_data(path, source=Builtin("train")), seed=0, global_batch=8),
        stream_fingerprint(sample_data(path, source=Builtin("test")), seed=0, global_batch=8),
        stream_fingerprint(
            sample_data(
                path, train_transforms=(*data.train_transforms[:-1], ChooseText(), Tokenize())
            ),
            seed=0,
            global_batch=8,
        ),
    ]
    assert len(set(variants)) == len(variants)
    assert all(len(variant) == 64 for variant in variants)


def test_the_fingerprint_changes_with_the_tags_of_the_builtin_set(path, monkeypatch):
    data = sample_data(path, source=Builtin("test"))
    now = stream_fingerprint(data, seed=0, global_batch=8)
    monkeypatch.setattr("vljax.datasets.builtin.source._tags", lambda item: tuple(item["tags"]))
    assert stream_fingerprint(data, seed=0, global_batch=8) != now


def test_the_data_package_needs_no_jax_to_describe_a_recipe():
    code = (
        "import sys, vljax.data.pipeline.pipeline, vljax.data.pipeline.evaluation_set;"
        "import vljax.data.pipeline.preprocessing, vljax.datasets;"
        "import vljax.data.sources, vljax.data.tokenizers, vljax.data.transforms;"
        "heavy = {'jax', 'flax', 'grain', 'torch', 'tensorflow', 'PIL', 'cv2'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_reading_batches_imports_neither_tensorflow_nor_pytorch(path):
    code = f"""
import sys
from vljax.data.pipeline.pipeline import Data, train_batches
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import Clip
from vljax.data.transforms import ChooseText, Decode, Resize, Tokenize
steps = (Decode(), Resize(8), ChooseText(), Tokenize())
data = Data(JsonLines({json.dumps(path)}), {{"text": Clip()}}, steps, steps)
next(train_batches(data, seed=0, global_batch=4))
print(sorted({{'torch', 'tensorflow'}} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
