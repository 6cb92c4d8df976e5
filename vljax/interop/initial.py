"""`Run.init`: the parameters of any model that vljax reads as the initial values of a new run."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vljax import config
from vljax.config import UserError
from vljax.data.records import Source
from vljax.data.tokenizers import LoadedTokenizer, Tokenizer, load_tokenizer
from vljax.data.transforms.base import Transform
from vljax.data.vocabulary import VocabularyFile
from vljax.files import join, read_user_file
from vljax.interop import exported, pretrained
from vljax.interop.checkpoints import read_trained
from vljax.interop.files.read import WEIGHTS_FILES
from vljax.interop.files.tensors import Lazy, Tensor, check_float
from vljax.interop.mapped_model import read_model
from vljax.interop.plain import RECIPE
from vljax.interop.pretrained import own_shapes
from vljax.models.assembly import Variables
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.encoders.text import TextEncoder
from vljax.models.layers.inputs import resample_positions
from vljax.models.numerics import Precision
from vljax.models.parameters import canonical_paths, leaves
from vljax.models.pretrained import InitFrom
from vljax.optim import AdamW
from vljax.run import Prepared, Run, recipe_tokenizers
from vljax.training import checkpoint
from vljax.training.checkpoint import manifest, storage
from vljax.workdir import saved_recipe, tokenizer_folder, vocabulary_file

Shape = tuple[int, ...]

_ENDINGS = (".json", ".txt", ".model", ".npz", *WEIGHTS_FILES)
"""Files of a foreign folder that make the model; others, such as a README, may change."""

_SAME_FUNCTION = ("scan", "image_size", "table_size", "context_length", "vocab_size", "dropout")
"""Fields of nodes that do not change what given parameters compute, or that shapes show."""


@dataclass(frozen=True)
class SourceModel:
    """A model that initial values come from. No array has been read yet."""

    title: str
    """What it is, for messages."""
    run: Run
    """The recipe of the model."""
    tokenizers: Mapping[str, LoadedTokenizer]
    """By their name in the recipe."""
    vocabularies: Mapping[str, bytes]
    """The content of stored vocabularies, such as that of answers, by their batch entry."""
    arrays: Mapping[str, Tensor]
    """Parameters (EMA where the run kept them) by unrolled path, and batch statistics."""
    notes: Sequence[str]
    """What the user should know."""


class Plan(NamedTuple):
    """Where the initial values of a run come from."""

    arrays: dict[str, Lazy]
    """By unrolled path. No array has been read yet."""
    report: list[str]
    """What is loaded, resized, left out and new, in a few lines."""


def read_source(path: str, field: str = "init.path") -> SourceModel:
    """The model at a path: a checkpoint, workdir, exported folder, or folder of other software.

    Args:
      path: where it is.
      field: what the user set to the path, for messages.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    try:
        return _read_source(path)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def _read_source(path: str) -> SourceModel:
    own = _own_checkpoint(path)
    if own is None:
        mapped = read_model(path)
        foreign = mapped.foreign
        folder = Path(os.path.expanduser(path))
        tokenizers = {foreign.run.data.main_tokenizer: foreign.tokenizer}
        vocabularies = {}
        if (folder / RECIPE).exists():  # an export of vljax has all tokenizers
            tokenizers = stored_tokenizers(str(folder), foreign.run)
            vocabularies = _stored_vocabularies(str(folder), foreign.run)
        return SourceModel(
            foreign.format_title,
            foreign.run,
            tokenizers,
            vocabularies,
            mapped.parameters,
            foreign.notes,
        )
    folder = checkpoint.find_intact(str(own))
    trained, notes = read_trained(folder)
    # Statistics have the kind in front of the module path.
    statistics = {name.partition("/")[2]: array for name, array in trained.statistics.items()}
    return SourceModel(
        f"step {trained.step}",
        trained.run,
        stored_tokenizers(str(folder), trained.run),
        _stored_vocabularies(str(folder), trained.run),
        {**trained.parameters, **statistics},
        notes,
    )


def stored_tokenizers(folder: str, run: Run) -> dict[str, LoadedTokenizer]:
    """The tokenizers in the folder of a checkpoint or export, by their name in its recipe."""
    return {
        name: load_tokenizer(f"{folder}/{tokenizer_folder(name)}") for name in run.data.tokenizers
    }


def _stored_vocabularies(folder: str, run: Run) -> dict[str, bytes]:
    """The vocabularies in the folder of a checkpoint or export that its recipe has in files."""
    files = {
        name: join(folder, vocabulary_file(name))
        for name, vocabulary in run.data.vocabularies().items()
        if isinstance(vocabulary, VocabularyFile)
    }
    return {name: read_user_file(file) for name, file in files.items() if config.path_exists(file)}


def _own_checkpoint(path: str) -> Any:
    """The path if it is a checkpoint or workdir of vljax, else None.

    Raises:
      UserError: if nothing is there, or a file, which lacks the description of its model.
    """
    if "://" in path:
        return storage.absolute(path)
    folder = Path(os.path.expanduser(path))
    if not os.path.exists(folder):
        raise UserError(f"no such file or folder: {path}")
    if folder.is_file():
        raise UserError(
            f"{path} is a file; name the folder of a model, or make one of a file of weights with"
            " `vljax import --recipe`"
        )
    is_own = folder.name == "checkpoints" or (folder / "checkpoints").is_dir()
    return storage.absolute(path) if is_own or (folder / manifest.NAME).exists() else None


def finetuning_run(model: SourceModel, path: str, source: Source, folder: str) -> Run:
    """A recipe that trains a model further on other data.

    Towers, heads, preprocessing, tokenizers and objectives are those of the model. The optimizer is
    AdamW with a low learning rate (Goyal et al. 2023, FLYP: 1e-5 and a weight decay of 0.1); steps
    and batch are to be set.

    Args:
      model: the model.
      path: where it is.
      source: the training examples.
      folder: where `recipe_files` are written to.

    Raises:
      UserError: if the model has no objective.
    """
    run = model.run
    if not run.objectives:
        towers = " and ".join(run.model.encoders)
        raise UserError(
            f"{path} has no objective to train on, only a tower ({towers}); use it in a recipe with"
            " two towers, as Run.pretrained"
        )
    named = {
        name: _with_path(loaded.config, join(folder, _tokenizer_file(name, loaded)))
        for name, loaded in model.tokenizers.items()
    }
    lists: dict[str, Any] = {
        field: tuple(_with_vocabulary(each, model, folder) for each in getattr(run.data, field))
        for field in ("train_transforms", "eval_transforms")
    }
    return Run(
        model=run.model,
        data=dataclasses.replace(run.data, source=source, tokenizers=named, **lists),
        objectives={
            name: dataclasses.replace(objective, trains=())
            for name, objective in run.objectives.items()
        },
        init=InitFrom(path),
        optim=AdamW(learning_rate=1e-5, b2=0.98, weight_decay=0.1),
        precision=Precision(params=run.precision.params),
        evaluate_first=True,
        steps=1,
        global_batch=1,
    )


def recipe_files(model: SourceModel) -> dict[str, bytes]:
    """Vocabularies of tokenizers, answers and the like by their path in the folder of a recipe."""
    files = {vocabulary_file(name): content for name, content in model.vocabularies.items()}
    return files | {
        _tokenizer_file(name, loaded): _vocabulary(loaded) or b""
        for name, loaded in model.tokenizers.items()
        if loaded.vocabulary_file is not None
    }


def _with_path(tokenizer: Tokenizer, path: str) -> Tokenizer:
    """The tokenizer with the path of its vocabulary, unless that is built in."""
    data = config.encode(tokenizer)
    found: Tokenizer = config.decode(Tokenizer, {**data, "path": path} if "path" in data else data)
    return found


def _with_vocabulary(transform: Transform, model: SourceModel, folder: str) -> Transform:
    """The transform with the path of its stored vocabulary, if it has one in a file."""
    changed = {
        field.name: dataclasses.replace(value, path=join(folder, vocabulary_file(entry)))
        for entry in transform.makes()[:1]
        for field in dataclasses.fields(transform)  # type: ignore[arg-type]
        if isinstance(value := getattr(transform, field.name), VocabularyFile)
        and entry in model.vocabularies
    }
    return dataclasses.replace(transform, **changed)  # type: ignore[type-var]


def _tokenizer_file(name: str, loaded: LoadedTokenizer) -> str:
    return f"{tokenizer_folder(name)}/{loaded.vocabulary_file}"


# --- Identity -------------------------------------------------------------------------------------


def pinned(run: Run) -> Run:
    """The run with the digest of the model that it starts from, which belongs to its identity.

    A workdir becomes the checkpoint of it that the run starts from: the newest one, or, for a run
    that has started, the one that it started from. A model that does not exist here is left without
    a digest: a resumed run does not need it.

    Raises:
      UserError: if the model of a new run has another digest than the recipe states.
    """
    source = run.init
    if source.path is None:
        return run
    saved = None if run.workdir is None else saved_recipe(run.workdir)
    if saved is not None and _is_checkpoint_of(saved.init.path, source.path):
        digest = source.sha256 or saved.init.sha256
        kept = dataclasses.replace(source, path=saved.init.path, sha256=digest)
        return dataclasses.replace(run, init=kept)
    path, found = _resolved(source.path)
    is_new = run.workdir is None or not checkpoint.complete_steps(run.workdir)
    if is_new and found and source.sha256 and found != source.sha256:
        raise UserError(
            f"init.sha256: {source.path} has the digest {found}, not {source.sha256}: it is another"
            " model, or another checkpoint of the run (name one: W/checkpoints/STEP)"
        )
    source = dataclasses.replace(source, path=path, sha256=source.sha256 or found)
    return dataclasses.replace(run, init=source)


def digest_of(path: str) -> str | None:
    """A digest of all files of the model at a path; None if there is no model."""
    return _resolved(path)[1]


def _is_checkpoint_of(path: str | None, workdir: str) -> bool:
    """Whether a path is a checkpoint in a workdir, or in its folder of checkpoints."""
    if path is None:
        return False
    folder = storage.absolute(path).parent
    return storage.absolute(workdir) in (folder, folder.parent)


def _resolved(path: str) -> tuple[str, str | None]:
    """The path of a model, which for a workdir is its newest checkpoint, and its digest.

    The digest is None if there is no model.
    """
    try:
        own = _own_checkpoint(path)
        if own is not None:
            # The manifest holds the digest of every other file; loading compares them.
            folder = own if (own / manifest.NAME).exists() else checkpoint.find_intact(path)
            digest = hashlib.sha256((folder / manifest.NAME).read_bytes()).hexdigest()
            return str(folder), digest
    except (UserError, OSError):
        return path, None
    return path, _digest(path)


def _digest(path: str) -> str:
    """A digest of all files of a folder that is an export or of other software."""
    folder = Path(os.path.expanduser(path))
    if exported.recognises(path):
        # It holds the digest of every other file; loading compares them.
        return hashlib.sha256((folder / exported.MANIFEST).read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in _ENDINGS and file.is_file():
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            whole.update(f"{digest}  {file.name}\n".encode())
    return whole.hexdigest()


# --- Loading --------------------------------------------------------------------------------------


def load(prepared: Prepared, report: Callable[[str], None]) -> Variables | None:
    """The initial values of a new run from `Run.init` and `Run.pretrained`; None without any.

    Args:
      prepared: the run.
      report: called with a line for each thing that the user should know.

    Raises:
      UserError: if a model or file is missing, damaged, or does not fit.
    """
    made = plan(prepared)
    for line in made.report:
        report(line)
    return pretrained.variables(prepared, {**made.arrays, **pretrained.arrays(prepared)})


def plan(prepared: Prepared, source: SourceModel | None = None) -> Plan:
    """What `Run.init` gives the parameters and statistics of a run. Reads no arrays.

    Args:
      prepared: the run.
      source: the model at `init.path`, if it has been read already.

    Raises:
      UserError: if nothing matches, shapes differ, a pattern matches nothing, a scanned stack would
        be filled in part, a tokenizer differs from the one that the model was trained with, or a
        new image size is not a multiple of the patch size.
    """
    init = prepared.run.init
    if init.path is None:
        return Plan({}, [])
    source, own = source or read_source(init.path), own_shapes(prepared)
    skipped = _skipped(init.skip, own, source.arrays)
    shared = [path for path in own if path in source.arrays and path not in skipped]
    if not shared:
        raise UserError(_nothing_matches(init.path, own, source.arrays))
    _check_tokenizers(prepared.run, source, shared)
    _check_image_sizes(prepared.run, source.run)
    arrays: dict[str, Lazy] = {}
    resized: dict[str, str] = {}
    mismatches: list[tuple[str, bool]] = []
    for path in shared:
        tensor, shape = source.arrays[path], own[path]
        check_float(path, tensor.dtype, init.path)
        if tuple(tensor.shape) == shape:
            arrays[path] = Lazy(shape, tensor.dtype, tensor.read)
            continue
        fit = _resizing(prepared.run, path, tensor, shape)
        if fit is None or not init.resize:
            mismatches.append((path, fit is not None))
            continue
        resized[path], arrays[path] = fit
    if mismatches:
        raise UserError(_mismatches(init.path, mismatches, shared, own, source.arrays))
    _check_stacks(prepared, arrays)
    left = [p for p in source.arrays if p not in arrays]
    new = [p for p in own if p not in arrays]
    counts = {"loaded": len(arrays) - len(resized), "resized": len(resized)}
    counts |= {"left out": len(left), "new": len(new)}
    what = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n or name == "loaded")
    report = [f"{init.path} ({source.title}): {what} of {len(own):,} arrays", *source.notes]
    report += [f"resized {how}" for how in resized.values()]
    report += [f"left out: {', '.join(_grouped(left))}"] if left else []
    report += [f"new, with random values: {', '.join(_grouped(new))}"] if new else []
    report += function_differences(source.run, prepared.run)
    return Plan(arrays, [f"init: {line}" for line in report])


def _skipped(patterns: Sequence[str], own: Iterable[str], there: Iterable[str]) -> set[str]:
    """The paths that the patterns match. Raises UserError for one that matches nothing."""
    every = sorted({*own, *there})
    found: set[str] = set()
    for pattern in patterns:
        try:
            matched = {path for path in every if re.fullmatch(pattern, path)}
        except re.error as error:
            raise UserError(
                f"init.skip: {pattern!r} is not a regular expression: {error}"
            ) from None
        if not matched:
            (near,) = difflib.get_close_matches(pattern, every, n=1, cutoff=0)
            raise UserError(f"init.skip: {pattern!r} matches no parameter; the nearest is {near!r}")
        found |= matched
    return found


def _nothing_matches(path: str, own: Iterable[str], there: Iterable[str]) -> str:
    tops = [", ".join(sorted({name.partition("/")[0] for name in names})) for names in (own, there)]
    return (
        f"init.path: nothing in {path} matches a parameter of this model, whose parts are"
        f" {tops[0]}; there they are {tops[1]}; give the nodes the same names, or skip less"
    )


def _mismatches(
    path: str,
    found: Sequence[tuple[str, bool]],
    shared: Sequence[str],
    own: Mapping[str, Shape],
    there: Mapping[str, Tensor],
) -> str:
    """All shapes that differ, with the options that resize them or leave them out.

    Args:
      path: the other model.
      found: the parameters of another shape, and whether they can be resized.
      shared: the parameters that both models have.
      own: the shapes here.
      there: the parameters of the other model.
    """
    rows: dict[str, str] = {}
    for name, _ in found:
        shapes = f"{list(there[name].shape)} there, {list(own[name])} here"
        rows.setdefault(f"{_any_layer(name)} is {shapes}", name)
    remedies = []
    if any(can for _, can in found):
        resizable = _grouped(name for name, can in found if can)
        remedies.append(f"--init.resize True resizes {', '.join(resizable)}")
    if rest := [name for name, can in found if not can]:
        # A part that does not fit at all needs one pattern.
        fitting = {name.partition("/")[0] for name in {*shared} - {*rest}}
        parts = (name.partition("/") for name in _grouped(rest))
        patterns = (
            re.sub(r"(?<=/)\*(?=/)", r"[0-9]+", top + slash + below)
            if top in fitting or not below
            else f"{top}/.*"
            for top, slash, below in parts
        )
        words = shlex.join(dict.fromkeys(patterns))
        remedies.append(f"--init.skip {words} leaves {'the others' if remedies else 'them'} out")
    return f"init: other shapes than in {path}: {'; '.join(rows)}: {', '.join(remedies)}"


def _check_image_sizes(run: Run, there: Run) -> None:
    """Raises UserError for another image size than the model's that does not fit its patches.

    The model may have such a size itself, as SigLIP So400m/14 at 384 pixels does. Another one is a
    slip: the next smaller multiple has as many patches, and loses nothing.
    """
    for name, node in run.model.nodes.items():
        old = there.model.nodes.get(name)
        if not isinstance(node, ViT) or not isinstance(old, ViT):
            continue
        left = node.image_size % node.patch_size
        if left and node.image_size != old.image_size:
            less = node.image_size - left
            raise UserError(
                f"model.nodes.{name}.image_size: {node.image_size} is not a multiple of the patch"
                f" ({node.patch_size}), and {left} pixels at the edges would not be used; set it"
                f" and the sizes of the transforms to {less} or {less + node.patch_size}"
            )


def _any_layer(path: str) -> str:
    return re.sub(r"(?<=/)\d+(?=/)", "*", path)


def _grouped(paths: Iterable[str]) -> list[str]:
    """Paths with `*` for the number of a layer."""
    return list(dict.fromkeys(map(_any_layer, paths)))


def _check_stacks(prepared: Prepared, arrays: Mapping[str, Lazy]) -> None:
    """Raises UserError if only some layers of a scanned stack have values."""
    for keys, leaf in leaves(prepared.shapes.params):
        paths = canonical_paths(keys, leaf.shape)
        missing = [path for path in paths if path not in arrays]
        if 0 < len(missing) < len(paths):
            raise UserError(
                f"init: {prepared.run.init.path} gives values to only some layers of"
                f" {'/'.join(keys)}, not to {missing[0]}; set --model.nodes.{keys[0]}.scan False"
            )


def function_differences(there: Run, here: Run) -> list[str]:
    """The fields of nodes that make the same parameters compute something else."""
    lines = []
    for name, node in here.model.nodes.items():
        if name not in there.model.nodes:
            continue
        for field, old, new in config.differences(there.model.nodes[name], node):
            if field.partition(".")[0] not in _SAME_FUNCTION:
                lines.append(f"model.nodes.{name}.{field} is {old!r} there, {new!r} here")
    return lines


# --- Resizing -------------------------------------------------------------------------------------


def _resizing(run: Run, path: str, tensor: Tensor, shape: Shape) -> tuple[str, Lazy] | None:
    """How an array is fitted to another shape, in words, and the result; None if it cannot be."""
    name, _, part = path.partition("/")
    node, old = run.model.nodes.get(name), tuple(tensor.shape)
    if len(old) != 2 or len(shape) != 2 or old[1] != shape[1]:
        return None
    fit: Callable[[np.ndarray], np.ndarray]
    if isinstance(node, ViT) and part == "positions":
        sides = math.isqrt(old[0]), math.isqrt(shape[0])
        if sides[0] ** 2 != old[0]:
            return None
        how = f"{sides[0]} x {sides[0]} to {sides[1]} x {sides[1]} ({node.position_filter})"

        def fit(table: np.ndarray) -> np.ndarray:
            made = resample_positions(jnp.asarray(table), sides[1], sides[1], node.position_filter)
            return np.asarray(made)

    elif isinstance(node, TextTransformer) and part == "positions" and shape[0] < old[0]:
        how = f"{old[0]} to the first {shape[0]}"

        def fit(table: np.ndarray) -> np.ndarray:
            return table[: shape[0]]

    elif isinstance(node, TextEncoder) and part == "embedding":
        more = "the new ones have their mean" if shape[0] > old[0] else "the last ones are left out"
        how = f"{old[0]:,} rows to {shape[0]:,}; {more}"

        def fit(table: np.ndarray) -> np.ndarray:
            count = max(0, shape[0] - old[0])
            # The usual start for new tokens: it hardly changes what the model gives other texts.
            mean = np.repeat(table.mean(axis=0, dtype=np.float32)[None], count, axis=0)
            return np.concatenate([table[: shape[0]], mean.astype(table.dtype)])

    else:
        return None
    return f"{path}: {how}", Lazy(shape, tensor.dtype, lambda: fit(tensor.read()))


# --- Tokenizers -----------------------------------------------------------------------------------

_PROBES = (
    "a photo of a cat",
    "Two  DOGS, running!\n3.14 € (it's)",
    "na\u00efve caf\u00e9 \u2013 \u65e5\u672c\u8a9e \U0001f642",
)
"""Texts that tokenizers with other cleaning or other rules turn into other ids."""


def _check_tokenizers(run: Run, source: SourceModel, shared: Sequence[str]) -> None:
    """Raises UserError if loaded token embeddings belong to another tokenizer than the recipe's."""
    for encoder, used, why in embedding_differences(run, recipe_tokenizers(run), source, shared):
        raise UserError(
            f"data.tokenizers.{used}: differs from the one of {run.init.path}: {why}; use that"
            f" one, or train new embeddings of tokens with --init.skip {encoder}/embedding"
        )


def embedding_differences(
    run: Run, own: Mapping[str, LoadedTokenizer], source: SourceModel, shared: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Shared token embeddings that belong to other tokenizers in two models.

    Args:
      run: the recipe of one model.
      own: its tokenizers by name.
      source: the other model.
      shared: the paths of the parameters that both have.

    Yields:
      The encoder, the name of its tokenizer in the recipe, and how the tokenizers differ.
    """
    for name, encoder in run.model.encoders.items():
        there = source.run.model.encoders.get(name)
        if f"{name}/embedding" not in shared or there is None:
            continue
        used = run.data.tokenizer_name(encoder.entry_of(name)) or ""
        before = source.run.data.tokenizer_name(there.entry_of(name)) or ""
        if used not in own or before not in source.tokenizers:
            continue
        if why := tokenizer_difference(source.tokenizers[before], own[used]):
            yield name, used, why


def tokenizer_difference(old: LoadedTokenizer, new: LoadedTokenizer) -> str | None:
    """Why embeddings for one tokenizer do not fit another; None if they do.

    They do if both give the same ids, or if the new vocabulary has all tokens of the old one under
    the same ids, and more.

    >>> from vljax.data.tokenizers import Clip
    >>> tokenizer_difference(Clip().load(), Clip(context_length=16).load())
    >>> tokenizer_difference(Clip().load(), Clip(cleaning="none").load())
    "cleaning is 'clip' there, 'none' here"
    """
    differing = [
        f"{field} is {was!r} there, {now!r} here"
        for field, was, now in config.differences(old.config, new.config)
        if field not in ("context_length", "truncation")
    ]
    if _vocabulary(old) == _vocabulary(new) and not differing:
        return None
    same_kind = type(old) is type(new)
    # Other kinds mark spaces and parts of words in other ways; the probes below compare them.
    before, after = (
        each.pieces() if same_kind else [text.strip() for text in each.token_texts()]
        for each in (old, new)
    )
    for token, text in enumerate(before):
        if token >= len(after):
            return f"it has {len(before):,} tokens there, {len(after):,} here"
        if text != after[token]:
            return f"the token {token} is {text!r} there, {after[token]!r} here"
    if len(after) > len(before) and differing:
        return differing[0]
    probes = [*_PROBES, *_vocabulary_probes(old, ascii_only=not same_kind)]
    for probe, was, now in zip(probes, _ids(old, probes), _ids(new, probes), strict=True):
        # A longer vocabulary may write a text with its new tokens.
        if was != now and max(now) < len(before):
            if differing:
                return differing[0]
            return f"{_first_word(old, new, probe)!r} has other ids there than here"
    return None


def _vocabulary_probes(tokenizer: LoadedTokenizer, *, ascii_only: bool) -> list[str]:
    """Texts of up to 4,096 tokens, spread over a vocabulary."""
    texts = [
        text for text in tokenizer.token_texts() if text.isprintable() and "\ufffd" not in text
    ]
    words = [text for text in texts if text.strip() and (text.isascii() or not ascii_only)]
    words = words[:: max(1, len(words) // 4096)]
    return [" ".join(words[i : i + 16]) for i in range(0, len(words), 16)]


def _first_word(old: LoadedTokenizer, new: LoadedTokenizer, text: str) -> str:
    """The first word that two tokenizers turn into other ids; the text if none does by itself."""
    words = text.split()
    rows = zip(words, _ids(old, words), _ids(new, words), strict=True)
    return next((word for word, was, now in rows if was != now), text)


def _vocabulary(tokenizer: LoadedTokenizer) -> bytes | None:
    name = tokenizer.vocabulary_file
    return None if name is None else tokenizer.files()[name]


def _ids(tokenizer: LoadedTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts, however long the context is, between one begin and one end token."""
    wide = dataclasses.replace(tokenizer.config, context_length=1024)
    ids, mask = wide.load_vocabulary(_vocabulary(tokenizer) or b"")(texts)
    pad = tokenizer.special.pad
    return [[*row[real].tolist(), pad] for row, real in zip(ids, mask, strict=True)]
