import io
from collections import Counter

import pytest
from rich.console import Console

from vljax.commands.data import answers
from vljax.config import UserError
from vljax.data.transforms import EncodeAnswers, GridLabels
from vljax.data.vocabulary import VocabularyFile, answer_vocabulary, object_names, terms
from vljax.datasets import Builtin, Scenes

SCENES = ("scenes", "--size", "64", "--examples", "60", "--max_objects", "2")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def command(*argv):
    out = io.StringIO()
    result = answers.run(list(argv), "vljax data answers", Console(file=out, width=1000))
    return result, out.getvalue()


def counted(terms_of):
    scenes = Scenes(size=64, examples=60, max_objects=2).open()
    found = [term.lower() for i in range(60) for term in terms_of(scenes.annotation(i))]
    return sorted({*found}, key=lambda term: (-found.count(term), term)), found


def test_the_file_has_the_most_frequent_answers_in_order(tmp_path):
    expected, found = counted(lambda a: [q.answer for q in a.questions])
    path = str(tmp_path / "made" / "answers.txt")
    result, output = command(*SCENES, "--most", "5", "--out", path)
    assert terms(VocabularyFile(path, size=5)) == tuple(expected[:5])
    assert (result["size"], result["different"]) == (5, len(expected))
    assert result["counted"] == len(found)
    covered = sum(term in expected[:5] for term in found)
    assert result["share"] == pytest.approx(covered / len(found), abs=1e-12)
    assert result["left_out"][0] == [expected[5], found.count(expected[5])]
    assert f"5 of {len(expected)} different texts" in output
    EncodeAnswers(VocabularyFile(path, size=5))


def test_rare_answers_are_left_out_and_a_recipe_may_hold_the_rest():
    expected, found = counted(lambda a: [q.answer for q in a.questions])
    scenes = Scenes(size=64, examples=60, max_objects=2)
    frequent = answer_vocabulary(scenes, min_count=4)
    assert frequent == tuple(term for term in expected if found.count(term) >= 4)
    assert answer_vocabulary(scenes, kinds=("exists",)) in (("no", "yes"), ("yes", "no"))


def test_names_of_objects(tmp_path):
    expected, _ = counted(lambda a: [region.name for region in a.regions])
    path = str(tmp_path / "names.txt")
    result, _ = command(*SCENES, "--objects", "--out", path)
    assert result["share"] == 1.0
    names = terms(VocabularyFile(path, size=result["size"]))
    scenes = Scenes(size=64, examples=60, max_objects=2)
    assert names == tuple(expected) == object_names(scenes)
    GridLabels(2, names)


def test_tags_are_counted_for_a_vocabulary(tmp_path):
    path = str(tmp_path / "tags.txt")
    result, _ = command("builtin:test", "--tags", "--most", "3", "--out", path)
    records = Builtin("test").open()
    counts = Counter(tag for i in range(len(records)) for tag in records.annotation(i).tags)
    assert terms(VocabularyFile(path, size=3)) == tuple(tag for tag, _ in counts.most_common(3))
    assert result["counted"] == counts.total()
    assert result["share"] == sum(n for _, n in counts.most_common(3)) / counts.total()


def test_the_second_count_reads_no_annotation(monkeypatch):
    scenes = Scenes(size=64, examples=60, max_objects=2)
    first = answer_vocabulary(scenes)
    kind = type(scenes.open())
    monkeypatch.setattr(kind, "annotation", lambda *_: pytest.fail("read an annotation"))
    assert answer_vocabulary(scenes) == first


def test_bad_input_is_named(tmp_path):
    out = str(tmp_path / "answers.txt")
    with pytest.raises(UserError, match="name the file to write"):
        command(*SCENES)
    with pytest.raises(UserError, match="builtin:test: no questions to count"):
        command("builtin:test", "--out", out)
    with pytest.raises(UserError, match=r"--min-count 900: no text .* tags of builtin:test; the"):
        command("builtin:test", "--tags", "--min-count", "900", "--out", out)
    with pytest.raises(UserError, match="--tags: cannot go with --objects"):
        command("builtin:test", "--tags", "--objects", "--out", out)
    with pytest.raises(UserError, match=r"builtin:train: has no questions with answers"):
        answer_vocabulary(Builtin("train"), examples=3)


def test_the_training_data_of_a_recipe(tmp_path):
    recipe = "configs/quickstart.py:tiny"
    with pytest.raises(UserError, match="builtin:train: no questions to count"):
        command(recipe, "--out", str(tmp_path / "answers.txt"), "--max-examples", "5")
