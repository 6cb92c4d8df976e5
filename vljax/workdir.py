"""The workdir of a run: `run.json`, the files of a checkpoint beside its arrays, and resuming.

A workdir belongs to one recipe and one set of data: another recipe, or changed data, is refused.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from vljax import config
from vljax.config import UserError
from vljax.data.pipeline.pipeline import stream_fingerprint
from vljax.data.pipeline.preprocessing import preprocessing
from vljax.data.tokenizers import LoadedTokenizer
from vljax.data.transforms.text import Tokenize
from vljax.data.vocabulary import VocabularyFile, terms
from vljax.files import parse_json, read_user_file
from vljax.parallel.processes.agreement import broadcast
from vljax.parallel.processes.start import is_first
from vljax.run import Prepared, Run, recipe_tokenizers
from vljax.training import checkpoint
from vljax.training.checkpoint import Checkpointer, storage
from vljax.training.state import TrainState

Files = Callable[[int], dict[str, bytes]]

FORMAT_VERSION = 2

LOCK = ".lock"
"""Held by the run that writes to a local workdir."""


def facts(run: Run) -> dict[str, str]:
    """Name -> value of what must be equal in all processes: versions and fields of the recipe.

    Paths of data may differ between hosts; `resume` compares the data found there.
    """
    recipe = _flat(config.encode(run))
    per_host = {path for path, _ in config.paths(run)} - {"workdir"} | {"init.path"}
    per_host |= {f"pretrained.{name}.path" for name in run.pretrained}
    same = {
        path: value
        for path, value in recipe.items()
        if not any(path == p or path.startswith(f"{p}.") for p in per_host)
        and not path.startswith("distributed.")
    }
    return {**same, **_versions(), "revision of vljax": str(_revision())}


def _flat(data: Any, path: str = "") -> dict[str, str]:
    if not isinstance(data, dict | list):
        return {path: repr(data)}
    flat: dict[str, str] = {}
    for key, item in data.items() if isinstance(data, dict) else enumerate(data):
        flat |= _flat(item, f"{path}.{key}" if path else str(key))
    return flat


def refuse_another_recipe(workdir: str, run: Run) -> None:
    """Raises UserError if the workdir belongs to a run of another recipe.

    Compares with the recipe of the newest readable checkpoint, or with `run.json` if there is none.
    More steps than there extend the run.
    """
    broadcast("recipe", lambda: check_recipe(workdir, run))


def check_recipe(workdir: str, run: Run) -> str:
    """`refuse_another_recipe` in this process alone; returns "". A run may get more steps."""
    saved = saved_recipe(workdir)
    if saved is not None:
        run = _with_digests(run, saved)
        if saved.steps < run.steps:
            saved = dataclasses.replace(saved, steps=run.steps)
    different = [] if saved is None else config.differences(saved, run)
    if different:
        shown = "; ".join(
            f"{k} is {there!r} there, {here!r} here" for k, there, here in different[:3]
        )
        more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"{workdir} holds a run of another recipe ({shown}{more}); use another --workdir"
        )
    return ""


def _with_digests(run: Run, saved: Run) -> Run:
    """The run with the digests of its initial values, whose files may no longer exist."""
    known = {
        name: dataclasses.replace(source, sha256=source.sha256 or saved.pretrained[name].sha256)
        if name in saved.pretrained
        else source
        for name, source in run.pretrained.items()
    }
    init = run.init
    if init.path is not None and init.sha256 is None:
        init = dataclasses.replace(init, sha256=saved.init.sha256)
    return dataclasses.replace(run, pretrained=known, init=init)


def saved_recipe(workdir: str) -> Run | None:
    """The recipe of the newest readable checkpoint, or else of `run.json`; None without any."""
    for step in reversed(checkpoint.complete_steps(workdir)):
        folder = checkpoint.step_folder(workdir, step)
        try:
            content = checkpoint.read_file(folder, "recipe.json")
        except UserError:
            continue  # damaged; restoring skips it with a warning
        return decode_recipe(json.loads(content), f"{folder}/recipe.json")
    file = epath.Path(workdir) / "run.json"
    try:
        return decode_recipe(json.loads(file.read_text())["recipe"], str(file))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing is saved that could be lost


def read_recipe(path: str) -> Run:
    """The recipe in a JSON file: `run.json` of a workdir, or `recipe.json`.

    Raises:
      UserError: if the file is missing or is not a recipe.

    >>> read_recipe("no/run.json")
    Traceback (most recent call last):
    vljax.config.UserError: no/run.json: cannot be read (No such file or directory)
    """
    try:
        data = parse_json(read_user_file(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    whole = isinstance(data, dict) and isinstance(data.get("recipe"), dict)
    return decode_recipe(data["recipe"] if whole else data, path)


def decode_recipe(data: Any, where: str) -> Run:
    """A stored recipe. Raises UserError if this version of vljax cannot read it."""
    try:
        current = _current(data)
    except (AttributeError, KeyError, TypeError, ValueError):
        current = data  # not of an earlier version, but damaged: decoding names the field
    try:
        run: Run = config.decode(Run, current)
    except UserError as error:
        raise UserError(f"{where}: not a recipe of this version of vljax ({error})") from None
    return run


def _current(recipe: Any) -> Any:
    """A stored recipe in the form of this version.

    Before, a model had `encoders` and `heads` in place of nodes, objectives named the pattern of
    the parameters that they train in place of groups, and `cross_attention` had a field
    `co_attention`.
    """
    if not isinstance(recipe, dict):
        return recipe
    recipe = dict(recipe)
    model = recipe.get("model")
    if isinstance(model, dict) and "encoders" in model:
        recipe["model"] = {"nodes": {**model["encoders"], **model.get("heads", {})}}
    model = recipe.get("model")
    if isinstance(model, dict) and isinstance(model.get("nodes"), dict):
        recipe["model"] = {**model, "nodes": _without_unset_co_attention(model["nodes"])}
    objectives = recipe.get("objectives", {})
    patterns = [o["trains"] for o in objectives.values() if isinstance(o, dict) and "trains" in o]
    if patterns and all(isinstance(pattern, str) for pattern in patterns):
        # The number of a pattern was the name under which its optimizer state is stored.
        names = {pattern: str(i) for i, pattern in enumerate(dict.fromkeys(patterns))}
        alone = [*names] == [".*"]
        recipe["groups"] = {} if alone else {n: {"parameters": p} for p, n in names.items()}
        recipe["objectives"] = {
            name: {**o, "trains": [] if alone else [names[o["trains"]]]}
            for name, o in objectives.items()
        }
    return _current_data(recipe)


def _without_unset_co_attention(nodes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {field: value for field, value in node.items() if (field, value) != _NO_CO_ATTENTION}
        if isinstance(node, dict)
        else node
        for name, node in nodes.items()
    }


_NO_CO_ATTENTION = ("co_attention", False)


def _current_data(data: Any) -> Any:
    """The data of a stored recipe with the fields of this version.

    Before data had several tokenizers, it had one, and texts were tokenized after all transforms.
    """
    if not isinstance(data, dict) or not isinstance(data.get("data"), dict):
        return data
    stored = dict(data["data"])
    if "tokenizer" not in stored:
        return data
    stored["tokenizers"] = {"text": stored.pop("tokenizer")}
    tokenize = config.encode(Tokenize())
    for field in ("train_transforms", "eval_transforms"):
        stored[field] = [*stored[field], tokenize]
    parts = stored["source"].get("parts", {})
    if parts:
        parts = {
            name: {**part, "transforms": [*part["transforms"], tokenize]}
            if part["transforms"]
            else part
            for name, part in parts.items()
        }
        stored["source"] = {**stored["source"], "parts": parts}
    return {**data, "data": stored}


def describe(workdir: str, prepared: Prepared) -> None:
    """Writes `run.json`: the recipe, devices, versions and revision."""
    if is_first():
        storage.write(epath.Path(workdir) / "run.json", description(prepared))


def description(prepared: Prepared) -> bytes:
    """The content of `run.json`."""
    return _json({"recipe": config.encode(prepared.run), **_environment(prepared)})


def _versions() -> dict[str, str]:
    packages = ("vljax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {name: importlib.metadata.version(name) for name in packages}


def _environment(prepared: Prepared) -> dict[str, Any]:
    devices = prepared.mesh.devices.flatten()
    return {
        "format_version": FORMAT_VERSION,
        "resolved": {
            "platform": prepared.platform,
            "precision": prepared.run.precision.resolve(prepared.platform).compute,
            "mesh": dict(prepared.mesh.shape),
            "processes": len({d.process_index for d in prepared.mesh.devices.flat}),
        },
        "devices": {"kind": devices[0].device_kind, "count": len(devices)},
        "versions": _versions(),
        "python": sys.version.split()[0],
        "revision": _revision(),
    }


def _revision() -> str | None:
    """The git revision of the source tree, with `+` if changed; None outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    folder = Path(__file__).parent
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return run.stdout.strip() or None


def checkpoint_files(prepared: Prepared) -> Files:
    """A function from a step to the files of its checkpoint: name -> content.

    Raises:
      UserError: if the data or the tokenizer cannot be opened.
    """
    run = prepared.run
    fixed = model_files(prepared, recipe_tokenizers(run))
    stream = stream_fingerprint(run.data, seed=run.seed, global_batch=run.global_batch)
    return lambda step: {**fixed, "data.json": _json({"step": step, "plan": stream})}


def model_files(prepared: Prepared, tokenizers: Mapping[str, LoadedTokenizer]) -> dict[str, bytes]:
    """The files that make a checkpoint self-sufficient, except its arrays and data position."""
    run = prepared.run
    normalisation = {name: e.preprocessing() for name, e in run.model.encoders.items()}
    files = {
        "recipe.json": config.to_json(run).encode(),
        "environment.json": _json(_environment(prepared)),
        "preprocess.json": _json({**preprocessing(run.data), "normalisation": normalisation}),
    }
    for name, vocabulary in run.data.vocabularies().items():
        if not isinstance(vocabulary, VocabularyFile) or vocabulary.path is not None:
            lines = "".join(f"{term}\n" for term in terms(vocabulary))
            files[vocabulary_file(name)] = lines.encode()
    for name, tokenizer in tokenizers.items():
        folder = tokenizer_folder(name)
        files |= {f"{folder}/{file}": content for file, content in tokenizer.files().items()}
    return files


def vocabulary_file(name: str) -> str:
    """Where a checkpoint stores the vocabulary of a batch entry."""
    return f"vocabularies/{name}.txt"


def tokenizer_folder(name: str) -> str:
    """The folder of a tokenizer in a checkpoint, by its name in the recipe.

    >>> tokenizer_folder("text"), tokenizer_folder("question")
    ('tokenizer', 'tokenizers/question')
    """
    return "tokenizer" if name == "text" else f"tokenizers/{name}"


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


def resume(prepared: Prepared, checkpointer: Checkpointer, files: Files) -> TrainState | None:
    """The state of the newest intact checkpoint, or None if the workdir has none.

    Raises:
      UserError: if the data have changed since that checkpoint, or differ between processes.
    """
    _check_data(files)
    restored = checkpointer.restore(prepared.shapes)
    if restored is None:
        return None

    def refuse_other_data() -> str:
        position = checkpointer.files(restored.step)["data.json"]
        if json.loads(position) != json.loads(files(restored.step)["data.json"]):
            raise UserError(
                f"the data have changed since step {restored.step} of {prepared.run.workdir}: "
                "restore them, or use another --workdir"
            )
        return ""

    broadcast("data of the checkpoint", refuse_other_data)
    state: TrainState = restored.state
    return state


def _check_data(files: Files) -> None:
    """Checks that all processes found the same data: paths may differ between hosts."""
    own = files(0)["data.json"].decode()
    if own != broadcast("data", lambda: own):
        raise UserError("data: differ from those of process 0; copy the same files to all hosts")
