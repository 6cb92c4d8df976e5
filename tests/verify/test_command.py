"""The whole command on a tiny model, against what transformers and open_clip measure with it.

The numbers are those of `tests/parity/make_verify.py`, and have to come out exactly: no decision of
the references is close enough for float32 rounding to change it.
"""

import json
from pathlib import Path

import pytest

from tests.parity import verify_inputs as inputs
from vljax.commands.main import main
from vljax.data.sources import Karpathy
from vljax.verify import released
from vljax.verify.data import find_data_set
from vljax.verify.released import RELEASED, Figure, Released, Task

STORED = json.loads((Path(__file__).parents[1] / "parity" / "data" / "verify.json").read_text())
TOWERS = {
    "transformers_clip_a": {"width": 24, "patch_size": 8, "pooling": "cls"},
    "open_clip_siglip_a": {"width": 24, "patch_size": 8, "pooling": "map"},
}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Registers the tiny models, with the references' numbers as the published ones."""
    count = len(inputs.images())
    monkeypatch.setitem(released.TASKS, "imagenet", Task(count, len(inputs.CLASSES), "tiny"))
    monkeypatch.setitem(released.TASKS, "coco", Task(count, None, "tiny"))
    for name, tower in TOWERS.items():
        numbers = {key: value for key, value in STORED[name].items() if "@" in key}
        figures = [
            Figure("imagenet" if key == "accuracy@1" else "coco", key, value)
            for key, value in numbers.items()
        ]
        monkeypatch.setitem(RELEASED, name, Released(tower, tuple(figures)))


@pytest.fixture
def data(tmp_path):
    """Writes both data sets for a model, and returns the options that name them."""

    def write(name):
        inputs.write_folder(tmp_path / "imagenet", STORED[name]["labels"])
        inputs.write_split(tmp_path / "coco", STORED[name]["captions"])
        return ["--data", str(tmp_path / "imagenet"), "--data", str(tmp_path / "coco")]

    return write


def verify(*args):
    return main(["verify", *map(str, args), "--batch-size", "16"])


@pytest.mark.parametrize("name", TOWERS)
def test_every_number_equals_the_reference(name, foreign, data, capsys):
    options = data(name)
    assert (
        verify(name, "--weights", foreign(name), *options, "--tolerance", 1e-9, "--json", "-") == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["agrees"] is True
    own = {row["metric"]: row["own"] for row in result["numbers"]}
    assert own == pytest.approx({k: v for k, v in STORED[name].items() if "@" in k}, abs=1e-9)
    assert all("docs/openclip_" in row["source"] for row in result["numbers"])


def test_a_difference_above_the_tolerance_exits_with_status_1(foreign, data, monkeypatch, capsys):
    name = "transformers_clip_a"
    (coco,) = (f for f in RELEASED[name].figures if f.metric.startswith("image_to"))
    other = coco._replace(percent=coco.percent + 2)
    monkeypatch.setitem(RELEASED, name, RELEASED[name]._replace(figures=(other,)))
    command = (name, "--weights", foreign(name), *data(name)[2:])
    assert verify(*command, "--tolerance", "1.9") == 1
    line = next(x for x in capsys.readouterr().out.splitlines() if "image to text" in x)
    assert f"{other.percent:.2f}" in line
    assert f"{coco.percent:.2f}" in line
    assert "-2.00" in line
    assert "more than 1.9" in line
    assert verify(*command, "--tolerance", "2.1") == 0


def test_progress_is_logged_in_lines_without_a_terminal(foreign, data, monkeypatch, caplog):
    monkeypatch.setattr("vljax.data.records._SECONDS_BETWEEN_LINES", 0)
    name = "transformers_clip_a"
    verify(name, "--weights", foreign(name), *data(name)[2:], "--tolerance", "9")
    lines = [line for line in caplog.messages if line.startswith(f"{name}: encoded ")]
    assert lines[0].startswith(f"{name}: encoded 16 of ")
    assert lines[-1].endswith(" images and texts")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ViT-B-32/opena"], "did you mean 'ViT-B-32/openai'?"),
        (["ViT-B-32/openai"], "width is 24, but ViT-B-32/openai has 768"),
        (["transformers_clip_a", "--tolerance", "-1"], "--tolerance: must be 0 or more"),
        (["transformers_clip_a", "--classes", "/none"], "/none: no such file; add --classes FILE"),
        (["transformers_clip_a", "--data", "/none"], "/none: cannot tell what kind of data set"),
    ],
)
def test_bad_input_exits_with_status_2(args, message, foreign, data, capsys):
    given = data("transformers_clip_a")
    assert verify(*args, "--weights", foreign("transformers_clip_a"), *given) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("tower", "kind"), [("bert_a", "text"), ("vit_a", "image")])
def test_a_single_tower_is_an_error(tower, kind, foreign, data, capsys):
    weights = foreign(tower)
    assert verify("transformers_clip_a", "--weights", weights, *data("transformers_clip_a")) == 2
    message = f"{weights}: holds only {kind}; transformers_clip_a has an image and a text tower"
    assert message in capsys.readouterr().err


def test_data_of_another_size_is_an_error(foreign, data, tmp_path, capsys):
    name = "transformers_clip_a"
    given, weights = data(name), foreign(name)

    def complaint(*args):
        assert verify(name, "--weights", weights, *args) == 2
        return capsys.readouterr().err

    image = next((tmp_path / "coco" / "val2014").iterdir())
    content = image.read_bytes()
    image.write_bytes(content[:40])
    assert "1 images cannot be read; the published figures are of all" in complaint(*given[2:])
    image.write_bytes(content)
    next((tmp_path / "imagenet").glob("*/*.png")).unlink()
    assert "17 images; the published figures are of 18" in complaint(*given[:2])
    (tmp_path / "imagenet" / "classnames.txt").write_text("cat\n")
    assert "classnames.txt: 1 class names; ImageNet has 6" in complaint(*given[:2])


def test_a_prompt_without_the_class_name_is_an_error(foreign, data, tmp_path, capsys):
    name, file = "transformers_clip_a", tmp_path / "prompts.txt"
    file.write_text("a photo of a {}\nnothing\n")
    assert verify(name, "--weights", foreign(name), *data(name), "--templates", file) == 2
    assert "prompts.txt: 'nothing' must hold {} or {c} once" in capsys.readouterr().err


def test_a_split_file_of_another_data_set_is_an_error(foreign, data, tmp_path, capsys):
    name = "transformers_clip_a"
    data(name)
    file = tmp_path / "coco" / "dataset_coco.json"
    content = json.loads(file.read_text()) | {"dataset": "flickr8k"}
    file.write_text(json.dumps(content))
    assert verify(name, "--weights", foreign(name), "--data", file) == 2
    assert "dataset 'flickr8k'; figures were published for coco, flickr30k" in (
        capsys.readouterr().err
    )


def test_a_split_file_is_given_by_type_or_url(foreign, data, tmp_path, monkeypatch):
    name = "transformers_clip_a"
    folder = Path(data(name)[3])
    (folder / "dataset_coco.json").rename(folder / "coco.txt")
    words = {"classes": None, "templates": None, "images": None, "prog": "vljax verify"}
    one = find_data_set(f"karpathy:{folder}/coco.txt", **words)
    assert (one.task, one.source) == ("coco", Karpathy(f"{folder}/coco.txt"))
    content = (folder / "coco.txt").read_bytes()
    monkeypatch.setattr("vljax.config.path_exists", lambda path: True)
    monkeypatch.setattr(
        "vljax.verify.data.read_user_file", {"gs://b/dataset_coco.json": content}.get
    )
    one = find_data_set("gs://b/dataset_coco.json", **words | {"images": "gs://b/images"})
    assert (one.task, one.source) == ("coco", Karpathy("gs://b/dataset_coco.json", "gs://b/images"))


def test_names_and_prompts_are_clips_by_default(foreign, data, tmp_path, capsys):
    name = "transformers_clip_a"
    options = data(name)[:2]
    for file in (tmp_path / "imagenet").glob("*.txt"):
        file.unlink()
    one = find_data_set(options[1], images=None, classes=None, templates=None, prog="vljax verify")
    assert one.class_names["n01440764"] == "tench"
    assert len(one.templates) == 80
    assert verify(name, "--weights", foreign(name), *options) == 2
    assert "'n00000000' is not a WordNet id of ImageNet; name the classes" in (
        capsys.readouterr().err
    )
