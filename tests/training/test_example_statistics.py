"""Counts of examples, the list of rejected ones, and the limit on their share."""

import json

import numpy as np
import pytest

from vljax.config import UserError
from vljax.data.pipeline.batches import BatchStatistics, RejectedExample
from vljax.training import example_statistics
from vljax.training.example_statistics import FILE, ExampleStatistics

ROWS = 8


def account(step, bad=(), repeated=0):
    """A batch of eight, some rows of which are bad: `{row: (index, kind)}`."""
    valid = np.ones(ROWS, bool)
    valid[[row for row, _, _ in bad]] = False
    rejected = tuple(
        RejectedExample(row, "pets", "", i, kind, f"{kind} {i}") for row, i, kind in bad
    )
    return BatchStatistics(step, valid, np.arange(ROWS) < repeated, rejected)


ALL = np.ones(ROWS, bool)


def record(statistics, begin, end, bad=((3, 17, "truncated"),)):
    for step in range(begin, end):
        statistics.record(account(step, bad), ALL)
    return statistics.flush(end)


def test_examples_are_counted_by_what_became_of_them(tmp_path):
    statistics = ExampleStatistics(str(tmp_path), 0, 1.0)
    statistics.record(account(0, [(1, 5, "no_caption")]), ALL)
    statistics.record(account(1, [(0, 9, "truncated"), (2, 4, "no_caption")], repeated=3), ALL)
    assert statistics.flush(2) == {
        "data/decoded": 13,
        "data/repeated": 3,
        "data/rejected": 3,
        "data/rejected/no_caption": 2,
        "data/rejected/truncated": 1,
    }
    assert statistics.flush(2)["data/decoded"] == 13


def test_rows_that_another_process_counts_are_left_out(tmp_path):
    statistics = ExampleStatistics(str(tmp_path), 0, 1.0)
    bad = [(1, 5, "no_caption"), (6, 9, "truncated")]
    statistics.record(account(0, bad, repeated=6), np.arange(ROWS) < 4)
    found = statistics.flush(1)
    assert (found["data/decoded"], found["data/repeated"], found["data/rejected"]) == (3, 4, 1)
    assert [row["index"] for row in example_statistics.read(str(tmp_path))] == [5]


def test_each_bad_example_is_listed_once(tmp_path):
    statistics = ExampleStatistics(str(tmp_path), 0, 1.0)
    statistics.record(account(0, [(1, 5, "no_caption")]), ALL)
    statistics.record(account(1, [(7, 5, "no_caption"), (2, 8, "damaged")]), ALL)
    statistics.flush(2)
    statistics.record(account(2, [(0, 8, "damaged")]), ALL)
    assert statistics.flush(3)["data/rejected"] == 4
    lines = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "source": "pets", "index": 5, "kind": "no_caption", "reason": "no_caption 5"},
        {"step": 2, "source": "pets", "index": 8, "kind": "damaged", "reason": "damaged 8"},
    ]


@pytest.mark.parametrize("parts", [False, True])
def test_a_resumed_run_ends_with_the_counts_and_the_list_of_an_uninterrupted_one(
    tmp_path, monkeypatch, parts
):
    """Killed past its checkpoint: what came after is superseded, then comes again."""
    log = example_statistics.JsonlLog
    monkeypatch.setattr(example_statistics, "JsonlLog", lambda *a: log(*a, parts=parts))
    bad = {step: [(step % ROWS, 100 + step, "truncated")] for step in range(12)}

    def go(statistics, begin, end):
        for step in range(begin, end):
            statistics.record(account(step, bad[step], repeated=step // 4), ALL)
        return statistics.flush(end)

    (tmp_path / "whole").mkdir()
    expected = go(ExampleStatistics(str(tmp_path / "whole"), 0, 1.0), 0, 12)

    (tmp_path / "killed").mkdir()
    workdir = str(tmp_path / "killed")
    first = ExampleStatistics(workdir, 0, 1.0)
    go(first, 0, 5)
    saved = first.files()[FILE]
    go(first, 5, 9)  # lost, but for the list
    second = ExampleStatistics(workdir, 5, 1.0, saved)
    assert go(second, 5, 12) == expected
    assert example_statistics.read(workdir) == example_statistics.read(str(tmp_path / "whole"))
    assert len(example_statistics.read(workdir)) == 12


def test_too_many_bad_examples_end_the_run_with_a_summary(tmp_path):
    statistics = ExampleStatistics(str(tmp_path), 0, 0.1)
    record(statistics, 0, 4, [(0, 3, "truncated"), (1, 4, "no_caption"), (2, 5, "truncated")])
    with pytest.raises(UserError) as stop:
        statistics.check(4)
    assert str(stop.value) == (
        "data.max_rejected_share: 12 of the last 32 examples up to step 4 cannot be used, more than"
        " 0.1 of them (truncated 8, no_caption 4; such as pets/3: truncated 3); they are listed in"
        f" {tmp_path}/rejected.jsonl; earlier checkpoints are kept: repair the data and"
        " resume, or raise the limit"
    )


def test_chance_does_not_end_the_run(tmp_path):
    """An eighth is bad, a tenth allowed: of 64 that may be chance, of 4,000 not."""
    statistics = ExampleStatistics(str(tmp_path), 0, 0.1)
    record(statistics, 0, 8)
    statistics.check(8)
    record(statistics, 8, 500)
    with pytest.raises(UserError, match="500 of the last 4,000"):
        statistics.check(500)


@pytest.mark.parametrize(("limit", "ends"), [(0.0, True), (1.0, False)])
def test_limits_of_zero_and_one(tmp_path, limit, ends):
    statistics = ExampleStatistics(str(tmp_path), 0, limit)
    record(statistics, 0, 50, ())
    statistics.check(50)
    all_bad = [(row, row, "unreadable") for row in range(ROWS)]
    record(statistics, 50, 52, all_bad)
    if ends:
        with pytest.raises(UserError, match="16 of the last 416"):
            statistics.check(52)
    else:
        statistics.check(52)


def test_a_late_outage_ends_the_run(tmp_path):
    """A fifth of a few thousand examples is bad, after a hundred thousand good ones."""
    statistics, step = ExampleStatistics(str(tmp_path), 0, 0.1), 0
    for _ in range(10):
        record(statistics, step, step + 1250, ())
        step += 1250
        statistics.check(step)
    record(statistics, step, step + 250, [(0, 1, "unreadable"), (1, 2, "unreadable")])
    with pytest.raises(UserError, match="500 of the last 2,000"):
        statistics.check(step + 250)
