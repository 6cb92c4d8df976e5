"""NaFlex from a recipe to a trained model."""

from __future__ import annotations

import dataclasses
import io
import logging
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from vljax import config, inference, launch
from vljax.commands.check import summarise
from vljax.config import UserError
from vljax.data.transforms import ChooseText, Decode, Patchify, Resize, Tokenize
from vljax.datasets import Builtin
from vljax.evaluation import Retrieval
from vljax.run import Run, prepare
from vljax.training import metrics

RECIPE = Path(__file__).parents[1] / "configs" / "naflex.py"
STEPS = 8


def recipe() -> Run:
    return config.load(f"{RECIPE}:tiny", Run)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str, list[str]]:
    """A short run with one-layer towers and two lengths: recipe, output, compiled programs."""
    run = recipe()
    towers = {
        name: dataclasses.replace(tower, depth=1) for name, tower in run.model.encoders.items()
    }
    transforms = tuple(
        dataclasses.replace(transform, lengths=(16, 64))
        if isinstance(transform, Patchify)
        else transform
        for transform in run.data.train_transforms
    )
    run = dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, nodes={**run.model.nodes, **towers}),
        data=dataclasses.replace(run.data, train_transforms=transforms),
        evaluators={},
        final_evaluators={"retrieval": Retrieval(Builtin("test"))},
        steps=STEPS,
        global_batch=8,
        log_every=1,
        evaluate_every=STEPS,
        checkpoint_every=STEPS,
        workdir=str(tmp_path_factory.mktemp("naflex")),
    )
    names: list[str] = []

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            names.extend(re.findall(r"Finished XLA compilation of (\S+)", record.getMessage()))

    logger, listen, output = logging.getLogger("jax"), Listen(), io.StringIO()
    vljax_logger = logging.getLogger("vljax")
    before = vljax_logger.handlers, vljax_logger.propagate  # a run replaces them
    logger.addHandler(listen)
    jax.config.update("jax_log_compiles", True)  # in all threads, as jax.log_compiles() is not
    try:
        launch.train(run, Console(file=output))
    finally:
        jax.config.update("jax_log_compiles", False)
        logger.removeHandler(listen)
        vljax_logger.handlers, vljax_logger.propagate = before
    return run, output.getvalue(), names


def test_the_step_is_compiled_once_for_each_length(
    trained: tuple[Run, str, list[str]],
) -> None:
    run, output, names = trained
    drawn = [run.data.length_at(run.seed, step) for step in range(STEPS)]
    assert set(drawn) == set(run.data.image_lengths)
    assert names.count("jit(step)") == len(run.data.image_lengths) == 2
    # The first length is compiled ahead, in a thread; the run reports the others.
    reported = re.findall(r"compiling the step for images of (\d+) patches", output)
    assert sorted(map(int, [*reported, drawn[0]])) == sorted(run.data.image_lengths)


def test_padding_is_among_the_metrics(trained: tuple[Run, str, list[str]]) -> None:
    run, _, _ = trained
    assert run.workdir is not None
    shares = [row["data/padding"] for row in metrics.read(run.workdir) if "data/padding" in row]
    assert len(shares) == STEPS
    assert all(0 < share < 0.2 for share in shares)


def test_a_checkpoint_encodes_images_of_any_shape(trained: tuple[Run, str, list[str]]) -> None:
    run, _, _ = trained
    assert run.workdir is not None
    model = inference.load(run.workdir)
    records = Builtin("test").open()
    embeddings = model.encode_image([records.image(i) for i in range(3)])
    assert embeddings.shape == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_check_lists_the_lengths() -> None:
    prepared = prepare(recipe())
    assert summarise(prepared)["image_lengths"] == pytest.approx({16: 1 / 3, 36: 1 / 3, 64: 1 / 3})
    (note,) = [note for note in prepared.notes if "patches" in note]
    assert note.endswith(
        "images of 16 (33%), 36 (33%), 64 (33%) patches: the step is compiled for each"
    )


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (
            Patchify(4, lengths=(64,)),
            r"model.nodes.image: is made for \(64, 192\), but the data gives \(64, 48\); "
            "use patchify with its patch_size",
        ),
        (
            Resize(64),
            r"model.nodes.image: is made for \(64, 192\), but the data gives \(64, 64, 3\); "
            "use patchify with its patch_size",
        ),
    ],
)
def test_data_that_does_not_fit_the_encoder_is_refused(last: object, message: str) -> None:
    run = recipe()
    transforms = (Decode(), last, ChooseText(), Tokenize())
    data = dataclasses.replace(run.data, train_transforms=transforms, eval_transforms=transforms)
    with pytest.raises(UserError, match=f"^{message}$"):
        prepare(dataclasses.replace(run, data=data))
