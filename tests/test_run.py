"""`prepare` refuses invalid runs before anything is compiled."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vljax import config
from vljax.commands.main import main
from vljax.config import UserError
from vljax.data.sources.mixture import Mixture, Part
from vljax.datasets import Builtin
from vljax.evaluation import Retrieval, ZeroShot
from vljax.models.compute import Call, Compute
from vljax.models.encoders import ViT
from vljax.models.node import Encoded
from vljax.optim import Group
from vljax.optim.schedules import WarmupCosine
from vljax.run import (
    Run,
    check_memory,
    memory_notes,
    prepare,
    state_bytes,
    step_bytes,
    with_image_size,
)

WARMUP = WarmupCosine(10)


def recipe(**changes):
    run = config.load("configs/quickstart.py:tiny", Run)
    optim = dataclasses.replace(run.optim, **changes.get("optim", {}))
    encoders = {
        name: dataclasses.replace(encoder, **changes.get("model", {}).get(name, {}))
        for name, encoder in run.model.encoders.items()
    }
    model = dataclasses.replace(run.model, nodes={**run.model.nodes, **encoders})
    return dataclasses.replace(run, **{**changes, "optim": optim, "model": model})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"frozen": (".*",)}}, "optim.frozen: nothing is left to train; freeze less"),
        ({"optim": {"frozen": ("imag/.*",)}}, "optim.frozen: 'imag/.*' matches no parameter"),
        ({"optim": {"rate_rules": (("imag/.*", 0.1), (".*", 1.0))}}, "optim.rate_rules: 'imag/.*'"),
        (
            {
                "optim": {"frozen": ("image/blocks/0/.*",)},
                "model": {"image": {"scan": True}},
            },
            "optim.frozen: 'image/blocks/0/.*' takes only some layers of image/blocks/",
        ),
        ({"accumulate": 0}, "accumulate: must be at least 1, not 0"),
        ({"max_skipped_steps": 0}, "max_skipped_steps: must be at least 1, not 0"),
        (
            {"accumulate": 3},
            "global_batch: the mesh (data 8 x fsdp 1) and accumulate 3 cannot split 64; 72 would",
        ),
        ({"attention": "cudnn"}, "attention: cudnn needs a gpu, and the mesh is of cpu"),
        (
            {"groups": {"all": Group(start=-1)}},
            "groups.all.start: must be at least 0, not -1",
        ),
        (
            {"groups": {"all": Group(start=30)}, "steps": 30},
            "groups.all.start: is 30, and the run has 30 steps: it is never trained; lower it, or",
        ),
        (
            {"groups": {"all": Group(start=5)}, "steps": 12, "optim": {"schedule": WARMUP}},
            "groups.all.start: optim.schedule does not fit the 7 steps after it; lower start,",
        ),
        (
            {"guard": "retrival", "evaluate_first": True},
            "guard: no evaluator 'retrival' in evaluators; did you mean 'retrieval'?",
        ),
        (
            {"guard": "retrieval"},
            "guard: compares with the values before the first step; set evaluate_first",
        ),
        (
            {"guard": "retrieval", "evaluate_first": True, "guard_drop": -1.0},
            "guard_drop: must be at least 0, or None for no limit, not -1.0",
        ),
        ({"guard_drop": 1.0}, "guard_drop: does nothing without a guard; set guard to an"),
    ],
)
def test_invalid_runs_are_refused(changes, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        prepare(recipe(**changes))


def test_a_frozen_tower_has_no_optimizer_state():
    shapes = prepare(recipe(optim={"frozen": ("image/.*", "embedding/image/.*")})).shapes
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(shapes.optimizer)]
    assert any("['text']" in path for path in paths)
    assert not any("['image']" in path for path in paths)


class Normalised(nn.Module):
    """An image tower that keeps statistics of its batches."""

    compute: Compute

    @nn.compact
    def __call__(self, image, mask=None, call=Call()):
        x = image.reshape(*image.shape[:1], -1).astype(jnp.float32)[:, None, :32]
        init = nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",))
        kernel = self.param("scale", init, (32,), jnp.float32)
        mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(32))
        x = (x - mean.value) * kernel
        return Encoded(x, jnp.ones(x.shape[:2], bool), x[:, 0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNormViT(ViT, name="test_batch_norm_vit"):
    """Takes the place of a ViT."""

    updates_state = True

    def module(self, compute: Compute, name: str) -> nn.Module:
        return Normalised(compute, name=name)


def test_accumulation_is_refused_for_batch_statistics():
    run = recipe(accumulate=2)
    image = BatchNormViT(image_size=60, patch_size=12, **{**tiny.TOWER, "width": 32})
    model = dataclasses.replace(run.model, nodes={**run.model.nodes, "image": image})
    message = "accumulate: 2 parts of a batch would each have their own statistics (batch_stats)"
    with pytest.raises(UserError, match=f"^{re.escape(message)}; set it to 1"):
        prepare(dataclasses.replace(run, model=model))


VALIDATION = Builtin("validation")


def test_metrics_have_the_type_and_the_data_set_in_their_names():
    prefixes = config.load("configs/quickstart.py:tiny", Run).evaluator_prefixes()
    assert prefixes == {
        f"{field}.{kind}": f"{kind}/builtin/{split}"
        for field, split in [("evaluators", "validation"), ("final_evaluators", "test")]
        for kind in ("retrieval", "zero_shot")
    }


def test_two_evaluators_of_a_type_on_one_data_set_have_their_own_names():
    first = {"all": Retrieval(VALIDATION), "zero_shot": ZeroShot(VALIDATION)}
    last = {"one_caption": Retrieval(VALIDATION, captions=1), "test": Retrieval(Builtin("test"))}
    prepared = prepare(recipe(evaluators=first, final_evaluators=last))
    assert prepared.run.evaluator_prefixes() == {
        "evaluators.all": "all/builtin/validation",
        "evaluators.zero_shot": "zero_shot/builtin/validation",
        "final_evaluators.one_caption": "one_caption/builtin/validation",
        "final_evaluators.test": "retrieval/builtin/test",
    }


@pytest.mark.parametrize(
    ("evaluators", "message"),
    [
        (
            # The own name of one is the type of another.
            {
                "zero_shot": Retrieval(VALIDATION),
                "other": Retrieval(VALIDATION),
                "classes": ZeroShot(VALIDATION),
            },
            "evaluators.classes: and evaluators.zero_shot both measure "
            "'zero_shot/builtin/validation'; rename one in the recipe, or drop one: --evalu",
        ),
        (
            {"a/b": Retrieval(VALIDATION)},
            "evaluators.a/b: the name holds '/', which separates the parts of metric names",
        ),
    ],
)
def test_evaluators_whose_metrics_cannot_be_told_apart_are_refused(evaluators, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        prepare(recipe(evaluators=evaluators))


def test_evaluators_that_read_what_no_node_makes_are_refused():
    run = recipe()
    nodes = {("pictures" if k == "image" else k): v for k, v in run.model.nodes.items()}
    nodes["pictures"] = dataclasses.replace(nodes["pictures"], entry="image")
    nodes["embedding"] = dataclasses.replace(
        nodes["embedding"], projections={"pictures": "linear", "text": "linear"}
    )
    message = (
        "evaluators.retrieval: reads 'image/embedding', which no node makes; "
        "did you mean 'text/embedding'?"
    )
    changed = dataclasses.replace(run, model=dataclasses.replace(run.model, nodes=nodes))
    changed = dataclasses.replace(changed, objectives={})
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        prepare(changed)


def test_bytes_of_a_step_follow_from_the_batch():
    small, large, parts = (
        step_bytes(prepare(recipe(**changes)))
        for changes in (
            {"global_batch": 32},
            {"global_batch": 64},
            {"global_batch": 64, "accumulate": 2},
        )
    )
    # RGB, ids and mask of 16 tokens, example id and `valid`, as `Data.batch_spec` lists them.
    spec = recipe().data.batch_spec(64).values()
    assert jax.device_count() * large["batch"] == sum(
        np.zeros(shape, dtype).nbytes for shape, dtype in spec
    )
    # All but masks of positions, which examples share, grows with the batch.
    assert large["saved activations"] == pytest.approx(2 * small["saved activations"], rel=0.01)
    assert parts["saved activations"] == small["saved activations"]
    assert parts["batch"] == large["batch"]


def test_what_frozen_towers_compute_is_not_saved():
    whole = step_bytes(prepare(recipe()))["saved activations"]
    locked = prepare(recipe(optim={"frozen": ("(image|text)/.*",)}))
    assert step_bytes(locked)["saved activations"] < whole / 20


def test_the_memory_of_the_machine_is_compared(monkeypatch):
    prepared = prepare(recipe())
    held = sum(state_bytes(prepared).values()) * len(prepared.mesh.local_devices)
    assert check_memory(prepared) == memory_notes(prepared, step_bytes(prepared)) == []
    monkeypatch.setattr("vljax.run.host_memory", lambda: held + 1000)
    (note,) = check_memory(prepared)
    assert re.match(r"global_batch: a step needs about [\d.]+ MiB \(.* state and gradients\)", note)
    assert "lower global_batch or raise accumulate" in note
    monkeypatch.setattr("vljax.run.host_memory", lambda: held - 1)
    assert memory_notes(prepared)[0].startswith("model: parameters, optimizer state and gradients")
    with pytest.raises(UserError, match=r"^model: parameters, optimizer state and gradients take "):
        check_memory(prepared)


def test_a_run_that_cannot_fit_is_refused_before_it_starts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("vljax.run.host_memory", lambda: 1000)
    argv = ["configs/quickstart.py:tiny", "--workdir", str(tmp_path / "run")]
    assert main(["train", *argv]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith("error: model: parameters, optimizer state and gradients take ")
    assert not (tmp_path / "run").exists()
    assert main(["check", *argv]) == 0  # it says whether the recipe is valid, for any machine
    assert "note: model: parameters, optimizer state and gradients" in capsys.readouterr().out


# --- Image size -----------------------------------------------------------------------------------


def sizes(run):
    both = (run.data.train_transforms, run.data.eval_transforms)
    return [[t.size for t in transforms if hasattr(t, "size")] for transforms in both]


@pytest.mark.parametrize(
    ("name", "size", "wanted"),
    [
        ("quickstart:tiny", 72, [[79, 72], [72]]),  # 66 and 60 before
        ("clip_vit_b16", 336, [[336], [336]]),
        ("siglip_so400m14_384", 384, [[384], [384]]),  # 14 does not divide its own size
        ("vqa_cross_attention:tiny", 128, [[128], [128]]),
    ],
)
def test_one_size_for_the_model_and_all_transforms(name, size, wanted):
    file, _, variant = name.partition(":")
    run = config.load(f"configs/{file}.py{variant and ':' + variant}", Run)
    made = with_image_size(run, size)
    assert made.model.nodes["image"].image_size == size
    assert sizes(made) == wanted
    assert not made.init.resize
    if size == run.model.nodes["image"].image_size:
        assert made == run


def test_a_run_of_another_size_can_be_trained():
    prepared = prepare(with_image_size(recipe(), 72))
    assert prepared.shapes.params["image"]["positions"].shape[0] == 36
    assert prepared.run.data.batch_spec(1)["image"][0] == (1, 72, 72, 3)


def test_the_size_mends_transforms_that_differ():
    wrong = recipe(model={"image": {"image_size": 72}})
    with pytest.raises(
        UserError, match=r"the data gives \(60, 60, 3\); --image_size 72 sets model"
    ):
        config.validate(wrong)
    assert sizes(config.validate(with_image_size(wrong, 72))) == [[79, 72], [72]]


def test_the_parts_of_a_mixture_get_the_size_too():
    run = recipe()
    part = Part(run.data.source, transforms=run.data.eval_transforms)
    source = Mixture({"a": part, "b": Part(run.data.source)})
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, source=source))
    made = config.validate(with_image_size(run, 72))
    assert made.data.source.parts["a"].transforms[1].size == 72


def test_train_and_evaluation_of_other_sizes_are_refused_with_the_remedy():
    run = recipe()
    data = dataclasses.replace(
        run.data, eval_transforms=with_image_size(run, 72).data.eval_transforms
    )
    with pytest.raises(UserError, match=r"; --image_size SIZE sets the size in both$"):
        config.validate(dataclasses.replace(run, data=data))


def test_positions_of_an_initial_model_are_resized_if_they_must_be():
    run = recipe()
    run = dataclasses.replace(run, init=dataclasses.replace(run.init, path="runs/other"))
    assert with_image_size(run, 72).init.resize
    assert not with_image_size(run, 60).init.resize
    for field in ({"table_size": 60}, {"positions": "sincos"}):
        image = dataclasses.replace(run.model.nodes["image"], **field)
        nodes = {**run.model.nodes, "image": image}
        other = dataclasses.replace(run, model=dataclasses.replace(run.model, nodes=nodes))
        assert not with_image_size(other, 72).init.resize


def test_sizes_that_cannot_be_are_refused():
    run = recipe()
    image, text = run.model.nodes["image"], run.model.nodes["text"]

    def refused(size, message, **nodes):
        of = dataclasses.replace(run, model=dataclasses.replace(run.model, nodes=nodes))
        with pytest.raises(UserError, match=f"^--image_size: {re.escape(message)}$"):
            with_image_size(of, size)

    cell = "pixels are not a multiple of 12, the size of a patch of model.nodes.image; use"
    refused(70, f"70 {cell} 60 or 72", image=image)
    refused(7, f"7 {cell} 12", image=image)
    refused(60, "the model has no encoder with an image_size", text=text)
    refused(
        60,
        "the image encoders have different sizes (--model.nodes.image.image_size 60 and"
        " --model.nodes.small.image_size 24); set each, and the sizes of their transforms",
        image=image,
        small=dataclasses.replace(image, image_size=24),
    )
    with pytest.raises(
        UserError, match=r"image \(naflex_vit\) takes images of any size; set the num"
    ):
        with_image_size(config.load("configs/naflex.py:tiny", Run), 72)
