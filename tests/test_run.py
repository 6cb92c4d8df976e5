"""`prepare` refuses invalid runs before anything is compiled."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests.training import tiny
from vljax import config
from vljax.config import UserError
from vljax.datasets import Builtin
from vljax.evaluation import Retrieval, ZeroShot
from vljax.models.compute import Call, Compute
from vljax.models.encoders import ViT
from vljax.models.node import Encoded
from vljax.run import Run, prepare


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
