"""Faults are reported in one line, and checkpoints saved earlier stay intact."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vljax.training import example_statistics, metrics
from vljax.training.checkpoint import complete_steps, verify

TINY = ("train.py", "configs/quickstart.py:tiny")
# These tests are about saving and data, so nothing is evaluated.
EVALUATORS = [
    f"--{field}.{n}"
    for field in ("evaluators", "final_evaluators")
    for n in ("retrieval", "zero_shot")
]
WITHOUT_EVALUATION = [word for field in EVALUATORS for word in (field, "none")]
SHORT = (*TINY, *WITHOUT_EVALUATION, "--log_every", "1", "--checkpoint_every", "2")


@pytest.fixture(scope="module")
def finished(call, tmp_path_factory):
    """A workdir with checkpoints at steps 16, 18 and 20."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    status, _, err = call(*SHORT, "--workdir", workdir)
    assert status == 0, err
    assert complete_steps(str(workdir)) == [16, 18, 20]
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of it to be broken."""
    return shutil.copytree(finished, tmp_path / "w")


def test_a_workdir_of_another_recipe_is_refused(refused, workdir):
    error = refused(*SHORT, "--workdir", workdir, "--optim.learning_rate", "0.5", "--seed", "3")
    assert f"{workdir} holds a run of another recipe" in error
    assert "optim.learning_rate is 0.003 there, 0.5 here; seed is 0 there, 3 here" in error
    assert error.endswith("use another --workdir")
    assert complete_steps(str(workdir)) == [16, 18, 20]


def test_fields_outside_the_identity_may_change(call, workdir):
    status, _, err = call(
        *SHORT, "--workdir", workdir, "--keep_checkpoints", "2", "--log_every", "5"
    )
    assert status == 0, err


def test_a_damaged_checkpoint_is_skipped(call, workdir):
    (largest,) = sorted(
        (p for p in (workdir / "checkpoints" / "20" / "state").rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )[-1:]
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    status, _, err = call(*SHORT, "--workdir", workdir)
    assert status == 0, err
    assert "20" in next(line for line in err.splitlines() if largest.name in line)
    assert "resuming at step 18 of 20" in err
    assert verify(workdir / "checkpoints" / "20") == []


def test_an_incomplete_checkpoint_is_skipped(call, workdir):
    (workdir / "checkpoints" / "20" / "manifest.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "20" / "state")
    status, _, err = call(*SHORT, "--workdir", workdir)
    assert status == 0, err
    assert "resuming at step 18 of 20" in err
    assert complete_steps(str(workdir)) == [16, 18, 20]


def test_a_full_disk_keeps_earlier_checkpoints(start, finished, workdir, environment):
    """A limit on the size of files stands in for a full disk."""
    shutil.rmtree(workdir / "checkpoints" / "20")
    limit = 200_000
    code = (
        "import resource, runpy, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"sys.argv = {[*map(str, SHORT), '--workdir', str(workdir)]!r}\n"
        "runpy.run_path('train.py', run_name='__main__')"
    )
    process = start("-c", code)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    (error,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert "18" in error
    assert "intact" in error
    assert complete_steps(str(workdir)) == [16, 18]
    assert all(verify(workdir / "checkpoints" / str(step)) == [] for step in (16, 18))


def test_a_workdir_that_cannot_be_written_is_an_error(refused, tmp_path):
    (tmp_path / "file").write_text("")
    error = refused(*SHORT, "--workdir", tmp_path / "file" / "w")
    assert str(tmp_path / "file") in error


@pytest.mark.parametrize("content", [None, "", "{}", "null"])
def test_a_run_json_that_was_lost_is_written_again(call, refused, workdir, content):
    (workdir / "run.json").unlink()
    if content is not None:
        (workdir / "run.json").write_text(content)
    error = refused(*SHORT, "--workdir", workdir, "--seed", "3")
    assert "holds a run of another recipe (seed is 0 there, 3 here)" in error
    if content == "":
        status, _, err = call(*SHORT, "--workdir", workdir)
        assert status == 0, err
        assert json.loads((workdir / "run.json").read_text())["recipe"]["steps"] == 20


def test_a_workdir_without_a_checkpoint_takes_only_the_same_recipe(call, refused, workdir):
    """Killed before the first checkpoint: the same recipe begins again, another is refused."""
    shutil.rmtree(workdir / "checkpoints")
    assert "seed is 0 there, 3 here" in refused(*SHORT, "--workdir", workdir, "--seed", "3")
    status, _, err = call(*SHORT, "--workdir", workdir)
    assert status == 0, err
    assert "resuming" not in err
    rows = [row["step"] for row in metrics.read(str(workdir)) if "loss" in row]
    assert rows == list(range(1, 21))


def test_a_recipe_of_another_version_is_refused(refused, workdir):
    shutil.rmtree(workdir / "checkpoints")
    described = json.loads((workdir / "run.json").read_text())
    described["recipe"]["new_field"] = 1
    (workdir / "run.json").write_text(json.dumps(described))
    error = refused(*SHORT, "--workdir", workdir)
    assert "run.json: not a recipe of this version of vljax (unknown field 'new_field'" in error


def test_missing_paths_are_an_error(refused, tmp_path):
    error = refused("train.py", "configs/clip_vit_b16.py", "--workdir", tmp_path / "w")
    assert error == "error: data.source.path: unset; add --data.source.path PATH"
    assert not (tmp_path / "w").exists()


@pytest.fixture
def folder(tmp_path):
    """Twenty images with captions; two that cannot be read, and one without a caption."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(20):
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(
            {"image": f"{i}.png", "caption": f"picture {i}", "class": "odd" if i % 2 else "even"}
        )
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    (tmp_path / "5.png").write_text("no image")
    rows[7]["caption"] = " "
    index = tmp_path / "captions.jsonl"
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return index


def on(index, workdir, *more, evaluation=WITHOUT_EVALUATION):
    """The command that trains on a folder for five epochs."""
    data = ("--data.source", "jsonl", "--data.source.path", index)
    return (*TINY, *data, *evaluation, "--global_batch", "20", "--steps", "5", "--log_every", "1",
            "--optim.schedule.warmup_steps", "1", "--workdir", workdir, *more)  # fmt: skip


def test_bad_examples_are_masked_and_named(call, folder, tmp_path):
    status, _, err = call(*on(folder, tmp_path / "w"))
    assert status == 0, err
    for index in (3, 5, 7):
        lines = [
            line
            for line in err.splitlines()
            if f"captions.jsonl/{index}:" in line or f"/{index}:" in line
        ]
        assert len(lines) == 1, (index, err)
        assert lines[0].endswith("masked out")
    rows = [row for row in metrics.read(str(tmp_path / "w")) if "loss" in row]
    assert [row["valid_examples"] for row in rows] == [17] * 5
    assert all(row["loss"] is not None for row in rows)
    kinds = {3: "truncated", 5: "not_an_image", 7: "no_caption"}
    last = {name: value for name, value in rows[-1].items() if name.startswith("data/")}
    assert last == {
        "data/decoded": 85,
        "data/repeated": 80,
        "data/rejected": 15,
        **{f"data/rejected/{kind}": 5 for kind in kinds.values()},
    }
    listed = example_statistics.read(str(tmp_path / "w"))
    assert {row["index"]: row["kind"] for row in listed} == kinds
    assert {(row["step"], row["source"]) for row in listed} == {(1, "jsonl:captions.jsonl")}


def test_too_many_bad_examples_end_the_run(call, folder, tmp_path):
    status, _, err = call(*on(folder, tmp_path / "w", "--data.max_rejected_share", "0.01"))
    assert status == 2
    (error,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert "data.max_rejected_share: 3 of the last 20 examples up to step 1 cannot be used" in error
    assert "(no_caption 1, not_an_image 1, truncated 1; such as jsonl:captions.jsonl/" in error
    assert len(example_statistics.read(str(tmp_path / "w"))) == 3


def test_changed_data_is_refused(call, refused, folder, tmp_path):
    command = on(folder, tmp_path / "w", "--checkpoint_every", "2")
    assert call(*command)[0] == 0
    folder.write_text(folder.read_text().replace("picture 1", "painting 1"))
    error = refused(*command)
    assert "the data have changed since step 5" in error


def test_evaluation_data_are_opened_before_any_compile(refused, folder, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{oops\n")
    evaluator = (
        "--evaluators.retrieval.source",
        "jsonl",
        "--evaluators.retrieval.source.path",
        bad,
    )
    error = refused(*on(folder, tmp_path / "w", *evaluator, evaluation=()))
    assert error.startswith("error: evaluators.retrieval: ")
    assert "bad.jsonl:1" in error
    assert not (tmp_path / "w" / "run.json").exists()


def test_a_column_that_evaluation_data_lack_is_named_where_it_was_set(refused, folder, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("image,title\na.png,a\n")
    field = "evaluators.retrieval.source"
    error = refused(
        *on(folder, tmp_path / "w", f"--{field}", "csv", f"--{field}.path", table, evaluation=())
    )
    assert error.startswith(f"error: {field}.captions: csv:table.csv has no 'caption'")


def test_a_line_that_is_not_json_is_masked_and_named(call, folder, tmp_path):
    folder.write_text(folder.read_text() + "{oops\n")
    status, _, err = call(*on(folder, tmp_path / "w", "--data.max_rejected_share", "0.5"))
    assert status == 0, err
    (line,) = (line for line in err.splitlines() if "captions.jsonl/20" in line)
    assert line.endswith("masked out")
    listed = {row["index"]: row["reason"] for row in example_statistics.read(str(tmp_path / "w"))}
    assert "JSON" in listed[20]
