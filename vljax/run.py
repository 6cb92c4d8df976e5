"""The recipe of a run, `Run`, and `prepare`, which checks it and shapes everything without compute.

`prepare` traces the model with abstract values only. So `vljax check` takes seconds for a model of
any size, and a recipe fails before data is read or anything is compiled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vljax import config, datasets, evaluation, objectives  # noqa: F401  register components
from vljax.config import UserError, setting, suggest
from vljax.data import sources, transforms  # noqa: F401
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import Data, Sample, read_sample
from vljax.data.records import counts_by_kind, error_for_field, exceeds_limit
from vljax.data.tokenizers import LoadedTokenizer
from vljax.data.tokenizers.base import load_named
from vljax.data.transforms.base import Transform
from vljax.evaluation.evaluator import Evaluator
from vljax.files import format_bytes
from vljax.host_process import host_memory
from vljax.models import encoders, fusion, heads, parameters  # noqa: F401
from vljax.models.assembly import Model, ModelConfig, Variables, build, example_batch
from vljax.models.compute import Call, Compute
from vljax.models.kernels.choose import AttentionKind, choose
from vljax.models.low_rank import LowRank
from vljax.models.node import Encoder, makers, stream_of
from vljax.models.numerics import Precision
from vljax.models.pretrained import InitFrom, Pretrained
from vljax.objectives.classification import Classification
from vljax.objectives.contrastive import Contrastive
from vljax.objectives.objective import Objective
from vljax.optim import AdamW, Group, Optimizer, learning_rate_factors
from vljax.parallel.mesh import MeshConfig, check_batch, make_mesh
from vljax.parallel.per_device import on_each_device
from vljax.parallel.placement import bytes_per_device
from vljax.parallel.processes.start import DistributedConfig
from vljax.parallel.rules import constrain, parameter_shardings, update_shardings
from vljax.training.state import Task, TrainState, abstract, create, shardings
from vljax.training.trackers import TrackerName


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run: everything that determines it.

    >>> from vljax.recipes import AdamW, Builtin, ChooseText, Data, Decode, Embedding, HuggingFace
    >>> from vljax.recipes import BUILTIN_VOCABULARY, ModelConfig, Resize, SoftmaxContrastive
    >>> from vljax.recipes import TextTransformer, Tokenize, ViT
    >>> tower = {"width": 32, "depth": 1, "heads": 1, "mlp_dim": 64}
    >>> run = Run(
    ...     model=ModelConfig(
    ...         {
    ...             "image": ViT(image_size=32, patch_size=16, pooling="mean", **tower),
    ...             "text": TextTransformer(
    ...                 vocab_size=2048, context_length=16, pooling="mean", **tower
    ...             ),
    ...             "embedding": Embedding(dim=32),
    ...         }
    ...     ),
    ...     data=Data(
    ...         source=Builtin("train"),
    ...         tokenizers={"text": HuggingFace(str(BUILTIN_VOCABULARY), context_length=16)},
    ...         train_transforms=(Decode(), Resize(32), ChooseText("random"), Tokenize()),
    ...         eval_transforms=(Decode(), Resize(32), ChooseText(), Tokenize()),
    ...     ),
    ...     objectives={"contrastive": SoftmaxContrastive()},
    ...     optim=AdamW(learning_rate=1e-3),
    ...     steps=20,
    ...     global_batch=64,
    ... )
    >>> prepared = prepare(run)
    >>> prepared.shapes.params["text"]["embedding"].shape
    (2048, 32)
    """

    model: ModelConfig
    data: Data
    objectives: dict[str, Objective]
    """Objectives by name; the loss is their weighted sum. Empty for a model that is not trained."""
    pretrained: dict[str, Pretrained] = setting(dict)
    """Initial values from files, by the name of the encoder or learned scalar."""
    init: InitFrom = setting(InitFrom)
    """Initial values from another model; `pretrained` replaces those of its parts. On the command
    line, `--init PATH` is short for `--init.path PATH`."""
    low_rank: LowRank = field(default_factory=LowRank)
    """Low-rank factors that are trained in place of kernels (LoRA); none by default."""
    optim: Optimizer = field(default_factory=AdamW)
    groups: dict[str, Group] = field(default_factory=dict)
    """Groups of parameters by name, each with an optimizer of its own if it needs one; without any,
    all objectives train all parameters with `optim`. Objectives name the groups that they train."""
    evaluators: dict[str, Evaluator] = setting(dict, identity=False)
    """Evaluators by name, run every `evaluate_every` steps and at the end."""
    final_evaluators: dict[str, Evaluator] = setting(dict, identity=False)
    """Evaluators by name, run at the end only: for test sets."""
    precision: Precision = field(default_factory=Precision)
    attention: AttentionKind = setting("auto", identity=False)
    """xla: left to the compiler; cpu: for CPU; cudnn: fused, on GPU; splash: tiled, on TPU; auto:
    by platform, and on TPU by length."""
    mesh: MeshConfig = setting(MeshConfig)
    distributed: DistributedConfig = setting(DistributedConfig)
    steps: int
    """Number of training steps, one batch each."""
    global_batch: int
    """Examples in a batch, over all devices and processes."""
    accumulate: int = setting(1, identity=False)
    """Number of parts of a batch, computed one after the other to save memory; the result is exact.
    """
    seed: int = 0
    """Seed of initial values, data order, augmentation and dropout."""
    workdir: str | None = setting(None, identity=False)
    """Folder for everything that the run writes, local or remote; runs/RECIPE if unset."""
    log_every: int = setting(50, identity=False)
    """Steps between rows of metrics.jsonl."""
    trackers: tuple[TrackerName, ...] = setting((), identity=False)
    """Where metrics go beside metrics.jsonl: tensorboard (files in WORKDIR/tensorboard), wandb
    (Weights & Biases, which reads its own environment variables, such as WANDB_PROJECT)."""
    evaluate_every: int = setting(1000, identity=False)
    """Steps between evaluations."""
    evaluate_first: bool = setting(False, identity=False)
    """Whether to evaluate before the first step too: what `init` or `pretrained` can do already."""
    guard: str | None = setting(None, identity=False)
    """Name of one of `evaluators`, of what the model could do before, such as of old data: its
    change since the first step is printed. Needs `evaluate_first`."""
    guard_drop: float | None = setting(None, identity=False)
    """Percentage points by which a headline metric of the guard may fall below its first value; if
    one falls further, the run is saved and ends. None: it never ends the run."""
    checkpoint_every: int = setting(1000, identity=False)
    """Steps between checkpoints."""
    keep_checkpoints: int = setting(3, identity=False)
    """Number of newest intact checkpoints to keep."""
    max_skipped_steps: int = setting(10, identity=False)
    """Consecutive steps without an update, because of non-finite gradients, that end the run."""

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
        yield from self._group_problems()
        yield from self._guard_problems()
        yield from self._similarity_problems()
        yield from self._decision_problems()
        yield from self._name_problems()

    def _scalar_problems(self) -> Iterator[tuple[str, str]]:
        asked: dict[str, tuple[str, Any]] = {}
        for name, objective in self.objectives.items():
            for scalar, wanted in objective.scalars().items():
                other, before = asked.setdefault(scalar, (name, wanted))
                if before != wanted:
                    yield f"objectives.{name}", f"and {other!r} disagree about {scalar}"

    def _shape_problems(self) -> Iterator[tuple[str, str]]:
        """Batch entries that are not there, or do not fit the node that reads them."""
        batch = self.data.batch_spec(self.global_batch)
        for name, node in self.model.nodes.items():
            encoder = node if isinstance(node, Encoder) else None
            for entry, spec in node.example(name, self.global_batch).items():
                field = f"model.nodes.{name}"
                if entry not in batch:
                    missing = f"reads the batch entry {entry!r}, which no transform makes"
                    yield field, f"{missing}{suggest(entry, batch)}"
                elif not _fits(batch[entry][0], spec.shape, encoder):
                    made, wanted = batch[entry][0][1:], spec.shape[1:]
                    patches = encoder is not None and encoder.any_length
                    remedy = "; use patchify with its patch_size" if patches else ""
                    if entry == "image" and not patches:
                        remedy = self._size_remedy(wanted[0], made[0])
                    yield field, f"is made for {wanted}, but the data gives {made}{remedy}"
        for name, objective in self.objectives.items():
            for entry in objective.batch_entries():
                if entry not in batch:
                    missing = f"needs the batch entry {entry!r}, which no transform makes"
                    yield f"objectives.{name}", f"{missing}{suggest(entry, batch)}"

    def _size_remedy(self, wanted: int, size: int) -> str:
        """The option that sets the size of images in the model and in the transforms."""
        if {node.image_size for node in image_encoders(self).values()} == {wanted}:
            return f"; --image_size {wanted} sets model and transforms, or another size both"
        fields = [
            f"--data.{name}.{i}.size"
            for name in ("train_transforms", "eval_transforms")
            for i, transform in enumerate(getattr(self.data, name))
            if getattr(transform, "size", None) == size
        ]
        return f"; set {' and '.join(fields)}" if fields else ""

    def _group_problems(self) -> Iterator[tuple[str, str]]:
        """Groups that no objective trains, and objectives that train a group that is not there."""
        for name, objective in self.objectives.items():
            for trained in objective.trains:
                if trained not in self.groups:
                    unknown = f"no group {trained!r} in groups{suggest(trained, self.groups)}"
                    yield f"objectives.{name}.trains", unknown
        for name, group in self.groups.items():
            if not any(not o.trains or name in o.trains for o in self.objectives.values()):
                yield f"groups.{name}", "no objective trains it; name it in an objective's trains"
            if group.start >= self.steps:
                never = f"is {group.start}, and the run has {self.steps} steps: it is never trained"
                yield f"groups.{name}.start", f"{never}; lower it, or raise steps"
                continue
            left = self.steps - group.start
            if group.optim is not None:
                for field_name, message in group.optim.schedule.problems_in(left):
                    yield f"groups.{name}.optim.schedule.{field_name}", message
            elif group.start and [*self.optim.schedule.problems_in(left)]:
                yield (
                    f"groups.{name}.start",
                    f"optim.schedule does not fit the {left} steps after it; lower start, shorten"
                    " the schedule's warm-up, or give the group an optim of its own",
                )

    def _guard_problems(self) -> Iterator[tuple[str, str]]:
        if self.guard_drop is not None and self.guard_drop < 0:
            yield "guard_drop", f"must be at least 0, or None for no limit, not {self.guard_drop}"
        if self.guard is None:
            if self.guard_drop is not None:
                yield "guard_drop", "does nothing without a guard; set guard to an evaluator's name"
            return
        evaluator = self.evaluators.get(self.guard)
        if evaluator is None:
            unknown = f"no evaluator {self.guard!r} in evaluators"
            yield "guard", f"{unknown}{suggest(self.guard, self.evaluators)}"
        elif self.guard_drop is not None and not evaluator.headline:
            yield "guard", f"{evaluator.type_name} has no headline metric; guard another evaluator"
        if not self.evaluate_first:
            yield "guard", "compares with the values before the first step; set evaluate_first"

    def notes(self) -> Iterator[tuple[str, str]]:
        read = {s for node in self.model.nodes.values() for s in node.streams_read()}
        read |= {stream_of(name) for o in self.objectives.values() for name in o.reads()}
        for name, node in self.model.nodes.items():
            streams = [product for product in node.makes(name) if "/" not in product]
            if self.objectives and streams and not read & set(streams):
                yield f"model.nodes.{name}", "neither a node nor an objective reads it"

    def _similarity_problems(self) -> Iterator[tuple[str, str]]:
        trained = {o.similarity for o in self.objectives.values() if isinstance(o, Contrastive)}
        for field_name in ("evaluators", "final_evaluators"):
            for name, evaluator in getattr(self, field_name).items():
                measured = evaluator.similarity
                if measured and trained and measured not in trained:
                    path = f"{field_name}.{name}.similarity"
                    yield path, f"is {measured}, but the objectives use {'/'.join(sorted(trained))}"

    def _decision_problems(self) -> Iterator[tuple[str, str]]:
        for name, objective in self.objectives.items():
            if not isinstance(objective, Classification) or objective.loss == "softmax":
                continue
            node = stream_of(objective.logits)
            if isinstance(self.model.nodes.get(node), fusion.Decision):
                yield (
                    f"objectives.{name}.loss",
                    f"{objective.loss} lets several classes be right, but the rules of {node!r}, a"
                    " decision, are for one; set it to softmax",
                )

    def _name_problems(self) -> Iterator[tuple[str, str]]:
        """Evaluators whose metrics have the same name and would overwrite each other."""
        seen: dict[str, str] = {}
        for path, prefix in self.evaluator_prefixes().items():
            if "/" in path:
                yield path, "the name holds '/', which separates the parts of metric names"
            other = seen.setdefault(prefix, path)
            if other != path:
                remedy = f"rename one in the recipe, or drop one: --{path} none"
                yield path, f"and {other} both measure {prefix!r}; {remedy}"

    def evaluator_prefixes(self) -> dict[str, str]:
        """What the metric names of each evaluator begin with, by the path of its recipe field.

        It is `EVALUATOR/DATASET/SPLIT`. EVALUATOR is the type's name; or, where two of a type
        measure the same split of a data set, the evaluator's own name in the recipe.
        """
        measured = {
            path: f"{evaluator.source.dataset}/{evaluator.source.split_name}"
            for path, evaluator in self.all_evaluators.items()
        }
        by_type = {p: f"{e.type_name}/{measured[p]}" for p, e in self.all_evaluators.items()}
        count = Counter(by_type.values())
        return {
            path: prefix if count[prefix] == 1 else f"{path.split('.', 1)[1]}/{measured[path]}"
            for path, prefix in by_type.items()
        }

    def question_answering(self, targets: str = "answer") -> QuestionAnswering | None:
        """How the model answers questions about images; None if no objective trains it to.

        Args:
          targets: the batch entry that the model is trained to predict from the image and the entry
            `question`.
        """
        tokenizer = self.data.tokenizer_name("question")
        if tokenizer is None or targets not in self.data.vocabularies():
            return None
        for objective in self.objectives.values():
            if isinstance(objective, Classification) and objective.targets == targets:
                return QuestionAnswering(targets, objective.logits, objective.loss, tokenizer)
        return None

    @property
    def all_evaluators(self) -> dict[str, Evaluator]:
        """Evaluators by the path of their recipe field."""
        both = {"evaluators": self.evaluators, "final_evaluators": self.final_evaluators}
        return {f"{k}.{name}": e for k, group in both.items() for name, e in group.items()}


class QuestionAnswering(NamedTuple):
    """What of a model answers questions, see `Run.question_answering`."""

    targets: str
    """The batch entry whose vocabulary holds the answers."""
    logits: str
    """The output with a score for each answer."""
    loss: Literal["softmax", "sigmoid"]
    """What the scores were trained with: it turns them into probabilities."""
    tokenizer: str
    """The name of the tokenizer of questions."""


def _fits(made: tuple[int, ...], wanted: tuple[int, ...], encoder: Encoder | None) -> bool:
    """Whether a batch entry fits a node: of any length, or several of an example, if it says so."""
    if encoder is not None and encoder.several and len(made) == len(wanted) + 1:
        made = made[1:]
    first = 2 if encoder is not None and encoder.any_length else 1
    return len(made) == len(wanted) and made[first:] == wanted[first:]


@dataclass(frozen=True)
class Prepared:
    """A checked run with its model, task and shapes; nothing is computed or compiled yet."""

    run: Run
    mesh: Mesh
    model: Model
    task: Task
    shapes: TrainState
    """The state as `jax.ShapeDtypeStruct` with shardings."""
    notes: list[str]
    """Notes on the recipe for the user, see `config.notes`."""

    @property
    def platform(self) -> str:
        """The platform that the mesh targets: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform


def build_model(run: Run, mesh: Mesh) -> Model:
    """The model of a run as it is computed on a mesh."""
    platform = mesh.devices.flat[0].platform
    precision = run.precision.resolve(platform)
    compute = Compute(
        jnp.dtype(precision.compute),
        jnp.dtype(precision.params),
        constrain(mesh),
        choose(platform, mesh.size, run.attention, on_each_device(mesh)),
    )
    initial = {
        name: scalar.initial
        for objective in run.objectives.values()
        for name, scalar in objective.scalars().items()
    }
    return build(run.model, compute, initial, run.low_rank)


def prepare(run: Run, devices: Sequence[jax.Device] | None = None) -> Prepared:
    """Checks a recipe from end to end and traces its model, without computing anything.

    Args:
      run: the recipe; the example of `Run` prepares one.
      devices: the devices of the mesh: all by default, or those of a topology to compile for.

    Raises:
      UserError: for the first problem.
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
    if run.accumulate > 1 and any(node.updates_state for node in run.model.nodes.values()):
        raise UserError(
            f"accumulate: {run.accumulate} parts of a batch would each have their own statistics "
            f"({', '.join(sorted(variables.state))}); set it to 1"
        )
    place = update_shardings if run.mesh.shard_updates else parameter_shardings
    updates = place(model.axes, variables.params, mesh, run.mesh.fsdp_min_size)
    task = Task(
        model,
        run.objectives,
        run.optim,
        run.steps,
        run.accumulate,
        mesh,
        named_groups=run.groups,
        low_rank=run.low_rank,
    )
    _check_groups(task, variables)
    shapes = jax.eval_shape(lambda v: create(v, task), variables)
    placed = shardings(shapes, task, mesh, run.mesh.fsdp_min_size, updates)
    task = dataclasses.replace(task, shardings=placed.params, updates=updates)
    return Prepared(run, mesh, model, task, abstract(shapes, placed), config.notes(run))


def check_trains(prepared: Prepared) -> None:
    """Raises UserError if a run has no objective to train on."""
    if not prepared.run.objectives:
        raise UserError("objectives: a run needs at least one")


# --- Image size -----------------------------------------------------------------------------------


def image_encoders(run: Run) -> dict[str, Any]:
    """The encoders with an `image_size`, by name."""
    return {name: e for name, e in run.model.encoders.items() if hasattr(e, "image_size")}


def with_image_size(run: Run, size: int) -> Run:
    """The run with images of another size: in the model, and in all transforms of its data.

    The last transform with a size gives images that size. Sizes before it change in proportion, as
    that of a `Resize` to 256 before a `CentreCrop` of 224. Learned positions of a model at
    `init.path` are resized if the new size needs others.

    Args:
      run: the recipe.
      size: height and width of images, in pixels.

    Raises:
      UserError: if the model has no image encoder or several of different sizes, takes images of
        any size, or has a patch size that does not divide the new size.

    >>> quickstart = config.load("configs/quickstart.py", Run)  # doctest: +SKIP
    >>> run = with_image_size(quickstart, 120)  # doctest: +SKIP
    >>> run.model.nodes["image"].image_size, run.data.eval_transforms[1].size  # doctest: +SKIP
    (120, 120)
    >>> [t.size for t in run.data.train_transforms[1:3]]  # 66 and 60 before  # doctest: +SKIP
    [132, 120]
    """
    found = image_encoders(run)
    if not found:
        raise UserError("--image_size: the model has no encoder with an image_size")
    for name, encoder in found.items():
        if encoder.any_length:
            raise UserError(
                f"--image_size: model.nodes.{name} ({encoder.type_name}) takes images of any size;"
                " set the number of patches, `lengths` of patchify in data.train_transforms and"
                " data.eval_transforms"
            )
    if len({encoder.image_size for encoder in found.values()}) > 1:
        both = " and ".join(
            f"--model.nodes.{n}.image_size {e.image_size}" for n, e in found.items()
        )
        raise UserError(
            f"--image_size: the image encoders have different sizes ({both}); set each, and the"
            " sizes of their transforms"
        )
    nodes, init = dict(run.model.nodes), run.init
    for name, encoder in found.items():
        if size != encoder.image_size:
            _check_divides(name, encoder, size)
        made = nodes[name] = dataclasses.replace(encoder, image_size=size)
        table = isinstance(made, encoders.ViT) and made.positions == "learned"
        if table and init.path is not None and made.table_grid != encoder.table_grid:
            init = dataclasses.replace(init, resize=True)
    data = _with_sizes(run.data, size)
    model = dataclasses.replace(run.model, nodes=nodes)
    return dataclasses.replace(run, model=model, data=data, init=init)


def _check_divides(name: str, encoder: Any, size: int) -> None:
    cell = max(1, getattr(encoder, "patch_size", 1) * getattr(encoder, "merge", 1))
    if size % cell:
        below = size // cell * cell
        near = f"{below} or {below + cell}" if below else str(cell)
        raise UserError(
            f"--image_size: {size} pixels are not a multiple of {cell}, the size of a patch of"
            f" model.nodes.{name}; use {near}"
        )


def _with_sizes(value: Any, size: int) -> Any:
    """A part of a recipe with another size in all sequences of transforms, such as of mixtures."""
    if isinstance(value, tuple):
        sizes = [t.size for t in value if _sets_size(t)]
        return tuple(
            dataclasses.replace(each, size=max(1, round(each.size * size / max(1, sizes[-1]))))
            if _sets_size(each)
            else _with_sizes(each, size)
            for each in value
        )
    if isinstance(value, dict):
        return {name: _with_sizes(each, size) for name, each in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    changed = {k: new for k, old in fields.items() if (new := _with_sizes(old, size)) != old}
    return dataclasses.replace(value, **changed) if changed else value


def _sets_size(value: Any) -> bool:
    """Whether it is a transform that gives images its `size`."""
    is_transform = isinstance(value, Transform) and value.moves_pixels
    return is_transform and isinstance(getattr(value, "size", None), int)


# --- Memory of a step -----------------------------------------------------------------------------

_STATE = {"params": "parameters", "average": "moving average", "optimizer": "optimizer state"}
# A step whose state and batch take less than this share of the memory is not worth tracing.
_SMALL = 0.01


def state_bytes(prepared: Prepared) -> dict[str, int]:
    """The bytes of training state and gradients on each device, by kind."""
    shapes, groups = prepared.shapes, prepared.task.groups
    gradients = jax.tree.map(_with_sharding, shapes.params, prepared.task.updates)
    trained = [prepared.task.trained(group, gradients) for group in groups]
    state = {
        _STATE.get(name, name): bytes_per_device(part)
        for name, part in shapes._asdict().items()
        if isinstance(part, dict) and part
    }
    return {**state, "gradients": bytes_per_device(trained)}


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def step_bytes(prepared: Prepared) -> dict[str, int]:
    """The bytes of a batch, and of what a step saves for its gradient, on each device.

    The model is traced forward and backward, which takes about a second. `saved activations` is
    what the backward pass of all nodes reads besides parameters, evenly over all devices. It is an
    estimate: the compiler may compute some of it again, and a step needs further buffers.
    """
    run, task, shapes = prepared.run, prepared.task, prepared.shapes
    rows, devices = run.global_batch // run.accumulate, prepared.mesh.size

    def saved(variables: Variables, batch: dict[str, jax.Array]) -> list[jax.Array]:
        trained: dict[str, Any] = {}
        for group in task.groups:
            trained = parameters.union(trained, task.trained(group, variables.params))

        def forward(trained: dict[str, Any]) -> dict[str, jax.Array]:
            merged = Variables(parameters.merge(variables.params, trained), variables.state)
            call = Call(True, jnp.arange(rows), jax.random.key(0))
            outputs: dict[str, jax.Array] = task.model.apply(merged, batch, call)[0]
            return outputs

        _, backward = jax.vjp(forward, trained)
        # Several operations may read one array.
        return list({id(leaf): leaf for leaf in jax.tree.leaves(backward)}.values())

    variables = jax.tree.map(_plain, Variables(shapes.params, shapes.state))
    found = jax.eval_shape(saved, variables, example_batch(run.model, rows))
    # Parameters are among what is read, also those of one layer of a scan.
    known = {leaf.shape for leaf in jax.tree.leaves(shapes.params)}
    known |= {shape[1:] for shape in known}
    batch = run.data.batch_spec(1).values()
    return {
        "batch": sum(math.prod(shape[1:]) * kind.itemsize for shape, kind in batch)
        * (run.global_batch * prepared.mesh.shape["tensor"] // devices),
        "saved activations": sum(
            leaf.size * leaf.dtype.itemsize for leaf in found if leaf.shape not in known
        )
        // devices,
    }


def _plain(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def memory_notes(prepared: Prepared, step: Mapping[str, int] | None = None) -> list[str]:
    """What a run needs in memory, if this machine computes it and seems to have too little.

    Args:
      prepared: the run.
      step: `step_bytes(prepared)`, if it is known.
    """
    if prepared.platform != "cpu":
        return []
    if (problem := _state_problem(prepared)) is not None:
        return [problem]
    memory, devices = host_memory(), len(prepared.mesh.local_devices)
    held = devices * sum(state_bytes(prepared).values())
    if step is None:
        arrays = prepared.run.data.batch_spec(prepared.run.global_batch).values()
        batch = sum(math.prod(shape) * kind.itemsize for shape, kind in arrays)
        if held + batch < _SMALL * memory:
            return []
        step = step_bytes(prepared)
    needed = held + devices * sum(step.values())
    if needed <= memory:
        return []
    return [
        f"global_batch: a step needs about {format_bytes(needed)} ({format_bytes(held)} of them for"
        f" state and gradients), and this machine has {format_bytes(memory)} of memory: training"
        " may be killed; lower global_batch or raise accumulate"
    ]


def _state_problem(prepared: Prepared) -> str | None:
    if prepared.platform != "cpu":
        return None
    memory, devices = host_memory(), len(prepared.mesh.local_devices)
    held = devices * sum(state_bytes(prepared).values())
    if held <= memory:
        return None
    return (
        f"model: parameters, optimizer state and gradients take {format_bytes(held)}, and this"
        f" machine has {format_bytes(memory)} of memory; train on accelerators or on more machines,"
        " or make the model smaller"
    )


def check_memory(prepared: Prepared) -> list[str]:
    """The notes of `memory_notes`, for a run that is about to start.

    Raises:
      UserError: if state and gradients alone do not fit into the memory of this machine.
    """
    if (problem := _state_problem(prepared)) is not None:
        raise UserError(problem)
    return memory_notes(prepared)


def check_data(prepared: Prepared, most: int = 200) -> list[str]:
    """Reads a sample of the training data, and checks that a run can use it.

    Args:
      prepared: the run.
      most: largest number of examples to read.

    Returns:
      Notes for the user, such as the number of examples that cannot be used.

    Raises:
      UserError: if the data cannot be opened, more than `data.max_rejected_share` of the examples
        cannot be used, too many answers are not in the vocabulary, or a label has no class.
    """
    run = prepared.run
    batch = run.data.batch_spec(1)
    labels = {
        name: objective
        for name, objective in run.objectives.items()
        if isinstance(objective, Classification)
        and np.issubdtype(batch[objective.targets][1], np.integer)
    }
    keep = {objective.targets for objective in labels.values()}
    sample = read_sample(run.data, seed=run.seed, most=most, keep=keep)
    for name, objective in labels.items():
        _check_labels(run, name, objective, sample)
    if not sample.rejected:
        return [*sample.notes]
    bad, first = len(sample.rejected), sample.rejected[0]
    kinds = counts_by_kind(Counter(each.kind for each in sample.rejected))
    found = f"{bad:,} of {sample.examples:,} sampled examples cannot be used"
    why = f"({kinds}; such as {first.source}/{first.index}: {first.reason})"
    limit = run.data.max_rejected_share
    if limit < 1 and (bad == sample.examples or exceeds_limit(bad, sample.examples, limit)):
        raise UserError(
            f"data.max_rejected_share: {found}, more than {limit:.3g} of them {why};"
            " repair the data, or raise the limit"
        )
    return [*sample.notes, f"data.source: {found} {why}"]


def open_evaluation_data(run: Run, path: str, evaluator: Evaluator) -> EvaluationSet:
    """Opens the data of an evaluator and checks that the evaluator can measure it.

    Args:
      run: the recipe.
      path: the recipe field of the evaluator, such as `evaluators.retrieval`.
      evaluator: the evaluator.

    Raises:
      UserError: if the data cannot be opened, or lacks what the evaluator needs; it has the
        field.
    """
    data = EvaluationSet(run.data, evaluator.source)
    check_evaluation_data(data, path, evaluator)
    return data


def check_evaluation_data(data: EvaluationSet, path: str, evaluator: Evaluator) -> None:
    """Opens all sources of an evaluator and checks that the evaluator can measure them.

    Args:
      data: the examples of the source that it measures.
      path: the recipe field of the evaluator, such as `evaluators.retrieval`.
      evaluator: the evaluator.

    Raises:
      UserError: as `open_evaluation_data` does.
    """
    for name, source in evaluator.sources.items():
        with _named(path, f"{path}.{name}"):
            (data if name == "source" else data.other(source)).open()
    with _named(path, f"{path}.source"):
        evaluator.check(data)


@contextlib.contextmanager
def _named(path: str, source: str) -> Iterator[None]:
    """Names the recipe field of an evaluator, or of its source, in errors about its data."""
    try:
        yield
    except UserError as error:
        found = error_for_field(error, source)
        named = str(found).startswith(path)
        raise found if named else UserError(f"{path}: {found}") from error


def _check_labels(run: Run, name: str, objective: Classification, sample: Sample) -> None:
    """Raises UserError for labels that are not among the classes: training would ignore them."""
    node = makers(run.model.nodes)[objective.logits]
    classes = getattr(run.model.nodes[node], "classes", None)
    arrays = sample.arrays[objective.targets]
    if classes is None or not arrays:
        return
    values = np.concatenate([np.ravel(array) for array in arrays])
    outside = Counter(values[(values >= classes) | (values < -1)].tolist())
    if outside:
        shown = ", ".join(f"{value} ({n:,})" for value, n in outside.most_common(5))
        count = f"{outside.total():,} of {len(values):,} sampled values of {objective.targets!r}"
        raise UserError(
            f"objectives.{name}.targets: {count} are not among the {classes:,} classes of"
            f" {objective.logits!r}: {shown}; set model.nodes.{node}.classes to the number of"
            " classes, or correct the data"
        )


def _check_parameter_rules(run: Run, variables: Variables) -> None:
    """Checks that the optimizers' patterns match parameters and leave some to train."""
    params = variables.params
    own = {f"groups.{name}.optim": group.optim for name, group in run.groups.items()}
    for path, optim in {"optim": run.optim, **own}.items():
        if optim is None:
            continue
        parameters.match(optim.decay_rules, params, f"{path}.decay_rules")
        learning_rate_factors(optim, params)
        frozen = [(pattern, True) for pattern in optim.frozen]
        chosen = parameters.match([*frozen, (".*", False)], params, f"{path}.frozen")
        if all(all(layers) for layers in chosen.values()):
            raise UserError(f"{path}.frozen: nothing is left to train; freeze less")


def _check_outputs(run: Run, model: Model) -> Variables:
    """The shapes of the variables; checks that the model has the outputs that are read.

    Objectives and evaluators read outputs.
    """
    spec = {
        name: jax.ShapeDtypeStruct(*shape_and_type)
        for name, shape_and_type in run.data.batch_spec(1).items()
    }
    batch = {name: spec.get(name, shape) for name, shape in example_batch(run.model).items()}

    variables = model.shapes
    outputs = jax.eval_shape(lambda v, b: model.apply(v, b)[0], variables, batch)
    reads = {f"objectives.{name}": o.reads() for name, o in run.objectives.items()}
    reads |= {path: evaluator.reads() for path, evaluator in run.all_evaluators.items()}
    made = {*outputs, *model.if_wanted}
    for path, names in reads.items():
        for wanted in names:
            if wanted not in made:
                near = suggest(wanted, made)
                raise UserError(f"{path}: reads {wanted!r}, which no node makes{near}")
    asked = sorted({o for each in run.objectives.values() for o in each.reads()} - {*outputs})
    if asked:
        # Outputs that are made only if somebody wants them, such as attention.
        outputs |= jax.eval_shape(lambda v, b: model.apply(v, b, want=asked)[0], variables, batch)
    for name, objective in run.objectives.items():
        for field_name, message in objective.check(outputs, spec):
            raise UserError(f"objectives.{name}.{field_name}: {message}")
    return variables


def _check_groups(task: Task, variables: Variables) -> None:
    """Checks that each group trains something, and that no parameter is in two groups.

    Such a parameter would be updated twice per step.
    """
    owner: dict[tuple[str, ...], str] = {}
    for name in task.groups:
        _check_frozen(task, name, variables)
        field = f"groups.{name}.parameters" if task.named_groups else "low_rank"
        found = [keys for keys, _ in parameters.leaves(task.trained(name, variables.params))]
        if not found:
            why = " beside low_rank; list some in low_rank.also_train" if task.low_rank.used else ""
            raise UserError(f"{field}: nothing is left to train{why or '; freeze less'}")
        for keys in found:
            other = owner.setdefault(keys, name)
            if other != name:
                both = f"{'/'.join(keys)!r} is in the group {other!r} too"
                raise UserError(f"{field}: {both}; a parameter may be in one group only")


def _check_frozen(task: Task, group: str, variables: Variables) -> None:
    """Checks that a group's optimizer freezes nothing that `low_rank.also_train` trains."""
    params, also = variables.params, [(p, p) for p in task.low_rank.also_train]
    frozen = [(p, p) for p in task.optimizer_of(group).frozen]
    if not also or not frozen:
        return
    stays = parameters.match([*frozen, (".*", "")], params, "optim.frozen")
    trains = parameters.match([*also, (".*", "")], params, "low_rank.also_train")
    for keys, patterns in trains.items():
        for pattern, other in zip(patterns, stays[keys], strict=True):
            if pattern and other:
                raise UserError(
                    f"low_rank.also_train: {pattern!r} matches {'/'.join(keys)}, which {other!r} of"
                    " optim.frozen freezes; leave it out of one of them"
                )


def _check_vocabulary(run: Run) -> None:
    """Checks that the tokenizers of the data fit the text towers."""
    for name, encoder in run.model.encoders.items():
        used = run.data.tokenizer_name(encoder.entry_of(name))
        if getattr(encoder, "pooling", None) != "eos" or used is None:
            continue
        if not run.data.tokenizers[used].always_ends:
            why = "needs an end token in every text, also in one that is cut"
            raise UserError(f"model.nodes.{name}.pooling: eos {why}; see data.tokenizers.{used}")
    check_ids(run, recipe_tokenizers(run))


def check_ids(run: Run, tokenizers: Mapping[str, LoadedTokenizer]) -> None:
    """Raises UserError if a tokenizer has ids without an embedding, which would give NaN."""
    for name, encoder in run.model.encoders.items():
        size = getattr(encoder, "vocab_size", None)
        tokenizer = tokenizers.get(run.data.tokenizer_name(encoder.entry_of(name)) or "")
        if size is not None and tokenizer is not None and tokenizer.vocab_size > size:
            sizes = f"{size} is less than the tokenizer's {tokenizer.vocab_size} ids"
            raise UserError(f"model.nodes.{name}.vocab_size: {sizes}; set it to that")


def recipe_tokenizers(run: Run) -> dict[str, LoadedTokenizer]:
    """The tokenizers of a recipe by name, loaded, without those whose path is unset."""
    return {
        name: load_named(name, config)
        for name, config in run.data.tokenizers.items()
        if getattr(config, "path", "") is not None
    }
