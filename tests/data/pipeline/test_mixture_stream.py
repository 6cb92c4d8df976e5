"""The stream of a mixture: the same for any processes and workers, and across SIGKILL."""

import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.data.samples import captioned, sample_data, write_jsonl
from tests.data.stream import GLOBAL_BATCH, mixture
from vljax.data.pipeline.batches import unpack_ids
from vljax.data.pipeline.pipeline import train_batches
from vljax.data.randomness import Step, example_generator
from vljax.data.sources import JsonLines, Mixture, Part
from vljax.data.transforms import ChooseText, Decode, Resize, Tokenize
from vljax.datasets import Builtin

ROOT = Path(__file__).parents[3]
SEED, STEPS = 5, 20
NAMES = ["photos:jsonl:pets.jsonl", "art:builtin:test", "again:jsonl:pets.jsonl"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("pets"), captioned(22))


def take(data, steps, **options):
    options = {"seed": SEED, "global_batch": GLOBAL_BATCH, **options}
    batches = train_batches(data, **options)
    try:
        return list(itertools.islice(batches, steps))
    finally:
        batches.close()


def digest(batches):
    whole = hashlib.sha256()
    for batch in batches:
        for key in sorted(batch):
            whole.update(np.ascontiguousarray(batch[key]).tobytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def batches(path):
    return take(mixture(path), STEPS)


def numbers(batch):
    """Source and index of each example."""
    ids = unpack_ids(np.asarray(batch["example_id"]))
    return list(zip((ids >> 48).tolist(), (ids & (2**48 - 1)).tolist(), strict=True))


def test_the_schedule_is_followed(batches):
    counts = [Counter(part for part, _ in numbers(batch)) for batch in batches]
    first, second, third = (sum(counts[a:b], Counter()) for a, b in ((0, 5), (5, 12), (12, 20)))
    assert first == {0: 28, 1: 8, 2: 4}  # 0.7, 0.2 and 0.1 of 40
    assert second == {0: 49, 2: 7}  # 0.7 and 0.1 of 0.8, of 56
    assert abs(third[1] - 64 * 3 / 3.1) <= 0.5
    assert third[0] == 0


@pytest.mark.parametrize(("processes", "workers"), [(2, 0), (8, 0), (2, 1)])
def test_batches_are_the_same_for_any_processes_and_workers(path, batches, processes, workers):
    data = mixture(path, workers=workers)
    parts = [take(data, 15, process_index=i, process_count=processes) for i in range(processes)]
    joined = [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*parts, strict=True)
    ]
    assert digest(joined) == digest(batches[:15])


@pytest.mark.parametrize("start", [1, 5, 13])
def test_a_run_started_at_a_later_step_gets_the_same_batches(path, batches, start):
    assert digest(take(mixture(path), STEPS - start, start_step=start)) == digest(batches[start:])


def test_an_example_is_made_by_the_transforms_and_the_generator_of_its_part(path, batches):
    data = mixture(path)
    parts = list(data.source.parts.values())
    records = [part.source.open() for part in parts]
    seen = Counter()
    for step, batch in enumerate(batches):
        for row, (part, index) in enumerate(numbers(batch)):
            epoch, seen[part] = seen[part] // len(records[part]), seen[part] + 1
            if step != 4:
                continue
            rng = example_generator(SEED, NAMES[part], epoch, index)
            example = {
                "record": records[part][index],
                "step": Step(SEED, step),
                "tokenizers": data.load_tokenizers(),
            }
            for transform in parts[part].transforms or data.train_transforms:
                example = transform(example, rng)
            for name in ("image", "text", "text_mask"):
                assert np.array_equal(batch[name][row], example[name])
    assert {part for part, _ in numbers(batches[4])} == {0, 1, 2}


def test_the_same_files_under_two_names_have_different_orders(batches):
    order = {0: [], 2: []}
    for batch in batches:
        for part, index in numbers(batch):
            if part in order:
                order[part].append(index)
    length = min(map(len, order.values()))
    assert order[0][:length] != order[2][:length]


def test_examples_of_a_step_can_share_a_draw(path):
    class Drawing(Resize):
        def __call__(self, example, rng):
            image = np.zeros((16, 16, 3), np.uint8)
            image[0, 0, 0] = example["step"].generator().integers(256)
            image[0, 0, 1] = rng.integers(256)
            return {**example, "image": image}

    data = sample_data(path, train_transforms=(Decode(), Drawing(16), ChooseText(), Tokenize()))
    whole = take(data, 6)
    draws = [set(batch["image"][:, 0, 0, 0].tolist()) for batch in whole]
    assert all(len(draw) == 1 for draw in draws)
    assert len(set.union(*draws)) > 1
    assert len(set(whole[0]["image"][:, 0, 0, 1].tolist())) > 1
    expected = [int(Step(SEED, step).generator().integers(256)) for step in range(6)]
    assert [draw.pop() for draw in draws] == expected


def test_without_weights_an_epoch_has_every_example_once(path):
    parts = {"photos": Part(JsonLines(path)), "art": Part(Builtin("test"))}
    sizes = [22, len(Builtin("test").open())]
    data = sample_data(path, source=Mixture(parts))
    (batch,) = take(data, 1, global_batch=sum(sizes))
    assert sorted(numbers(batch)) == [
        (part, index) for part, size in enumerate(sizes) for index in range(size)
    ]


def test_killed_at_random_steps_and_resumed_on_other_processes(tmp_path, batches):
    write_jsonl(tmp_path, captioned(22))
    log, chance = tmp_path / "log", random.Random()
    stops = sorted(chance.sample(range(1, STEPS), 2))
    for stop, processes in zip([*stops, None], (1, 8, 2), strict=True):
        command = [sys.executable, "-m", "tests.data.stream", tmp_path, SEED, STEPS, processes, 0]
        child = subprocess.Popen([str(word) for word in command], cwd=ROOT, env=environment())
        while stop is not None and (not log.exists() or log.read_text().count("\n") < stop):
            assert child.poll() in (None, 0)
            time.sleep(0.001)
        if stop is not None:
            child.send_signal(signal.SIGKILL)
        child.wait(timeout=120)
    ids = bytes.fromhex(log.read_text().replace("\n", ""))
    expected = b"".join(batch["example_id"].tobytes() for batch in batches)
    assert hashlib.sha256(ids).hexdigest() == hashlib.sha256(expected).hexdigest(), stops


def environment():
    return {**os.environ, "JAX_PLATFORMS": "cpu"}
