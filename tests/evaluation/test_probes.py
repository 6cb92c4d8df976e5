"""Evaluators with training examples, against the metrics of given features and by hand."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from tests.evaluation.fakes import FakeData, FakePredictor, FakeSource
from tests.parity import metric_cases as cases
from vljax.commands.main import main
from vljax.config import UserError, decode, encode, validate
from vljax.data.pipeline.pipeline import Data
from vljax.data.sources import Folder, Mixture, Part
from vljax.data.transforms import Decode, Label, Resize
from vljax.datasets import Builtin
from vljax.evaluation import FewShot, LinearProbe, NearestNeighbours
from vljax.evaluation.evaluator import Evaluator, ShardedEvaluationSet
from vljax.evaluation.metrics import probes
from vljax.evaluation.metrics.classification import label_ranks, mean_per_class_recall
from vljax.evaluation.metrics.uncertainty import Sampled, interval
from vljax.evaluation.probes import held_out
from vljax.inference import _check_settings, load
from vljax.launch import train as train_run
from vljax.models.assembly import ModelConfig
from vljax.models.encoders import ViT
from vljax.models.heads import Classifier
from vljax.objectives import Classification
from vljax.optim import AdamW
from vljax.optim.schedules import WarmupCosine
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.run import Run, open_evaluation_data

TRAIN, TEST, VALIDATION = FakeSource("train"), FakeSource("test"), FakeSource("validation")
NAMES = tuple("abcdef")
X, Y, X_TEST, Y_TEST = (array[:90] for array in cases.features())
IMAGES = np.concatenate([X, X_TEST]).astype(np.float32)
EVALUATORS = {
    "linear_probe": LinearProbe(TEST, 32, train=TRAIN, sweep=(1e-4, 1.0), most_steps=100),
    "knn": NearestNeighbours(TEST, 32, train=TRAIN, k=5),
    "few_shot": FewShot(TEST, 32, train=TRAIN, shots=(1, 5), seeds=(0, 1)),
}


def data_set(train=Y, test=Y_TEST, names=NAMES, train_names=NAMES, unreadable=(), lost=()):
    """Test examples with training examples beside them; unreadable ones by their index."""

    def split(labels, names, unreadable, first):
        captions = [""] * len(labels)
        labels = np.asarray(labels, np.int32)
        return FakeData(captions, [], labels, names, unreadable, first=first)

    data = split(test, names, unreadable, len(X))
    data.others = {"train": split(train, train_names, lost, 0)}
    return data


def measure(evaluator, data, batch_size=32):
    evaluator = dataclasses.replace(evaluator, batch_size=batch_size)
    return evaluator.measure(FakePredictor(IMAGES, None, batch_size), data)


def test_a_linear_probe_is_that_of_the_features():
    found = measure(EVALUATORS["linear_probe"], data_set())
    chosen = held_out(Y, 0.2, seed=0)
    expected = probes.linear_probe(
        (X[~chosen], Y[~chosen]),
        (X[chosen], Y[chosen]),
        (X_TEST, Y_TEST),
        sweep=(1e-4, 1.0),
        most_steps=100,
    )
    assert found["accuracy"].values.tolist() == expected.right.tolist()
    assert (found["c"], found["validation_accuracy"]) == (expected.c, expected.validation.max())
    assert 0.2 < found["accuracy"] < 1
    counts = ("examples", "unreadable", "classes", "train_examples")
    assert [found[name] for name in counts] == [90, 0, 6, 90]


def test_neighbours_are_those_of_the_features():
    found = measure(EVALUATORS["knn"], data_set())
    ranks = label_ranks(probes.knn_votes(X, Y, X_TEST, k=5), Y_TEST, ties="first")
    assert found["accuracy"].values.tolist() == (ranks == 1).tolist()
    assert found["accuracy@5"] == (ranks <= 5).mean()
    assert found["mean_per_class"] == pytest.approx(mean_per_class_recall(ranks, Y_TEST))
    assert interval(found["accuracy"]).low < found["accuracy"]


def test_few_shot_accuracy_is_the_mean_over_seeds():
    found = measure(EVALUATORS["few_shot"], data_set())
    expected = probes.few_shot_right((X, Y), (X_TEST, Y_TEST), shots=(1, 5), seeds=(0, 1)).mean(
        axis=-1
    )
    for i, shots in enumerate((1, 5)):
        of_seeds = expected[:, i, 0]
        assert found[f"{shots}_shot/accuracy"] == pytest.approx(of_seeds.mean(), abs=1e-12)
        assert found[f"{shots}_shot/deviation"] == pytest.approx(of_seeds.std(), abs=1e-12)
    assert len(found["1_shot/accuracy"].values) == len(Y_TEST)


@pytest.mark.parametrize("name", EVALUATORS)
def test_batches_and_examples_that_do_not_count_change_nothing(name):
    """Unreadable images and examples without a class are as if they were not there."""
    evaluator = EVALUATORS[name]
    expected = measure(evaluator, data_set(), batch_size=7)
    assert measure(evaluator, data_set(), batch_size=64) == expected
    train, test = np.where(np.arange(90) < 4, -1, Y), np.where(np.arange(90) < 3, -1, Y_TEST)
    left_out = measure(evaluator, data_set(train, test))
    data = data_set(unreadable=(0, 1, 2), lost=(0, 1, 2, 3))
    unreadable = measure(evaluator, data)
    assert (left_out.pop("unreadable"), unreadable.pop("unreadable")) == (0, 3)
    assert unreadable == left_out
    assert (left_out["examples"], left_out["train_examples"]) == (87, 86)
    assert evaluator.inputs(data) == 180


@pytest.mark.parametrize("name", EVALUATORS)
def test_classes_are_matched_by_name(name):
    """The test split numbers them in another order and lacks some; training has one more."""
    order = np.array([3, 0, 5, 1, 4, 2])
    names = tuple(NAMES[i] for i in np.argsort(order))
    expected = measure(EVALUATORS[name], data_set())
    assert measure(EVALUATORS[name], data_set(test=order[Y_TEST], names=names)) == expected
    gap = measure(EVALUATORS[name], data_set(Y + 1, train_names=("none", *NAMES)))
    assert gap == expected
    assert measure(EVALUATORS[name], data_set(names=(), train_names=())) == expected


def test_validation_examples_may_be_a_source():
    data = data_set()
    data.others["validation"] = FakeData([""] * 90, [], Y_TEST, NAMES, first=90)
    evaluator = dataclasses.replace(EVALUATORS["linear_probe"], validation=VALIDATION)
    found = measure(evaluator, data)
    same = (X_TEST, Y_TEST)
    expected = probes.linear_probe((X, Y), same, same, sweep=(1e-4, 1.0), most_steps=100)
    assert found["accuracy"].values.tolist() == expected.right.tolist()
    assert evaluator.inputs(data) == 270


def test_held_out_examples_are_a_share_of_each_class():
    labels = np.repeat([0, 1, 2, 3], [2, 10, 40, 1])
    for share, counts in ((0.2, [1, 2, 8, 0]), (0.01, [1, 1, 1, 0]), (0.99, [1, 9, 39, 0])):
        chosen = held_out(labels, share, seed=3)
        assert np.bincount(labels[chosen], minlength=4).tolist() == counts
        assert chosen.tolist() == held_out(labels, share, seed=3).tolist()
        assert share == 0.99 or chosen.tolist() != held_out(labels, share, seed=4).tolist()


ONE_F = np.where(np.arange(90) == 0, 5, Y % 5)
F_AT_0 = np.where(np.arange(90) == 0, 5, Y_TEST % 5)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("knn", {"test": np.full(90, -1)}, "no example of fake:test has a class; give"),
        ("knn", {"train": np.full(90, -1)}, "no example of fake:train has a class; give"),
        (
            "few_shot",
            {"train": Y % 5},
            "fake:test: 1 of its 6 classes have no example in fake:train, such as 'f'; add",
        ),
        (
            "few_shot",
            {"train": Y % 5, "names": (), "train_names": ()},
            "classes have no example in fake:train, such as 5; add",
        ),
        (
            "knn",
            {"names": (*NAMES[:5], "Dog"), "train_names": (*NAMES[:5], "dog")},
            "fake:test has the class 'Dog', which fake:train does not have; did you mean 'dog'",
        ),
        ("knn", {"names": ()}, "fake:train has names of classes, but fake:test has only numbers"),
        ("knn", {"train_names": (*NAMES[::-1], "a")}, "fake:train has several classes named 'a'"),
        ("knn", {"train": np.where(np.arange(90) < 4, Y, -1), "test": Y[:4]}, "k: 5 neighbours"),
        (
            "linear_probe",
            {"train": np.where(np.arange(90) == np.arange(90) % 6, np.arange(90), -1)},
            "fake:train has a single example of each class: none is left to validate; add",
        ),
    ],
)
def test_data_that_do_not_suffice_are_refused_before_anything_is_computed(name, fields, message):
    with pytest.raises(UserError, match=message):
        EVALUATORS[name].check(data_set(**fields))


def test_data_that_do_not_suffice_without_unreadable_images_are_refused():
    data = data_set(train=ONE_F, test=F_AT_0, lost=(0,))
    EVALUATORS["few_shot"].check(data)
    with pytest.raises(UserError, match="no example in fake:train, such as 'f'"):
        measure(EVALUATORS["few_shot"], data)
    with pytest.raises(UserError, match="no readable example of fake:test has a class"):
        measure(EVALUATORS["knn"], data_set(unreadable=tuple(range(90))))


def test_features_are_one_vector_for_each_image():
    with pytest.raises(UserError, match=r"features: image/pooled has the shape \[2, 2\] for each"):
        EVALUATORS["knn"].measure(FakePredictor(np.zeros((180, 2, 2)), None, 32), data_set())


MIXTURE = Mixture({"a": Part(Builtin("train"))})


@pytest.mark.parametrize(
    ("evaluator", "fields", "message"),
    [
        (NearestNeighbours, {"train": Builtin("test")}, "train: is the measured source itself"),
        (NearestNeighbours, {"train": MIXTURE}, "train: is a mixture, which is for training"),
        (NearestNeighbours, {"features": "image"}, "features: must be an output such as image/"),
        (NearestNeighbours, {"features": "image/tokens"}, "features: must have one vector for"),
        (NearestNeighbours, {"k": 0}, "k: must be at least 1, got 0"),
        (NearestNeighbours, {"temperature": 0.0}, "temperature: must be above 0, got 0.0"),
        (LinearProbe, {"validation": Builtin("test")}, "validation: is the measured source"),
        (LinearProbe, {"validation": Builtin("train")}, "validation: is the training source"),
        (LinearProbe, {"held_out": 1.0}, "held_out: must be between 0 and 1, got 1.0"),
        (LinearProbe, {"seed": -1}, "seed: must be at least 0, got -1"),
        (LinearProbe, {"sweep": ()}, "sweep: must hold at least one number"),
        (LinearProbe, {"sweep": (1.0, 0.0)}, "sweep: must hold at least one number, all above 0"),
        (LinearProbe, {"most_steps": 0}, "most_steps: must be at least 1, got 0"),
        (FewShot, {"shots": (5, 5)}, "shots: must hold at least one number, each at least 1 and"),
        (FewShot, {"shots": (0,)}, "shots: must hold at least one number"),
        (FewShot, {"seeds": ()}, "seeds: must hold at least one number"),
        (FewShot, {"l2": 0.0}, "l2: must be above 0, got 0.0"),
    ],
)
def test_fields_are_checked(evaluator, fields, message):
    with pytest.raises(UserError, match=message):
        validate(evaluator(Builtin("test"), **{"train": Builtin("train")} | fields))


@pytest.mark.parametrize("kind", [LinearProbe, NearestNeighbours, FewShot])
def test_the_defaults_are_valid_and_keep_their_sources_in_a_recipe(kind):
    evaluator = validate(kind(Builtin("test"), train=Builtin("train")))
    assert decode(Evaluator, encode(evaluator)) == evaluator
    assert evaluator.sources == {"source": Builtin("test"), "train": Builtin("train")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Training and test images of three classes in noisy colours; one cannot be read."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 6)):
        for name, colour in (
            ("blue", (60, 60, 160)),
            ("grey", (90, 90, 90)),
            ("red", (150, 50, 50)),
        ):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    (folder / "test.csv").write_text("file\n")
    (folder / "test" / "grey" / "1.png").write_bytes(b"lost")
    return folder


@pytest.fixture(scope="module")
def trained(folders):
    """The workdir of an image tower that was trained alone, and its metrics."""
    tower = ViT(image_size=16, patch_size=8, pooling="mean", width=16, depth=1, heads=2, mlp_dim=16)
    transforms = (Decode(), Resize(16), Label())
    source, train = (Folder(str(folders / split)) for split in ("test", "train"))
    run = Run(
        model=ModelConfig({"image": tower, "kind": Classifier(stream="image", classes=3)}),
        data=Data(train, {}, transforms, transforms),
        objectives={"kind": Classification(logits="kind/logits", targets="label")},
        optim=AdamW(schedule=WarmupCosine(warmup_steps=1)),
        evaluators={"near": NearestNeighbours(source, 8, train=train)},
        final_evaluators={
            "linear": LinearProbe(source, 8, train=train),
            "few": FewShot(source, 8, train=train),
        },
        steps=2,
        global_batch=8,
        workdir=str(folders / "run"),
    )
    return run.workdir, train_run(run).metrics


def by_name(metrics, *tasks):
    """The metrics of probes without the name of the data."""
    return {
        name.replace("/test/all/", "/"): value
        for name, value in metrics.items()
        if name.startswith(tasks)
    }


def test_an_image_tower_alone_has_the_same_metrics_in_training_and_after_it(trained, folders):
    workdir, metrics = trained
    expected = by_name(metrics, *EVALUATORS)
    assert {"knn/accuracy", "linear_probe/c", "few_shot/25_shot/accuracy"} <= {*expected}
    assert (expected["knn/examples"], expected["knn/train_examples"]) == (17, 24)
    assert expected["few_shot/unreadable"] == 1
    model = load(workdir)
    assert by_name(model.evaluate(), *EVALUATORS) == pytest.approx(expected, abs=1e-6)
    seen = []
    found = model.evaluate(
        folders / "test",
        list(EVALUATORS),
        train=folders / "train",
        batch_size=8,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert found == pytest.approx(expected, abs=1e-6)
    assert seen[-1] == (126, 126)
    assert interval(found["linear_probe/accuracy"]).high > 0


def test_eight_devices_with_rows_read_in_parts_equal_one(trained):
    workdir, _ = trained
    one, eight = load(workdir, devices=jax.devices()[:1]), load(workdir)
    mesh = make_mesh(MeshConfig(), jax.devices())
    for task in eight.recipe_tasks():
        (alone,) = one.recipe_tasks(task.name)
        expected = alone.evaluator.measure(one.predictor, alone.data)
        parts = ShardedEvaluationSet(task.data, mesh)
        assert parts.other(task.evaluator.train) is parts.other(task.evaluator.train)
        found = task.evaluator.measure(eight.predictor, parts)
        # Features differ by rounding; the colours are far enough apart that no decision does.
        assert found == pytest.approx(expected, abs=1e-6)
        for name, value in found.items():
            if isinstance(value, Sampled):
                np.testing.assert_allclose(value.values, expected[name].values, atol=1e-6)


def test_the_command_takes_training_examples_with_fields(trained, folders, capsys):
    rows = ["file,kind"]
    rows += [f"{path},{path.parent.name}" for path in sorted((folders / "train").rglob("*.png"))]
    (folders / "train.csv").write_text("\n".join(rows) + "\n")
    words = ["--data", str(folders / "test"), "--tasks", "knn,few_shot", "--batch-size", "8"]
    words += ["--train", str(folders / "train.csv"), "--json", "-"]
    fields = ["--train.image", "file", "--train.label", "kind", "--train.captions", "kind"]
    assert main(["eval", trained[0], *words, *fields]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    found = {task["task"]: task["metrics"] for task in model["tasks"]}
    expected = by_name(trained[1], "knn", "few_shot")
    for task, metrics in found.items():
        for name, value in metrics.items():
            assert value["value"] == pytest.approx(expected[f"{task}/{name}"], abs=1e-6)
    accuracy = found["knn"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "{test}", "--tasks", "knn"], "--train: knn needs training examples; name"),
        (
            ["--data", "{test}", "--tasks", "retrieval", "--train", "{train}"],
            "--train: retrieval needs no training examples; leave it out",
        ),
        (["--train", "{train}"], "--train: needs --data; the recipe states its own"),
        (["--train.label", "kind"], "--train.label: needs --train"),
        (
            ["--data", "{test}", "--tasks", "knn", "--train", "{test}"],
            "--train: is the measured source itself",
        ),
        (
            ["--data", "{test}", "--tasks", "knn", "--train", "{train}", "--train.labels", "a"],
            "--train: ",
        ),
        (["--data", "{test}", "--tasks", "knn", "--train", "no/such"], "--train: no/such: cannot"),
        (
            ["--data", "{test}", "--tasks", "knn", "--train", "csv:no/such.csv"],
            "--train: path: no such file or folder: no/such.csv",
        ),
        (
            ["--data", "{test}", "--tasks", "knn", "--train", "csv:{test}.csv"],
            "--train.image: csv:test.csv has no 'image'",
        ),
        (
            ["--data", "csv:{test}.csv", "--tasks", "knn", "--train", "{train}"],
            "--data.image: csv:test.csv has no 'image'",
        ),
    ],
)
def test_bad_training_examples_are_one_line(trained, folders, capsys, words, message):
    named = {split: folders / split for split in ("train", "test")}
    assert main(["eval", trained[0], *(word.format(**named) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_fields_of_evaluators_are_options(trained, folders, capsys):
    words = ["--data", str(folders / "test"), "--train", str(folders / "train"), "--json", "-"]
    words += ["--tasks", "knn,few_shot", "--tasks.knn.k", "3", "--tasks.few_shot.shots", "1", "2"]
    assert main(["eval", trained[0], *words, "--tasks.knn.temperature", "0.5"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    found = {task["task"]: task["metrics"] for task in model["tasks"]}
    shots = {name for name in found["few_shot"] if name.endswith("_shot/accuracy")}
    assert shots == {"1_shot/accuracy", "2_shot/accuracy"}
    settings = {"knn": {"k": 3, "temperature": 0.5}}
    (task,) = load(trained[0]).tasks(
        folders / "test", "knn", train=folders / "train", settings=settings
    )
    assert (task.evaluator.k, task.evaluator.temperature) == (3, 0.5)
    expected = task.evaluator.measure(load(trained[0]).predictor, task.data)
    for name, value in found["knn"].items():
        assert value["value"] == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["--tasks.knn.k", "0"], "--tasks.knn.k: must be at least 1, got 0"),
        (["--tasks.knn.k", "many"], "--tasks.knn: "),
        (["--tasks.knn.kk", "3"], "--tasks.knn: unknown field 'kk'; did you mean 'k'?"),
        (["--tasks.knn.train", "a"], "--tasks.knn: unknown field 'train'"),
        (["--tasks.few_shot.l2", "1"], "--tasks.few_shot.l2: few_shot is not among --tasks; name"),
        (["--tasks.imagenet.k", "1"], "--tasks.imagenet.k: write --tasks.TASK.FIELD, where TASK"),
        (["--tasks.knn", "1"], "--tasks.knn: write --tasks.TASK.FIELD, where TASK is one of"),
    ],
)
def test_bad_fields_of_evaluators_are_one_line(trained, folders, capsys, fields, message):
    words = ["--data", str(folders / "test"), "--train", str(folders / "train"), "--tasks", "knn"]
    assert main(["eval", trained[0], *words, *fields]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    with pytest.raises(UserError, match=r"^settings\.few_shot: is not among the tasks, knn$"):
        load(trained[0]).tasks(folders / "test", "knn", settings={"few_shot": {"l2": 1.0}})
    with pytest.raises(UserError, match=r"^settings\.knn: must be a dict of fields, such as "):
        _check_settings("knn", 5, ["knn"])


def test_a_recipe_names_the_field_of_a_source_that_cannot_be_opened(trained):
    run = load(trained[0]).run
    near = run.evaluators["near"]
    lost = dataclasses.replace(near, train=Folder("no/such"))
    with pytest.raises(UserError, match=r"^evaluators\.near\.train\.path: no folder .*no/such"):
        open_evaluation_data(run, "evaluators.near", lost)
    many = dataclasses.replace(near, k=25)
    with pytest.raises(UserError, match=r"^evaluators\.near: k: 25 neighbours vote"):
        open_evaluation_data(run, "evaluators.near", many)
