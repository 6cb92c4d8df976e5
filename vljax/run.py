"""The dataclass of a whole run, and everything that can be known about it before it computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vljax import config, datasets, evaluation, objectives  # noqa: F401  register components
from vljax.config import UserError, setting, suggest
from vljax.data import sources, transforms  # noqa: F401
from vljax.data.pipeline.pipeline import Data
from vljax.data.tokenizers import LoadedTokenizer
from vljax.evaluation.evaluator import Evaluator
from vljax.models import encoders, heads, layout  # noqa: F401
from vljax.models.assembly import Model, ModelConfig, Variables, build, example_batch
from vljax.models.compute import AttentionKind, Compute, Precision, resolve_attention
from vljax.models.pretrained import Pretrained
from vljax.objectives.contrastive import Contrastive
from vljax.objectives.objective import Objective
from vljax.optim import AdamW, Optimizer, learning_rate_factors
from vljax.parallel.mesh import MeshConfig, check_batch, make_mesh
from vljax.parallel.per_device import on_each_device
from vljax.parallel.processes.start import DistributedConfig
from vljax.parallel.rules import constrain, parameter_shardings, update_shardings
from vljax.training.state import Task, TrainState, abstract, create, shardings


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run: everything that determines it."""

    model: ModelConfig
    data: Data
    objectives: dict[str, Objective]
    """By a name of their own; the loss is their weighted sum. None for a mere tower."""
    pretrained: dict[str, Pretrained] = setting(dict)
    """First values from files, by the encoder or learned scalar that gets them."""
    optim: Optimizer = field(default_factory=AdamW)
    evaluators: dict[str, Evaluator] = setting(dict, identity=False)
    """Run every `evaluate_every` steps and at the end."""
    final_evaluators: dict[str, Evaluator] = setting(dict, identity=False)
    """Run at the end only: on test sets."""
    precision: Precision = field(default_factory=Precision)
    attention: AttentionKind = setting("auto", identity=False)
    """xla; heads_first: for CPU; cudnn: fused, on GPU; splash: tiled, on TPU; auto: by platform, on
    TPU by length too."""
    mesh: MeshConfig = setting(MeshConfig)
    distributed: DistributedConfig = setting(DistributedConfig)
    steps: int
    """Batches to train on."""
    global_batch: int
    """Examples in a batch, over all devices and processes."""
    accumulate: int = setting(1, identity=False)
    """Parts that a batch is computed in, one after the other, to save memory; exact."""
    seed: int = 0
    """Of initial values, the order of the data, augmentation and dropout."""
    workdir: str | None = setting(None, identity=False)
    """Folder for everything that the run writes; runs/RECIPE where it is unset."""
    log_every: int = setting(50, identity=False)
    """Steps between rows of metrics.jsonl."""
    evaluate_every: int = setting(1000, identity=False)
    """Steps between evaluations."""
    checkpoint_every: int = setting(1000, identity=False)
    """Steps between checkpoints."""
    keep_checkpoints: int = setting(3, identity=False)
    """How many of the newest checkpoints stay."""
    max_skipped_steps: int = setting(10, identity=False)
    """A run ends after so many steps in a row without an update."""

    def problems(self) -> Iterator[tuple[str, str]]:
        names = ("steps", "global_batch", "accumulate", "log_every", "evaluate_every")
        for name in (*names, "checkpoint_every", "keep_checkpoints", "max_skipped_steps"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, not {getattr(self, name)}"
        if not 0 <= self.seed < 2**32:
            yield "seed", f"must be in [0, 2**32), not {self.seed}"
        for name, message in self.optim.schedule.problems_in(self.steps):
            yield f"optim.schedule.{name}", message
        yield from self._scalar_problems()
        yield from self._shape_problems()
        yield from self._similarity_problems()
        yield from self._name_problems()

    def _scalar_problems(self) -> Iterator[tuple[str, str]]:
        asked: dict[str, tuple[str, Any]] = {}
        for name, objective in self.objectives.items():
            for scalar, wanted in objective.scalars().items():
                other, before = asked.setdefault(scalar, (name, wanted))
                if before != wanted:
                    yield f"objectives.{name}", f"and {other!r} disagree about {scalar}"

    def _shape_problems(self) -> Iterator[tuple[str, str]]:
        """Batches that don't fit the encoders they are meant for."""
        batch = self.data.batch_spec(self.global_batch)
        for name, encoder in self.model.encoders.items():
            specs = example_batch(ModelConfig({name: encoder}, {}), self.global_batch)
            for entry, spec in specs.items():
                field = f"model.encoders.{entry}"
                if entry not in batch:
                    yield field, f"the data has no {entry!r}{suggest(entry, batch)}"
                elif not _fits(batch[entry][0], spec.shape, any_length=encoder.any_length):
                    made, wanted = batch[entry][0][1:], spec.shape[1:]
                    remedy = "; use patchify with its patch_size" if encoder.any_length else ""
                    yield field, f"is made for {wanted}, but the data gives {made}{remedy}"

    def _similarity_problems(self) -> Iterator[tuple[str, str]]:
        trained = {o.similarity for o in self.objectives.values() if isinstance(o, Contrastive)}
        for field_name in ("evaluators", "final_evaluators"):
            for name, evaluator in getattr(self, field_name).items():
                measured = getattr(evaluator, "similarity", None)
                if measured and trained and measured not in trained:
                    path = f"{field_name}.{name}.similarity"
                    yield path, f"is {measured}, but the objectives use {'/'.join(sorted(trained))}"

    def _name_problems(self) -> Iterator[tuple[str, str]]:
        """Metrics of one name would overwrite each other."""
        seen: dict[str, str] = {}
        for path, evaluator in self.all_evaluators.items():
            other = seen.setdefault(evaluator.prefix, path)
            if other != path:
                yield path, f"and {other} both measure {evaluator.prefix!r}; drop one"

    @property
    def all_evaluators(self) -> dict[str, Evaluator]:
        """Evaluators by the recipe field that holds them."""
        both = {"evaluators": self.evaluators, "final_evaluators": self.final_evaluators}
        return {f"{k}.{name}": e for k, group in both.items() for name, e in group.items()}


def _fits(made: tuple[int, ...], wanted: tuple[int, ...], *, any_length: bool) -> bool:
    """Whether arrays of a batch are what an encoder is made for, length aside if it is free."""
    first = 2 if any_length else 1
    return len(made) == len(wanted) and made[first:] == wanted[first:]


@dataclass(frozen=True)
class Prepared:
    """A checked run with its functions and shapes; nothing is computed or compiled yet."""

    run: Run
    mesh: Mesh
    model: Model
    task: Task
    shapes: TrainState
    """Every array of the state, with its sharding, as a ShapeDtypeStruct."""
    notes: list[str]
    """What a person should know about the recipe."""

    @property
    def platform(self) -> str:
        """What the mesh targets: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform


def build_model(run: Run, mesh: Mesh) -> Model:
    """The model of a run as it is computed on a mesh."""
    platform = mesh.devices.flat[0].platform
    precision = run.precision.resolve(platform)
    compute = Compute(
        jnp.dtype(precision.compute),
        jnp.dtype(precision.params),
        constrain(mesh),
        on_each_device(mesh),
        resolve_attention(run.attention, platform),
        sums_by_matmul=platform == "tpu",
        # On several devices, the compiler would have to split the merged axes as it did each.
        products_by_rows=platform == "cpu" and mesh.size == 1,
        depthwise_by_shifts=platform == "cpu",
    )
    initial = {
        name: scalar.initial
        for objective in run.objectives.values()
        for name, scalar in objective.scalars().items()
    }
    return build(run.model, compute, initial)


def prepare(run: Run, devices: Sequence[jax.Device] | None = None) -> Prepared:
    """Checks a run from end to end without computing anything.

    Args:
      run: the recipe.
      devices: what the mesh is made of: all that there are, or those of a topology to compile for.

    Raises:
      UserError: for the first thing that is wrong.
    """
    run = config.validate(run)
    mesh = make_mesh(run.mesh, devices)
    check_batch(mesh, run.global_batch, parts=run.accumulate)
    for path, evaluator in run.all_evaluators.items():
        check_batch(mesh, evaluator.batch_size, f"{path}.batch_size")
    _check_vocabulary(run)
    model = build_model(run, mesh)
    variables = _check_outputs(run, model)
    _check_parameter_rules(run, variables)
    _check_groups(run, variables)
    if run.accumulate > 1 and any(e.updates_state for e in run.model.encoders.values()):
        raise UserError(
            f"accumulate: {run.accumulate} parts of a batch would each have their own statistics "
            f"({', '.join(sorted(variables.state))}); set it to 1"
        )
    place = update_shardings if run.mesh.shard_updates else parameter_shardings
    updates = place(model.axes, variables.params, mesh, run.mesh.fsdp_min_size)
    task = Task(model, run.objectives, run.optim, run.steps, run.accumulate, mesh)
    shapes = jax.eval_shape(lambda v: create(v, task), variables)
    placed = shardings(shapes, task, mesh, run.mesh.fsdp_min_size, updates)
    task = dataclasses.replace(task, shardings=placed.params, updates=updates)
    return Prepared(run, mesh, model, task, abstract(shapes, placed), config.notes(run))


def check_trains(prepared: Prepared) -> None:
    """Raises UserError if there is nothing that a run could train on."""
    if not prepared.run.objectives:
        raise UserError("objectives: a run needs at least one")


def _check_parameter_rules(run: Run, variables: Variables) -> None:
    """Patterns of the optimizer match parameters, and leave some to train."""
    optim, params = run.optim, variables.params
    layout.match(optim.decay_rules, params, "optim.decay_rules")
    learning_rate_factors(optim, params)
    frozen = [(pattern, True) for pattern in optim.frozen]
    chosen = layout.match([*frozen, (".*", False)], params, "optim.frozen")
    if all(all(layers) for layers in chosen.values()):
        raise UserError("optim.frozen: nothing is left to train; freeze less")


def _check_outputs(run: Run, model: Model) -> Variables:
    """The shapes of the model's variables, once its outputs are known to serve the objectives."""
    batch = example_batch(run.model)

    def trace(key: jax.Array, batch: Mapping[str, Any]) -> tuple[Variables, dict[str, Any]]:
        variables = model.init(key, batch)
        return variables, model.apply(variables, batch, None, train=False)[0]

    variables, outputs = jax.eval_shape(trace, jax.random.key(0), batch)
    for name, objective in run.objectives.items():
        for wanted in objective.reads():
            if wanted not in outputs:
                near = suggest(wanted, outputs)
                raise UserError(f"objectives.{name}: reads {wanted!r}, not among outputs{near}")
    return variables


def _check_groups(run: Run, variables: Variables) -> None:
    """A parameter in two groups would be decayed and moved twice a step."""
    owner: dict[tuple[str, ...], str] = {}
    for name, objective in run.objectives.items():
        field, frozen = f"objectives.{name}.trains", run.optim.frozen
        part = layout.select(objective.trains, variables.params, field, frozen)
        for keys, _ in layout.leaves(part):
            other = owner.setdefault(keys, objective.trains)
            if other != objective.trains:
                both = f"{objective.trains!r} and {other!r} share {'/'.join(keys)!r}"
                raise UserError(f"objectives.{name}.trains: {both}; let them be equal or apart")


def _check_vocabulary(run: Run) -> None:
    """The tokenizer of the data fits the text towers."""
    config = run.data.tokenizer
    for name, encoder in run.model.encoders.items():
        if getattr(encoder, "pooling", None) == "eos" and not config.always_ends:
            why = "needs an end token in every text, also in one that is cut"
            raise UserError(f"model.encoders.{name}.pooling: eos {why}; see data.tokenizer")
    tokenizer = load_tokenizer(run)
    if tokenizer is not None:
        check_ids(run, tokenizer)


def check_ids(run: Run, tokenizer: LoadedTokenizer) -> None:
    """Raises UserError if a tokenizer has ids that a tower has no embedding for: they give NaN."""
    for name, encoder in run.model.encoders.items():
        size = getattr(encoder, "vocab_size", None)
        if size is not None and tokenizer.vocab_size > size:
            sizes = f"{size} is less than the tokenizer's {tokenizer.vocab_size} ids"
            raise UserError(f"model.encoders.{name}.vocab_size: {sizes}; set it to that")


def load_tokenizer(run: Run) -> LoadedTokenizer | None:
    """The tokenizer of a run; None where its path is unset."""
    tokenizer = run.data.tokenizer
    if getattr(tokenizer, "path", "") is None:
        return None
    return tokenizer.load()
