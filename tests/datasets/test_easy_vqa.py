"""The builder of easy-vqa, from a small package in the layout of the published wheel."""

import json
import zipfile

import pytest
from rich.console import Console

from tests.data.samples import encoded, picture
from vljax.commands.data import build
from vljax.config import UserError
from vljax.data.sources import Expand, JsonLines
from vljax.datasets import easy_vqa

CONSOLE = Console(stderr=True)
ANSWERS = ["circle", "red", "yes", "no"]
QUESTIONS = {
    "train": [
        ["what is the red shape?", "circle", 7],
        ["what is the color of the circle?", "red", 2],
        ["is there not a red shape in the image?", "no", 7],
        ["does the image contain a circle?", "yes", 2],
        ["what shape is present?", "circle", 2],
    ],
    "test": [["is no circle present?", "no", 0], ["what color is the shape?", "red", 0]],
}


def files(**changes):
    """The files of the package by name."""
    found = {"easy_vqa/data/answers.txt": "\n".join(ANSWERS).encode()}
    for split, rows in QUESTIONS.items():
        found[f"easy_vqa/data/{split}/questions.json"] = json.dumps(rows).encode()
        for image in {row[2] for row in rows}:
            png = encoded(picture(8, 8, 3, seed=image))
            found[f"easy_vqa/data/{split}/images/{image}.png"] = png
    return found | changes


def wheel(path, **changes):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files(**changes).items():
            if content is not None:
                file.writestr(name, content)
    return path


def run(out, *options):
    return build.run(["easy-vqa", "--out", str(out), *options], "vljax data build", CONSOLE)


def test_a_source_reads_images_questions_and_kinds(tmp_path):
    package = wheel(tmp_path / "easy_vqa-1.0-py3-none-any.whl")
    result = run(tmp_path / "out", "--package", str(package))
    assert (result["train_images"], result["train_questions"]) == (2, 5)
    assert (result["test_images"], result["test_questions"]) == (1, 2)
    source = JsonLines(str(tmp_path / "out" / "train.jsonl"), question="questions")
    records = source.open()
    assert len(records) == 2
    found = [(q.kind, q.text, q.answer) for q in records[0].questions]  # the image 2
    assert found == [
        ("colour", "what is the color of the circle?", "red"),
        ("presence", "does the image contain a circle?", "yes"),
        ("shape", "what shape is present?", "circle"),
    ]
    assert [q.kind for q in records[1].questions] == ["shape", "absence"]
    assert records[1].image == files()["easy_vqa/data/train/images/7.png"]
    assert len(Expand(source, by="question").open()) == 5
    assert (tmp_path / "out" / "answers.txt").read_text().split() == ANSWERS
    assert "| train | 2 | 5 | 1 | 2 | 1 | 1 |" in (tmp_path / "out" / "README.md").read_text()


def test_wheel_folder_and_installed_package_give_the_same_bytes(tmp_path, monkeypatch):
    package = wheel(tmp_path / "easy.whl")
    with zipfile.ZipFile(package) as file:
        file.extractall(tmp_path / "site")
    (tmp_path / "site" / "easy_vqa" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    run(tmp_path / "a", "--package", str(package))
    run(tmp_path / "b", "--package", str(tmp_path / "site" / "easy_vqa"))
    run(tmp_path / "c")
    for out in ("b", "c"):
        for name in ("train.jsonl", "test.jsonl", "README.md", "images/train/7.png"):
            assert (tmp_path / out / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers.txt": b"red"}, r"train/questions\.json: 0: the answer 'circle' is not in ans"),
        ({"answers.txt": b"\xff\xfe"}, r"answers\.txt: .*UTF-"),
        ({"test/questions.json": b"{"}, r"test/questions\.json: not JSON"),
        ({"test/questions.json": b"[[1, 2]]"}, r"questions\.json: 0: must be \[question, answer"),
        ({"test/questions.json": b'[["who?", "red", 0]]'}, r"'who\?' is not a question of easy-v"),
        ({"test/images/0.png": b"GIF89a"}, r"test/images/0\.png: not a PNG file"),
        ({"train/images/7.png": None}, r"train/images/7\.png: cannot be read"),
        ({"train/questions.json": None}, r"has no data/train/questions\.json; name the wheel"),
    ],
)
def test_a_package_of_other_content_names_the_file(tmp_path, changes, message):
    changes = {f"easy_vqa/data/{name}": content for name, content in changes.items()}
    package = wheel(tmp_path / "easy.whl", **changes)
    with pytest.raises(UserError, match=message):
        run(tmp_path / "out", "--package", str(package))
    assert not (tmp_path / "out" / "test.jsonl").exists()


def test_a_damaged_wheel_names_the_file(tmp_path):
    package = wheel(tmp_path / "easy.whl")
    content = bytearray(package.read_bytes())
    content[content.index(b"what is the red")] ^= 0xFF
    package.write_bytes(content)
    with pytest.raises(UserError, match=r"train/questions\.json: cannot be read \(Bad CRC"):
        run(tmp_path / "out", "--package", str(package))


def test_what_to_install_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(easy_vqa.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed; run `pip install easy-vqa==1\.0`, or"):
        run(tmp_path / "out")
    (tmp_path / "text.whl").write_text("x")
    with pytest.raises(UserError, match=r"text\.whl: not a wheel"):
        run(tmp_path / "out", "--package", str(tmp_path / "text.whl"))
    with pytest.raises(UserError, match=r"--package .*none\.whl: no such file or folder"):
        run(tmp_path / "out", "--package", str(tmp_path / "none.whl"))
    with pytest.raises(UserError, match="--deb: is for tuxpaint-stamps; leave it out for easy-v"):
        run(tmp_path / "out", "--deb", "x")
    with pytest.raises(UserError, match="--mirror: is for tuxpaint-stamps; leave it out for easy"):
        run(tmp_path / "out", "--mirror", "http://x")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"own: has a README\.md of its own; name another folder"):
        run(tmp_path / "own", "--package", str(tmp_path / "text.whl"))
