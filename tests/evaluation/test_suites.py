"""Published sets by name: each layout is found, checked and measured; what is missing is named."""

import argparse
import dataclasses
import io
import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data.sources.test_published import (
    write_clevr,
    write_gqa,
    write_nlvr2,
    write_sugar_crepe,
    write_vqa,
    write_winoground,
    write_xm3600,
)
from tests.data.written import jpeg, write_shards
from tests.interop.conftest import foreign, trunks  # noqa: F401  fixtures
from vljax.commands import evaluate
from vljax.commands.main import main
from vljax.config import UserError
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import Data
from vljax.data.sources import Folder
from vljax.data.sources.published import SUGAR_CREPE
from vljax.data.tokenizers import Clip
from vljax.data.transforms import (
    ChooseQuestions,
    ChooseText,
    Decode,
    EncodeAnswers,
    OtherImage,
    Resize,
    Tokenize,
)
from vljax.datasets import Builtin
from vljax.evaluation import suites
from vljax.inference import load

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def count(monkeypatch):
    """Makes a suite take another number of examples than its published one."""

    def change(name, examples):
        changed = dataclasses.replace(suites.SUITES[name], examples=examples)
        monkeypatch.setitem(suites.SUITES, name, changed)

    return change


def opened(name, folder):
    """What `vljax eval` opens, with the pipeline of a run."""
    found = suites.find(name, str(folder))
    transforms = (Decode(), Resize(16), ChooseText(), Tokenize())
    data = Data(Builtin("train"), {"text": Clip()}, transforms, transforms)
    examples = EvaluationSet(data, found.evaluator.source, class_names=found.class_names)
    suites.check(name, found, examples)
    return found.evaluator, examples


def write_classes(folder, names, images=1):
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j in range(images):
            (folder / name / f"{j}.jpg").write_bytes(jpeg(i % 10))


def test_the_lists_are_the_published_ones():
    names = suites.imagenet_names()
    assert list(names) == sorted(names)
    values = list(names.values())
    assert (values[0], values[1], values[134], values[999]) == (
        "tench",
        "goldfish",
        "crane bird",
        "toilet paper",
    )
    assert len(values) - len({*values}) == 2  # "missile" and "sunglasses"
    assert len(suites.SUITES["imagenet-a"].classes) == len(suites.SUITES["imagenet-r"].classes)
    assert len(suites.SUITES["imagenet-r"].classes) == 200
    assert len(suites.SUITES["cifar100"].classes) == 100
    assert suites.SUITES["cifar100"].classes["lawn_mower"] == "lawn mower"
    assert [len(suites.prompts(name)) for name in ("imagenet", "cifar")] == [80, 18]
    assert all(p.count("{}") == 1 for name in ("imagenet", "cifar") for p in suites.prompts(name))


def test_folders_by_class_get_the_published_names(tmp_path, count):
    count("imagenet-a", 200)
    wnids = [*suites.SUITES["imagenet-a"].classes]
    write_classes(tmp_path / "imagenet-a", wnids)
    (tmp_path / "imagenet-a" / "README.txt").write_text("not an image")
    evaluator, data = opened("imagenet-a", tmp_path)
    names = suites.imagenet_names()
    assert data.class_names == tuple(names[wnid] for wnid in sorted(wnids))
    assert data.labels.tolist() == list(range(200))
    assert evaluator.templates == suites.prompts("imagenet")
    assert evaluator.same_name == "first"


def test_numbered_folders_are_labels(tmp_path, count):
    count("imagenet-v2", 1000)
    write_classes(tmp_path, [str(i) for i in range(1000)])
    _, data = opened("imagenet-v2", tmp_path)
    values = list(suites.imagenet_names().values())
    assert data.records.class_names[:3] == ("0", "1", "10")  # sorted as texts
    assert data.class_names[:3] == (values[0], values[1], values[10])


def test_tars_of_clip_benchmark_have_their_own_names_and_prompts(tmp_path, count):
    count("cifar10", 12)
    rows = [{"__key__": f"{i:04}", "webp": jpeg(i), "cls": i % 10} for i in range(12)]
    write_shards(tmp_path / "test", rows, per_shard=5)
    _, data = opened("cifar10", tmp_path)
    assert data.class_names == tuple(CIFAR10)
    assert data.labels.tolist() == [i % 10 for i in range(12)]
    theirs = [f"the {name}" for name in CIFAR10]
    (tmp_path / "classnames.txt").write_text("\n".join(theirs) + "\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c}\nthe {c}.\n")
    evaluator, data = opened("cifar10", tmp_path)
    assert data.class_names == tuple(theirs)
    assert evaluator.templates == ("a {}", "the {}.")
    (tmp_path / "classnames.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="2 class names; cifar10 has 10"):
        opened("cifar10", tmp_path)


class Cifar100(tfds.core.GeneratorBasedBuilder):
    """The features of CIFAR-100 in TFDS, whose label names have underscores."""

    VERSION = tfds.core.Version("3.0.2")

    def _info(self):
        names = [*suites.SUITES["cifar100"].classes]
        label = tfds.features.ClassLabel(names=names)
        features = {"image": tfds.features.Image(shape=(20, 24, 3)), "label": label}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(1), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": io.BytesIO(jpeg(i)), "label": 40 + i}


def test_data_sets_of_tfds_are_read_from_their_test_split(tmp_path, count):
    count("cifar100", 3)
    builder = Cifar100(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    _, data = opened("cifar100", tmp_path / "cifar100")  # the folder of its versions
    assert len(data) == 3
    shown = [data.class_names[label] for label in data.labels]  # in the order of TFDS
    assert sorted(shown) == ["lamp", "lawn mower", "leopard"]
    with pytest.raises(UserError, match="is a data set of TFDS, which has other classes"):
        opened("imagenet-r", tmp_path / "cifar100")


def test_objectnet_has_the_classes_that_it_shares_with_imagenet(tmp_path, count):
    count("objectnet", 2)
    write_classes(tmp_path / "images", ["air_freshener", "alarm_clock", "t_shirt"])
    (tmp_path / "mappings").mkdir()
    labels = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock", "t_shirt": "T-shirt"}
    shared = {"Alarm clock": "analog clock; digital clock", "T-shirt": "jersey, T-shirt"}
    (tmp_path / "mappings" / "folder_to_objectnet_label.json").write_text(json.dumps(labels))
    with pytest.raises(UserError, match=r"objectnet_to_imagenet_1k\.json: cannot be read"):
        opened("objectnet", tmp_path)
    (tmp_path / "mappings" / "objectnet_to_imagenet_1k.json").write_text(json.dumps(shared))
    _, data = opened("objectnet", tmp_path)
    assert data.class_names == ("alarm clock", "t-shirt")
    assert data.labels.tolist() == [0, 1]


def write_karpathy(folder, captions, images=3):
    rows = []
    (folder / "flickr30k-images").mkdir(parents=True)
    for i in range(images):
        sentences = [{"raw": f"picture {i} {j}"} for j in range(captions)]
        rows.append({"filename": f"{i}.jpg", "split": "test", "sentences": sentences})
        (folder / "flickr30k-images" / f"{i}.jpg").write_bytes(jpeg(i))
    rows.append({"filename": "9.jpg", "split": "val", "sentences": []})
    (folder / "dataset_flickr30k.json").write_text(
        json.dumps({"dataset": "flickr30k", "images": rows})
    )


def test_karpathy_takes_five_captions_of_each_image(tmp_path, count):
    count("flickr30k", 3)
    write_karpathy(tmp_path / "six", 6)
    evaluator, data = opened("flickr30k", tmp_path / "six")
    assert evaluator.captions == 5
    assert evaluator.inputs(data) == 3 + 3 * 5
    assert data.records.image(2) == jpeg(2)
    write_karpathy(tmp_path / "four", 4)
    with pytest.raises(UserError, match="example 0 has 4 captions; flickr30k has 5 for each"):
        opened("flickr30k", tmp_path / "four" / "dataset_flickr30k.json")


@pytest.mark.parametrize(
    ("name", "write", "examples", "inputs"),
    [
        ("winoground", write_winoground, 4, 8),
        ("sugarcrepe", lambda folder: write_sugar_crepe(folder, SUGAR_CREPE), None, 14 + 14),
        ("xm3600", write_xm3600, 2, 2 + 6),
        ("vqav2", write_vqa, 4, 4),
        ("gqa", write_gqa, 3, 3),
        ("clevr", write_clevr, 3, 3),
    ],
)
def test_annotation_files_are_found_and_counted(tmp_path, count, name, write, examples, inputs):
    write(tmp_path)
    if examples is not None:
        with pytest.raises(UserError, match=f"{examples} examples; {name} has [0-9,]+: it must"):
            opened(name, tmp_path)
    count(name, examples)
    evaluator, data = opened(name, tmp_path)
    evaluator.check(data)
    assert evaluator.inputs(data) == inputs


def test_sets_of_vtab_take_names_and_prompts_from_their_files(tmp_path):
    assert sum(name.startswith("vtab-") for name in suites.SUITES) == 18
    rows = [{"__key__": f"{i:04}", "webp": jpeg(i), "cls": i % 3} for i in range(7)]
    write_shards(tmp_path / "test", rows, per_shard=4)
    with pytest.raises(UserError, match=r"^vtab-pets: .* has no classnames\.txt; it must hold"):
        opened("vtab-pets", tmp_path)
    (tmp_path / "classnames.txt").write_text("pug\nbeagle\nboxer\n")
    with pytest.raises(UserError, match=r"has no zeroshot_classification_templates\.txt; it must"):
        opened("vtab-pets", tmp_path)
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c}, a type of pet.\n")
    evaluator, data = opened("vtab-pets", tmp_path)
    assert data.class_names == ("pug", "beagle", "boxer")
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert evaluator.templates == ("a {}, a type of pet.",)
    (tmp_path / "classnames.txt").write_text("pug\nbeagle\n")
    with pytest.raises(UserError, match="has the class 2; vtab-pets has 2"):
        opened("vtab-pets", tmp_path)


@pytest.mark.parametrize("name", suites.SUITES)
def test_what_is_missing_is_named_with_where_it_is_obtained(tmp_path, name):
    place = re.escape(suites.SUITES[name].obtain)
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match=f"(?s)^{name}: .*obtain it from {place}$"):
            opened(name, folder)
    with pytest.raises(UserError, match="must be a local folder"):
        suites.find(name, "gs://bucket/folder")


def test_missing_images_and_other_classes_are_named(tmp_path, count):
    write_winoground(tmp_path / "winoground")
    (tmp_path / "winoground" / "images" / "ex_0_img_0.png").unlink()
    with pytest.raises(UserError, match=r"winoground: image 'ex_0_img_0\.png' cannot be read"):
        opened("winoground", tmp_path / "winoground")
    write_classes(tmp_path / "cifar10", CIFAR10[:9])
    with pytest.raises(UserError, match="has 9 classes; cifar10 has 10: it must hold"):
        opened("cifar10", tmp_path / "cifar10")
    write_classes(tmp_path / "cifar10", ["truck", "train"])
    with pytest.raises(UserError, match="has the class 'train', which cifar10 does not have"):
        opened("cifar10", tmp_path / "cifar10")
    with pytest.raises(UserError, match="unknown suite 'cifar11'; did you mean 'cifar10'"):
        suites.find("cifar11", "x")


def test_a_label_beyond_the_names_is_an_error(tmp_path, count):
    count("cifar10", 2)
    rows = [{"__key__": f"{i}", "png": jpeg(i), "cls": 9 + i} for i in range(2)]
    write_shards(tmp_path / "test", rows)
    with pytest.raises(UserError, match="has the class 10; cifar10 has 10"):
        opened("cifar10", tmp_path)


def test_names_by_the_classes_of_the_source(tmp_path):
    write_classes(tmp_path, ["b", "a"])
    data = Data(Builtin("train"), {"text": Clip()}, (Decode(),), (Decode(),))
    examples = EvaluationSet(data, Folder(str(tmp_path)), class_names={"a": "ant", "b": "bee"})
    assert examples.class_names == ("ant", "bee")


def test_two_images_need_a_model_that_reads_both(tmp_path, count):
    count("nlvr2", 3)
    write_nlvr2(tmp_path)
    with pytest.raises(UserError, match="no transform reads image 2; add other_image"):
        opened("nlvr2", tmp_path)
    found = suites.find("nlvr2", str(tmp_path))
    encode = EncodeAnswers(vocabulary=("true", "false", "maybe"))
    images = (Decode(), Resize(16), OtherImage((Decode(), Resize(16))))
    data = Data(Builtin("train"), {}, (), (*images, ChooseQuestions(), encode), workers=0)
    examples = EvaluationSet(data, found.evaluator.source)
    suites.check("nlvr2", found, examples)
    metrics = found.evaluator.measure(Answers(1), examples)
    assert metrics["accuracy"] == pytest.approx(2 / 3)


class Answers:
    """Answers every question by the same word."""

    def __init__(self, index):
        self.index = index

    def run(self, want, batch):
        logits = np.zeros((len(batch["valid"]), 3), np.float32)
        logits[:, self.index] = 1
        return {"answer/logits": logits}


@pytest.mark.parametrize(("index", "expected"), [(0, 1.0), (1, 0.3), (2, 1.0)])
def test_answers_get_the_official_credit(tmp_path, count, index, expected):
    count("vqav2", 4)
    write_vqa(tmp_path)
    found = suites.find("vqav2", str(tmp_path))
    encode = EncodeAnswers(vocabulary=("yes", "no", "2"))
    data = Data(
        Builtin("train"), {}, (), (Decode(), Resize(16), ChooseQuestions(), encode), workers=0
    )
    examples = EvaluationSet(data, found.evaluator.source)
    suites.check("vqav2", found, examples)
    metrics = found.evaluator.measure(Answers(index), examples)
    # Nine people said yes and one no to the first kind, all ten 2 to the other.
    kind = "number" if index == 2 else "yes_no"
    assert metrics["vqa_accuracy"] == pytest.approx(expected / 2)
    assert metrics[f"accuracy/{kind}"] == pytest.approx({0: 1, 1: 1 / 9, 2: 1}[index])
    assert metrics["questions/yes_no"] == metrics["questions/number"] == 2


# --- vljax eval -----------------------------------------------------------------------------------

MODEL = "transformers_clip_a"


def test_the_command_measures_sets_below_one_folder(foreign, tmp_path, count, capsys):  # noqa: F811
    count("cifar10", 10)
    count("winoground", 4)
    write_classes(tmp_path / "sets" / "cifar10" / "test", CIFAR10)
    write_winoground(tmp_path / "sets" / "winoground")
    model, out = str(foreign(MODEL)), tmp_path / "result.json"
    words = ["--tasks", "cifar10,winoground", "--data-root", str(tmp_path / "sets")]
    assert main(["eval", model, *words, "--json", str(out)]) == 0
    assert f"{MODEL}: cifar10\n" in re.sub(" +\n", "\n", capsys.readouterr().out)
    zero_shot, pairs = json.loads(out.read_text())["models"][0]["tasks"]
    assert (zero_shot["task"], pairs["task"]) == ("cifar10", "winoground")
    assert zero_shot["dataset"] == "cifar10"
    assert zero_shot["metrics"]["classes"]["value"] == 10
    assert 0 <= pairs["metrics"]["group"]["value"] <= pairs["metrics"]["text"]["value"] <= 1
    # The same as with the names and prompts on the command line.
    (tmp_path / "prompts.txt").write_text("\n".join(suites.prompts("cifar")))
    words = ["--data", f"{tmp_path}/sets/cifar10/test", "--tasks", "zero_shot"]
    words += ["--templates", f"{tmp_path}/prompts.txt"]
    assert main(["eval", model, *words, "--json", str(out)]) == 0
    (plain,) = json.loads(out.read_text())["models"][0]["tasks"]
    assert plain["metrics"] == zero_shot["metrics"]


def test_sets_have_folders_of_their_own(foreign, tmp_path, count):  # noqa: F811
    count("flickr30k", 3)
    write_karpathy(tmp_path / "a", 5)
    write_sugar_crepe(tmp_path / "b", SUGAR_CREPE)
    model, out = str(foreign(MODEL)), tmp_path / "result.json"
    words = ["--data", f"flickr30k={tmp_path}/a", "--data", f"sugarcrepe={tmp_path}/b"]
    assert main(["eval", model, *words, "--json", str(out)]) == 0
    retrieval, choice = json.loads(out.read_text())["models"][0]["tasks"]
    assert retrieval["metrics"]["captions"]["value"] == 15
    assert choice["metrics"].keys() >= {"accuracy", *(f"accuracy/{c}" for c in SUGAR_CREPE)}
    metrics = load(model).evaluate(tmp_path / "a", "flickr30k")
    name = "text_to_image/recall@1"
    assert metrics[f"flickr30k/{name}"] == retrieval["metrics"][name]["value"]


def test_one_set_takes_its_folder_without_its_name():
    words = {"tasks": ["coco"], "data": ["some/folder"], "data_root": None}
    assert evaluate._data(argparse.Namespace(**words)) == (None, {"coco": "some/folder"})
    words["data_root"] = "sets"
    found = evaluate._data(argparse.Namespace(**words))
    assert found == ("some/folder", {"coco": "sets/coco"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--tasks", "coco,cifar10", "--data", "x"],
            "--tasks: coco: name its folder: --data",
        ),
        (["--tasks", "coco"], "name its folder: --data coco=PATH, or --data-root DIR for DIR/coco"),
        (["--data-root", "d"], "--data-root: --tasks names no set in it; choose from cifar10,"),
        (["--data", "coco=d", "--tasks", "cifar10"], "--data: coco=d: add coco to --tasks"),
        (["--data", "cocoo=d"], "unknown suite 'cocoo'; did you mean 'coco'?"),
        (["--data", "a.csv", "--data", "b.csv", "--tasks", "retrieval"], "--data: b.csv: only one"),
        (["--data", "coco=d", "--classes", "c"], "--classes: needs --data; published sets have"),
        (["--tasks", "cifar10", "--data-root", "d"], "cifar10: no folder d/cifar10; it must hold"),
        (["--data", "vqav2=d"], "vqav2: no folder d; it must hold v2_OpenEnded_mscoco_val2014_q"),
    ],
)
def test_bad_input_is_one_line(foreign, words, message, capsys):  # noqa: F811
    assert main(["eval", str(foreign(MODEL)), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_model_of_embeddings_does_not_answer(foreign, tmp_path):  # noqa: F811
    write_vqa(tmp_path)
    model = load(str(foreign(MODEL)))
    with pytest.raises(UserError, match="vqav2: the model does not answer questions"):
        model.tasks(tmp_path, "vqav2")
    with pytest.raises(UserError, match="tasks: cifar10 reads published files; name their folder"):
        model.tasks(Builtin("test"), "cifar10")
    with pytest.raises(UserError, match="class_names: leave out; cifar10 has its own"):
        model.tasks(tmp_path, "cifar10", class_names=CIFAR10)
    with pytest.raises(UserError, match="templates: leave out; cifar10 has its own"):
        model.tasks(tmp_path, "cifar10", templates=["{}"])


def test_the_list_has_every_set(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "--suites"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"{name}\n" in shown and s.obtain in shown for name, s in suites.SUITES.items())
