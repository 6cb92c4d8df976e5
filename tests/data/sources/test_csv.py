"""CSV and TSV tables."""

import csv
import pickle

import pytest

from tests.data.written import jpeg
from vljax.config import UserError, validate
from vljax.data.records import ExampleError
from vljax.data.sources import Csv, Tsv
from vljax.data.sources.filters import Range

ROWS = [
    {"image": "0.jpg", "caption": 'says "hi", twice', "score": "0.5", "class": "cat"},
    {"image": "sub/1.jpg", "caption": "two\nlines", "score": "1.5", "class": "ant"},
    {"image": "2.jpg", "caption": "", "score": "2.5", "class": ""},
]


def write(path, rows, **options):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    for number, row in enumerate(rows):
        (path.parent / row["image"]).parent.mkdir(exist_ok=True)
        (path.parent / row["image"]).write_bytes(jpeg(number))
    return str(path)


def test_rows_written_by_pythons_csv_module_are_read(tmp_path):
    records = Csv(write(tmp_path / "x.csv", ROWS), label="class").open()
    assert [records[i].captions for i in range(3)] == [('says "hi", twice',), ("two\nlines",), ()]
    assert [records[i].image for i in range(3)] == [jpeg(i) for i in range(3)]
    assert records.class_names == ("ant", "cat")
    assert [records[i].label for i in range(3)] == [1, 0, None]
    assert records.counts.fields == {"image": 3, "caption": 2, "class": 2}
    assert pickle.loads(pickle.dumps(records))[1] == records[1]


def test_well_formed_tables_are_read_without_a_warning(tmp_path, caplog):
    Csv(write(tmp_path / "x.csv", ROWS)).open()
    Tsv(write(tmp_path / "x.tsv", ROWS, delimiter="\t")).open()
    assert caplog.text == ""


def test_several_files_with_tabs_and_named_columns_are_read(tmp_path):
    rows = [{"image": f"{i}.jpg", "title": f"t{i}", "long": f"l, {i}"} for i in range(2)]
    first = write(tmp_path / "a.tsv", rows, delimiter="\t")
    (tmp_path / "b").mkdir()
    second = write(tmp_path / "b" / "b.tsv", rows[1:], delimiter="\t")
    records = Tsv((first, second), captions=("long", "title")).open()
    assert [records[i].captions for i in range(3)] == [
        ("l, 0", "t0"),
        ("l, 1", "t1"),
        ("l, 1", "t1"),
    ]
    assert records[1].image == jpeg(1)
    assert records[2].image == jpeg(0)


def test_files_without_a_header_line_are_read(tmp_path):
    (tmp_path / "x.tsv").write_text("a cat\tcat.jpg\n")
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    records = Tsv(str(tmp_path / "x.tsv"), header=("caption", "image")).open()
    assert (records[0].captions, records[0].image) == (("a cat",), jpeg())


def test_byte_order_marks_and_unicode_line_separators_do_not_make_rows(tmp_path):
    (tmp_path / "x.csv").write_bytes("\ufeffimage,caption\r\na.jpg,x\u2028y\r\n\r\n".encode())
    records = Csv(str(tmp_path / "x.csv")).open()
    assert [records.annotation(i).captions for i in range(len(records))] == [("x\u2028y",)]


def test_filters(tmp_path):
    path = write(tmp_path / "x.csv", ROWS)
    records = Csv(path, filters=(Range("score", maximum=2),)).open()
    assert len(records) == 2
    assert records.counts.named == {"score is not at most 2": ["x.csv:5"]}


def test_a_caption_that_is_not_utf8_rejects_its_example(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"image,caption\na.jpg,caf\xe9\na.jpg,tea\n")
    (tmp_path / "a.jpg").write_bytes(jpeg())
    records = Csv(str(tmp_path / "x.csv")).open()
    assert records.annotation(0).captions == ()
    with pytest.raises(ExampleError, match=r"caption is not UTF-8 \(byte 3\)"):
        records[0]
    assert records[1].captions == ("tea",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,caption\na.jpg\n", r"x\.csv:2: 1 values, but the header has 2; quote values"),
        ("image,caption\na.jpg,a,b\n", r"x\.csv:2: 3 values, but the header has 2"),
        ('image,caption\na.jpg,"a"b\n', r"x\.csv:2: .*expected after"),
        ("image,captions\n", r"captions: .* has no 'caption'; did you mean 'captions'\?"),
        ("picture,caption\n", r"image: .* has no 'image'"),
        ("", r"has no 'image'"),
    ],
)
def test_a_malformed_table_is_an_error_with_file_and_line(tmp_path, content, message):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        Csv(str(tmp_path / "x.csv")).open()


def unquoted(path, changes):
    """A table of 12 rows in which quotation marks are text, as CC3M is published."""
    captions = {i: f"picture {i}" for i in range(12)} | changes
    lines = [f"{i}.jpg\t{caption}\n" for i, caption in captions.items()]
    path.write_text("image\tcaption\n" + "".join(lines))
    return str(path), [(caption,) for caption in captions.values()]


@pytest.mark.parametrize(
    "changes",
    [
        {3: '"so it begins', 7: 'and so it ends"'},
        {3: '"so it begins'},
        {3: '"the end" of the road'},
        {3: 'a 15" laptop'},
    ],
)
def test_quotation_marks_in_tables_with_tabs_are_text(tmp_path, changes):
    path, captions = unquoted(tmp_path / "x.tsv", changes)
    for source in (Tsv(path), Csv(path, delimiter="\t", quoting="none")):
        records = source.open()
        assert [records.annotation(i).captions for i in range(len(records))] == captions


def test_tables_with_tabs_written_as_csv_files_are_read_as_before(tmp_path):
    rows = [
        {"image": "0.jpg", "caption": 'a 15" laptop'},
        {"image": "1.jpg", "caption": "two\nlines and a\ttab"},
    ]
    path = write(tmp_path / "x.tsv", rows, delimiter="\t")
    by_default, as_csv = Tsv(path).open(), Tsv(path, quoting="csv").open()
    assert [by_default[i].captions[0] for i in range(2)] == [row["caption"] for row in rows]
    assert by_default.identity == as_csv.identity
    assert Tsv(path, quoting="none").open().identity != as_csv.identity


def test_rows_that_a_quotation_mark_may_have_joined_are_named(tmp_path, caplog):
    path, _ = unquoted(tmp_path / "x.tsv", {3: '"so it begins', 7: 'and so it ends"'})
    assert len(Csv(path, delimiter="\t").open()) == 8
    assert "x.tsv:9: a value in quotation marks joins lines" in caplog.text
    assert "set data.source.quoting to none" in caplog.text
    path, _ = unquoted(tmp_path / "y.tsv", {3: '"the end" of the road'})
    with pytest.raises(UserError, match=r"y\.tsv:5: .*set data\.source\.quoting to none"):
        Csv(path, delimiter="\t").open()


def test_a_row_that_does_not_fit_the_header_rejects_its_example(tmp_path):
    content = "image,caption,score\na.jpg,one,1\nb.jpg,two, too,2\na.jpg,three,3\n"
    (tmp_path / "x.csv").write_text(content)
    (tmp_path / "a.jpg").write_bytes(jpeg())
    records = Csv(str(tmp_path / "x.csv")).open()
    assert [records.annotation(i).captions for i in range(3)] == [("one",), (), ("three",)]
    with pytest.raises(ExampleError, match=r"x\.csv:3: 4 values, but the header has 3"):
        records[1]
    filtered = Csv(str(tmp_path / "x.csv"), filters=(Range("score", maximum=9),)).open()
    assert len(filtered) == 2
    assert filtered.counts.named == {"row does not fit the header": ["x.csv:3"]}


def test_a_caption_of_a_megabyte_is_read(tmp_path):
    (tmp_path / "x.csv").write_text(f"image,caption\na.jpg,{'word ' * 200_000}\n")
    assert len(Csv(str(tmp_path / "x.csv")).open().annotation(0).captions[0]) == 1_000_000


def test_a_table_in_utf16_is_an_error_with_the_remedy(tmp_path):
    (tmp_path / "x.csv").write_bytes("image,caption\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"x\.csv: not UTF-8 but UTF-16; save it as UTF-8"):
        Csv(str(tmp_path / "x.csv")).open()


def test_a_delimiter_must_be_one_character():
    with pytest.raises(UserError, match="delimiter: must be one character, got '::'"):
        validate(Csv(delimiter="::"))


def test_the_identity_follows_content_and_columns(tmp_path):
    path = write(tmp_path / "x.csv", ROWS)
    before = Csv(path).open().identity
    assert Csv(path).open().identity == before
    assert Csv(path, captions=("score",)).open().identity != before
    write(tmp_path / "x.csv", ROWS[:2])
    assert Csv(path).open().identity != before


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        (["2.0", "10.0", "", "nan"], (), [2, 10, None, None]),
        (["2", "10", "-1", " 3 "], (), [2, 10, None, 3]),
        (["dog", "cat", "", "-1"], ("-1", "cat", "dog"), [2, 1, None, 0]),
        (["1.0", "1.5", "2.0", ""], ("1.0", "1.5", "2.0"), [0, 1, 2, None]),
        (["-10", "-1", "0", "-10"], ("-1", "-10", "0"), [1, 0, 2, 1]),
        (["4300000001", "430", "-1", "430"], ("430", "4300000001"), [1, 0, None, 0]),
    ],
)
def test_classes_are_names_or_indices_and_may_be_missing(tmp_path, values, names, labels):
    rows = [{"image": f"{i}.jpg", "caption": "a", "class": v} for i, v in enumerate(values)]
    records = Csv(write(tmp_path / "x.csv", rows), label="class").open()
    assert records.class_names == names
    assert [records[i].label for i in range(len(rows))] == labels


def test_classes_are_looked_up_in_a_file_of_names(tmp_path):
    values = ["cat", "1.0", "", "-1", " d", "2147483648"]
    rows = [{"image": f"{i}.jpg", "caption": "a", "class": v} for i, v in enumerate(values)]
    path = write(tmp_path / "x.csv", rows)
    (tmp_path / "lines.txt").write_bytes(b"\xef\xbb\xbfcat\r\n\r\nd\xe2\x80\xa8og\r\n d\r\n")
    records = Csv(path, label="class", classes=str(tmp_path / "lines.txt")).open()
    assert records.class_names == ("cat", "d\u2028og", "d")
    assert [records[i].label for i in range(5)] == [0, 1, None, None, 2]
    with pytest.raises(ExampleError, match="class 2147483648 has no name; there are 3"):
        records[5]
    (tmp_path / "list.txt").write_text('["d", " d", "a\\nb"]')
    records = Csv(path, label="class", classes=str(tmp_path / "list.txt")).open()
    assert records.class_names == ("d", " d", "a\nb")
    assert [records[i].label for i in range(1, 5)] == [1, None, None, 1]
    with pytest.raises(ExampleError, match="class 'cat' is not among the class names"):
        records[0]
    for content, message in ((b"caf\xe9", r"not UTF-8 \(byte 3\)"), (b'["a', "not a JSON list")):
        (tmp_path / "bad.txt").write_bytes(content)
        with pytest.raises(UserError, match=rf"data\.source\.classes: .*bad\.txt: {message}"):
            Csv(path, label="class", classes=str(tmp_path / "bad.txt")).open()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path, encoding):
    (tmp_path / "x.csv").write_bytes("image,caption\na.jpg,a cat\n".encode(encoding))
    with pytest.raises(UserError, match=r"x\.csv: not UTF-8 but UTF-16; save it as UTF-8$"):
        Csv(str(tmp_path / "x.csv")).open()


def test_two_columns_of_one_name_are_refused(tmp_path):
    """Before, the last one was read and the others were lost."""
    (tmp_path / "x.csv").write_text("image,caption,caption\na.jpg,a cat,a dog\n")
    message = r"x\.csv: 2 columns are named 'caption'; rename all but one of them$"
    with pytest.raises(UserError, match=message):
        Csv(str(tmp_path / "x.csv")).open()
    (tmp_path / "x.csv").write_text(",image,caption,\n0,a.jpg,a cat,\n")
    assert Csv(str(tmp_path / "x.csv")).open().annotation(0).captions == ("a cat",)


@pytest.mark.parametrize(
    ("kind", "delimiter", "written"),
    [(Csv, ";", "';'"), (Csv, "\t", r"$'\t'"), (Csv, "|", "'|'"), (Tsv, ",", "','")],
)
def test_another_delimiter_is_suggested(tmp_path, kind, delimiter, written):
    path = tmp_path / "x.csv"
    path.write_text(f"image{delimiter}caption\na.jpg{delimiter}a cat\n")
    with pytest.raises(UserError) as error:
        kind(str(path)).open()
    assert str(error.value) == (
        f"{path}: one column only, {f'image{delimiter}caption'!r}; if {delimiter!r} stands between "
        f"columns, set --data.source.delimiter {written} (--delimiter {written} in `vljax data`)"
    )
    assert kind(str(path), delimiter=delimiter).open().annotation(0).captions == ("a cat",)


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (("train.csv", "test.csv"), True),
        (("pets_train-0.csv", "pets_val-0.csv"), True),
        (("train-0.csv", "train-1.csv"), False),
        (("latest.csv", "trainer.csv"), False),
    ],
)
def test_files_of_several_splits_in_a_folder_are_warned_of(tmp_path, caplog, names, warned):
    for name in names:
        (tmp_path / name).write_text("image,caption\na.jpg,a cat\n")
    assert len(Csv(str(tmp_path)).open()) == 2
    assert ("files of several splits are read as one data set" in caplog.text) == warned
    caplog.clear()
    Csv(tuple(str(tmp_path / name) for name in names)).open()
    assert caplog.text == ""  # each file was named


def test_a_data_url_is_not_copied_into_the_reason(tmp_path):
    url = "data:image/png;base64," + "A" * 5000
    (tmp_path / "x.csv").write_text(f'image,caption\n"{url}",a cat\n{"b" * 5000}.jpg,a dog\n')
    records = Csv(str(tmp_path / "x.csv")).open()
    with pytest.raises(ExampleError, match="is a data URL; write it to a file") as error:
        records.image(0)
    assert len(str(error.value)) < 250
    with pytest.raises(ExampleError, match="cannot be read") as error:
        records.image(1)
    assert len(str(error.value)) < 250
