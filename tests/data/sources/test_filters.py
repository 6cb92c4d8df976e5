"""Filters by the value of a column."""

import pytest

from tests.data.samples import write_jsonl
from vljax.config import UserError, decode, encode, validate
from vljax.data.sources import JsonLines
from vljax.data.sources.filters import Equals, Filter, Length, Matches, Range, exclusion_reason


@pytest.mark.parametrize(
    ("condition", "kept", "dropped"),
    [
        (Range("w", minimum=10), [10, "10", 11.5], [9, None, "wide", float("nan")]),
        (Range("w", maximum=10), [10, -1], [10.5]),
        (Range("w", minimum=2, maximum=3), [2, 3], [1, 4]),
        (Length("c", minimum=3), ["abc", ["", "abcd"]], [" ab ", None, []]),
        (Length("c", maximum=3), ["abc", "", None], ["abcd"]),
        (Equals("s", values=("a", "1")), ["a", 1, b"a"], ["b", None, "", b"b"]),
        (Matches("c", pattern=r"\bcat"), ["a cat", ["dog", "cats"]], ["concat", None]),
        (Matches("c", pattern="^(?!.*cat)"), ["dog"], ["a cat"]),
    ],
)
def test_filters_keep_and_leave_out_values(condition, kept, dropped):
    assert all(condition.keeps(value) for value in kept)
    assert not any(condition.keeps(value) for value in dropped)
    assert decode(Filter, encode(condition)) == condition


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (Range("width", minimum=64), "width is not at least 64"),
        (Range("width", maximum=0.5), "width is not at most 0.5"),
        (Length("txt", minimum=1, maximum=9), "length of txt is not in 1..9"),
        (Equals("status", values=("success",)), "status is not one of success"),
        (Matches("txt", pattern="x+"), "txt does not match x+"),
    ],
)
def test_the_first_failed_filter_gives_the_reason(condition, reason):
    assert exclusion_reason((Matches("a", pattern=""), condition), {"a": "x"}.get) == (
        reason if not condition.keeps(None) else None
    )
    assert condition.reason == reason


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (Range("w"), "minimum: set minimum, maximum or both"),
        (Length("w", minimum=3, maximum=2), "maximum: is below minimum: 2 < 3"),
        (Equals("w"), "values: must name at least one value"),
        (Matches("w", pattern="("), "pattern: not a regular expression"),
    ],
)
def test_invalid_filters_are_an_error(condition, message):
    with pytest.raises(UserError, match=message):
        validate(condition)


def test_filters_change_the_examples_and_the_identity(tmp_path, caplog):
    path = write_jsonl(tmp_path, [{"caption": f"number {i}", "score": i} for i in range(4)])
    records = JsonLines(path, filters=(Range("score", minimum=2),)).open()
    assert [records[i].captions for i in range(len(records))] == [("number 2",), ("number 3",)]
    assert records.identity != JsonLines(path).open().identity
    assert records.counts.left_out == {"score is not at least 2": 2}
    expected = "jsonl:pets.jsonl: left out 2: score is not at least 2 (line 1, line 2)"
    assert caplog.messages == [expected]
