"""Columns with questions, answers and boxes, in every kind of file that has columns."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from tests.data.samples import encoded, picture, write_jsonl
from vljax.config import UserError
from vljax.data.records import ExampleError, Question, Region
from vljax.data.sources import Csv, JsonLines, Parquet, Tsv
from vljax.data.sources.record_format import describe, layout

ROWS = [
    {"caption": "a", "asked": "How many?", "said": "2", "where": [[1, 2, 5, 6]], "who": ["dog"]},
    {"caption": "b", "asked": "Red?", "said": ["yes", "no", "yes"], "where": [], "who": []},
    {
        "caption": "c",
        "asked": "What?",
        "said": [{"answer": "a cat", "confidence": "yes"}, {"answer": "cat"}, {"answer": "cat"}],
        "where": [[0, 0, 3.6, 4], [2, 1, 9, 8]],
        "who": ["cat", "mat"],
    },
]
FIELDS = {"question": "asked", "answers": "said", "boxes": "where", "box_names": "who"}
EXPECTED = [
    (Question("question", "How many?", "2"),),
    (Question("question", "Red?", "yes", (("yes", 2.0), ("no", 1.0))),),
    (Question("question", "What?", "cat", (("a cat", 1.0), ("cat", 2.0))),),
]
REGIONS = [
    (Region("dog", (1, 2, 5, 6)),),
    (),
    (Region("cat", (0, 0, 4, 4)), Region("mat", (2, 1, 9, 8))),
]


def as_text(value):
    return value if isinstance(value, str) else json.dumps(value)


def sources(folder, rows=ROWS, **fields):
    fields = fields or FIELDS
    jsonl = write_jsonl(folder, rows)
    images = [f"{i}.png" for i in range(len(rows))]
    paths = {}
    for kind, delimiter in (("csv", ","), ("tsv", "\t")):
        paths[kind] = str(folder / f"pets.{kind}")
        with open(paths[kind], "w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(["image", *rows[0]])
            for image, row in zip(images, rows, strict=True):
                writer.writerow([image, *map(as_text, row.values())])
    # A Parquet column has one type: answers and boxes are JSON there, names are lists.
    table = {name: [as_text(row[name]) for row in rows] for name in rows[0]}
    table["who"] = [row["who"] for row in rows]
    table["image"] = [encoded(picture(20, 24)) for _ in rows]
    paths["parquet"] = str(folder / "pets.parquet")
    pyarrow.parquet.write_table(pyarrow.table(table), paths["parquet"])
    yield JsonLines(jsonl, **fields)
    yield Csv(paths["csv"], **fields)
    yield Tsv(paths["tsv"], **fields)
    yield Parquet(paths["parquet"], **fields)


def test_questions_and_boxes_of_each_format(tmp_path):
    for source in sources(tmp_path):
        records = source.open()
        for i, row in enumerate(ROWS):
            for found in (records.annotation(i), records[i]):
                assert found.questions == EXPECTED[i], source
                assert found.regions == REGIONS[i], source
                assert found.captions == (row["caption"],)


def test_the_group_of_each_format(tmp_path):
    for source in sources(tmp_path, group="asked"):
        records = source.open()
        groups = [records.annotation(i).group for i in range(len(ROWS))]
        assert groups[-1] == records[len(ROWS) - 1].group
        assert groups == [str(row["asked"]) for row in ROWS], source


def test_columns_change_the_identity_only_where_they_are_set(tmp_path):
    plain = [type(source)(source.path) for source in sources(tmp_path)]
    for source, without in zip(sources(tmp_path), plain, strict=True):
        assert source.open().identity != without.open().identity
        assert without.open()[0].questions == ()


def test_boxes_may_have_a_width_and_a_height(tmp_path):
    fields = {"boxes": "where", "box_names": "who", "box_format": "ltwh"}
    for source in sources(tmp_path, **fields):
        found = source.open()[2].regions
        assert found == (Region("cat", (0, 0, 4, 4)), Region("mat", (2, 1, 11, 9)))


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path):
    for source in sources(tmp_path, question="aske", answers="said"):
        with pytest.raises(UserError, match=r"data\.source\.question: .*'aske'; .*'asked'"):
            source.open()


def test_several_questions_of_an_image(tmp_path):
    rows = [
        {"qa": [{"question": "How many?", "answer": 3, "kind": "count"}]},
        {
            "qa": [
                {"question": "Red?", "answers": ["no", "no"]},
                {"question": "Big?", "answer": "y"},
            ]
        },
        {"qa": ["Red?"]},
        {},
    ]
    records = JsonLines(write_jsonl(tmp_path, rows), question="qa").open()
    assert records[0].questions == (Question("count", "How many?", "3"),)
    assert [q.answer for q in records[1].questions] == ["no", "y"]
    with pytest.raises(ExampleError, match=r"qa has no answer to 'Red\?'"):
        records[2]
    assert records[3].questions == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"q": ["a", "b"], "a": ["x"]}, "a has 1 answers for 2 questions"),
        ({"q": "a", "a": []}, "a has no answer to 'a'"),
        ({"q": "a", "a": " "}, "a has no answer to 'a'"),
        ({"q": {"a": 1}, "a": "x"}, "q must hold texts, got"),
        ({"b": [[1, 2, 3]]}, r"b must hold boxes of four numbers, got \[1, 2, 3\]"),
        ({"b": [[0, 0, 1, float("inf")]]}, "b must hold boxes of four numbers"),
        ({"b": [[0, 0, 1, float("nan")]]}, "b must hold boxes of four numbers"),
        ({"b": "[" * 10**5}, "b must be a list of boxes, got"),
        ({"b": "left"}, "b must be a list of boxes, got 'left'"),
        ({"b": [[1, 2, 3, 4]], "n": ["x", "y"]}, "n has 2 names for 1 boxes"),
    ],
)
def test_a_bad_value_rejects_its_example_and_names_the_column(tmp_path, row, message):
    whole = {"q": "How?", "a": "so", "b": [], "n": []}
    path = write_jsonl(tmp_path, [{**whole, **row}, whole])
    fields = {"question": "q", "answers": "a", "boxes": "b", "box_names": "n"}
    records = JsonLines(path, **fields).open()
    with pytest.raises(ExampleError, match=message) as error:
        records[0]
    assert error.value.kind == "damaged"
    assert records[1].questions == (Question("question", "How?", "so"),)


def test_weighted_answers_survive_conversion(tmp_path):
    (source, *_) = sources(tmp_path)
    for i in range(3):
        annotation = source.open().annotation(i)
        stored = json.loads(json.dumps(describe(annotation, ())))
        assert layout(stored)["questions"] == annotation.questions
        assert "answers" not in json.dumps(describe(source.open().annotation(0), ()))
