"""Initial values of a run from checkpoints, exports and folders of other software."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.interop.conftest import unzip
from tests.interop.test_folders import quiet
from vljax import config
from vljax.commands.recipe_arguments import load_run
from vljax.config import UserError
from vljax.data.tokenizers import Clip, HuggingFace
from vljax.datasets import Builtin
from vljax.interop import initial, pretrained
from vljax.interop.convert import export_model, import_model
from vljax.interop.initial import (
    finetuning_run,
    plan,
    read_source,
    recipe_files,
    tokenizer_difference,
)
from vljax.models.encoders import EfficientNetLite
from vljax.models.layers.inputs import resample_positions
from vljax.models.pretrained import InitFrom
from vljax.recipes import BUILTIN_VOCABULARY
from vljax.run import Run, prepare
from vljax.training.checkpoint import Checkpointer, manifest
from vljax.workdir import checkpoint_files


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A CLIP that transformers wrote, also imported and exported."""
    folder = tmp_path_factory.mktemp("home")
    source = unzip("transformers_clip_a", folder / "foreign")
    import_model(str(source), str(folder / "w"), overwrite=False, report=quiet)
    for kind in ("safetensors", "npz"):
        export_model(str(folder / "w"), str(folder / kind), kind, report=quiet)
    return folder


@pytest.fixture(scope="module")
def run(home):
    """A recipe that trains this model further on the built-in data."""
    return recipe(home / "foreign", home / "recipe")


def recipe(path, folder):
    model = read_source(str(path))
    for name, content in recipe_files(model).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    made = finetuning_run(model, str(path), Builtin("train"), str(folder))
    return dataclasses.replace(made, steps=2, global_batch=8)


def parameters_of(path):
    """All parameters of a model by unrolled path."""
    return {name: array.read() for name, array in read_source(str(path)).arrays.items()}


def changed(run, *, scan=None, size=None, text=None, init=None, tokenizer=None, **nodes):
    """The run with other fields of its parts."""
    found = {**run.model.nodes}
    for name in ("image", "text"):
        if scan is not None:
            found[name] = dataclasses.replace(found[name], scan=scan)
    data = run.data
    if size is not None:
        found["image"] = dataclasses.replace(found["image"], image_size=size)
        resized = {
            field: tuple(
                dataclasses.replace(t, size=size) if hasattr(t, "size") else t
                for t in getattr(data, field)
            )
            for field in ("train_transforms", "eval_transforms")
        }
        data = dataclasses.replace(data, **resized)
    found["text"] = dataclasses.replace(found["text"], **(text or {}))
    for name, fields in nodes.items():
        found[name] = dataclasses.replace(found[name], **fields)
    if tokenizer is not None:
        own = dataclasses.replace(data.tokenizers["text"], **tokenizer)
        data = dataclasses.replace(data, tokenizers={"text": own})
    model = dataclasses.replace(run.model, nodes=found)
    source = dataclasses.replace(run.init, **(init or {}))
    return dataclasses.replace(run, model=model, data=data, init=source)


@pytest.fixture(scope="module", autouse=True)
def sources_are_read_once():
    """A model that tests share takes seconds to describe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initial, "read_source", functools.cache(initial.read_source))
        yield


_known = {}


def prepared(run):
    """The run, prepared for one device; runs that differ in `init` share the work."""
    key = config.to_json(dataclasses.replace(run, init=InitFrom()))
    if key not in _known:
        _known[key] = prepare(run, jax.devices()[:1])
    return dataclasses.replace(_known[key], run=run)


def read(run):
    """The values of the plan by path, and its report."""
    made = plan(prepared(run))
    return {path: array.read() for path, array in made.arrays.items()}, made.report


@pytest.mark.parametrize("kind", ["foreign", "w", "w/checkpoints/0", "safetensors", "npz"])
def test_every_kind_of_source_gives_the_same_values(kind, home, run):
    wanted, _ = read(run)
    made, report = read(changed(run, init={"path": str(home / kind)}))
    assert wanted.keys() == made.keys()
    assert all(np.array_equal(made[path], wanted[path]) for path in wanted)
    assert report[0].endswith("95 loaded of 95 arrays")
    assert "logit_scale" in made


def test_a_scanned_model_is_filled_by_layers(run):
    values, _ = read(run)
    of = prepared(changed(run, scan=True))
    params = initial.load(of, lambda line: None).params
    kernels = params["text"]["blocks"]["mlp"]["up"]["kernel"]
    assert kernels.shape[0] == 3
    for i in range(3):
        np.testing.assert_array_equal(kernels[i], values[f"text/blocks/{i}/mlp/up/kernel"])


def test_positions_are_resampled(run):
    before, _ = read(run)
    after, report = read(changed(run, size=48, init={"resize": True}))
    wanted = resample_positions(jnp.asarray(before["image/positions"]), 6, 6)
    np.testing.assert_array_equal(after["image/positions"], wanted)
    assert any("image/positions: 4 x 4 to 6 x 6 (bilinear)" in line for line in report)
    np.testing.assert_array_equal(after["image/cls"], before["image/cls"])


def test_a_shorter_context_keeps_the_first_positions(run):
    before, _ = read(run)
    short = {"text": {"context_length": 9}, "tokenizer": {"context_length": 9}}
    after, _ = read(changed(run, **short, init={"resize": True}))
    np.testing.assert_array_equal(after["text/positions"], before["text/positions"][:9])


@pytest.fixture(scope="module")
def longer(run, tmp_path_factory):
    """The path of the model's vocabulary with two more tokens."""
    content = json.loads(Path(run.data.tokenizers["text"].path).read_text())
    size = len(content["model"]["vocab"])
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for i in (0, 1):
        content["added_tokens"].append(
            {"id": size + i, "content": f"<new{i}>", "special": True, **plain}
        )
    file = tmp_path_factory.mktemp("longer") / "tokenizer.json"
    file.write_text(json.dumps(content))
    return str(file)


def test_rows_of_new_tokens_have_the_mean_of_the_old_ones(run, longer):
    before, _ = read(run)
    table = before["text/embedding"]
    grown = {"text": {"vocab_size": len(table) + 2}, "tokenizer": {"path": longer}}
    after, report = read(changed(run, **grown, init={"resize": True}))
    np.testing.assert_array_equal(after["text/embedding"][:-2], table)
    for row in after["text/embedding"][-2:]:
        np.testing.assert_allclose(row, table.mean(axis=0), rtol=0, atol=1e-7)
    assert any("628 rows to 630" in line for line in report)


def test_what_is_skipped_is_new(run):
    pattern = "embedding/.*"
    values, report = read(changed(run, init={"skip": (pattern,)}))
    assert not any(path.startswith("embedding/") for path in values)
    assert "93 loaded, 2 left out, 2 new of 95 arrays" in report[0]
    assert "init: left out: embedding/image/kernel, embedding/text/kernel" in report
    assert any(line.startswith("init: new, with random values: embedding/") for line in report)


def test_other_functions_of_the_same_parameters_are_reported(run):
    _, report = read(changed(run, image={"activation": "gelu"}))
    told = "init: model.nodes.image.activation is 'quick_gelu' there, 'gelu' here"
    assert report[1:] == [told]


def saved(run, folder, value, average=None):
    """A checkpoint of step 3 whose arrays are all one number."""
    of = prepared(run)

    def full(part, number):
        return jax.tree.map(
            lambda leaf: jax.device_put(jnp.full(leaf.shape, number, leaf.dtype), leaf.sharding),
            part,
        )

    state = full(of.shapes, value)
    if average is not None:
        state = state._replace(average=full(of.shapes.average, average))
    checkpointer = Checkpointer(str(folder))
    checkpointer.save(3, state, checkpoint_files(of)(3))
    checkpointer.close()
    return folder


def test_averages_are_preferred_to_parameters(run, tmp_path):
    frozen = "image/positions"
    optim = dataclasses.replace(run.optim, ema_decay=0.9, frozen=(frozen,))
    folder = saved(dataclasses.replace(run, optim=optim), tmp_path / "w", 2, average=3)
    values, report = read(changed(run, init={"path": str(folder)}))
    assert np.all(values["image/cls"] == 3)
    assert np.all(values[frozen] == 2)
    assert "init: 94 of 95 arrays are moving averages (EMA)" in report


def test_batch_statistics_are_loaded(run, tmp_path):
    tower = EfficientNetLite(image_size=32)
    nodes = {**run.model.nodes, "image": tower}
    other = dataclasses.replace(run, model=dataclasses.replace(run.model, nodes=nodes))
    folder = saved(other, tmp_path / "w", 2)
    own = changed(other, init={"path": str(folder)})
    loaded, wanted = initial.load(prepared(own), lambda line: None), prepared(own).shapes.state
    assert wanted
    assert jax.tree.structure(loaded.state) == jax.tree.structure(wanted)
    assert all(np.all(leaf == 2) for leaf in jax.tree.leaves(loaded.state))


def test_values_of_pretrained_replace_those_of_init(run, monkeypatch):
    made = plan(prepared(run)).arrays["image/cls"]
    ones = dataclasses.replace(made, make=lambda: np.ones(made.shape, made.dtype))
    monkeypatch.setattr(pretrained, "arrays", lambda of: {"image/cls": ones})
    params = initial.load(prepared(run), lambda line: None).params
    assert np.all(params["image"]["cls"] == 1)
    assert not np.all(params["image"]["input_norm"]["scale"] == 1)


WIDER = {"text": {"mlp_dim": 40}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"size": 48, **WIDER},
            r"^init: other shapes than in \S+: image/positions is \[16, 24\] there, \[36, 24\] he"
            r"re; text/blocks/./mlp/down/kernel is \[36, 16\] there, \[40, 16\] here; .*: --init.",
        ),
        ({"size": 48}, r": --init.resize True resizes image/positions$"),
        (WIDER, r": --init.skip '.*' 'text/blocks/\[0-9\]\+/mlp/up/kernel' leaves them out$"),
        ({"size": 48, **WIDER}, r" --init.skip '.*' leaves the others out$"),
        (
            {"embedding": {"dim": 8}},
            r"^init: other shapes than in \S+: embedding/image/kernel is \[24, 20\] there, \[24, "
            r"8\] here; embedding/text/kernel is \[16, 20\] there, \[16, 8\] here: --init.skip"
            r" 'embedding/\.\*' leaves them out$",
        ),
        (
            {"size": 35, "init": {"resize": True}},
            r"^model.nodes.image.image_size: 35 is not a multiple of the patch \(8\), .* or 40$",
        ),
        (
            {
                "text": {"context_length": 20},
                "tokenizer": {"context_length": 20},
                "init": {"resize": True},
            },
            r"text/positions is \[12, 16\] there, \[20, 16\] here: --init.skip text/positions lea",
        ),
        ({"init": {"skip": ("image/.*", "text/.*", "embedding.*", "logit.*")}}, "nothing in "),
        (
            {"init": {"skip": ("imge/.*",)}},
            r"^init.skip: 'imge/\.\*' matches no parameter; the near",
        ),
        ({"init": {"skip": ("(",)}}, r"^init.skip: '\(' is not a regular expression"),
        ({"init": {"path": "no/model"}}, r"^init.path: no such file or folder: no/model$"),
        ({"init": {"path": "~nosuchuser/x"}}, r"^init.path: no such file or folder: ~nosuchuser/x"),
        ({"init": {"path": __file__}}, r"^init.path: \S+ is a file; name the folder of a model"),
        (
            {"tokenizer": {"bos_token": None}},
            r"^data.tokenizers.text: differs from the one of \S+: bos_token is '\S+' there, None"
            r" here; .* --init.skip text/embedding$",
        ),
        ({"scan": True, "text": {"depth": 4}}, "only some layers of text/blocks/"),
    ],
)
def test_errors(fields, message, run):
    with pytest.raises(UserError, match=message):
        read(changed(run, **fields))


def test_a_folder_without_a_model_is_an_error(run, tmp_path):
    with pytest.raises(UserError, match=r"^init.path: \S+: vljax cannot import this"):
        read(changed(run, init={"path": str(tmp_path)}))


def test_embeddings_of_another_vocabulary_are_refused(run):
    data = dataclasses.replace(run.data, tokenizers={"text": Clip(context_length=12)})
    other = dataclasses.replace(changed(run, text={"vocab_size": 49408}), data=data)
    with pytest.raises(UserError, match=r"the token \d+ is '.*' there, '.*' here; use that one"):
        read(other)
    values, _ = read(changed(other, init={"skip": ("text/embedding",)}))
    assert "text/embedding" not in values
    assert "text/positions" in values


def test_the_digest_is_that_of_the_model(run, home, tmp_path):
    pinned = initial.pinned(run)
    assert len(pinned.init.sha256) == 64
    copy = shutil.copytree(home / "foreign", tmp_path / "copy")
    again = initial.pinned(changed(run, init={"path": str(copy)}))
    (copy / "README.md").write_text("words")
    assert config.differences(pinned, again) == []
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert initial.pinned(changed(run, init={"path": str(copy)})) != again
    with pytest.raises(
        UserError, match=r"^init.sha256: \S+ has the digest \w+, not \w+: it is ano"
    ):
        initial.pinned(changed(pinned, init={"path": str(copy)}))
    digests = [
        initial.pinned(changed(run, init={"path": str(home / name)})).init.sha256
        for name in ("w", "w/checkpoints/0", "safetensors", "npz")
    ]
    assert digests[0] == digests[1]
    assert len({*digests, pinned.init.sha256}) == 4
    gone = changed(run, init={"path": "no/model"})
    assert initial.pinned(gone) == gone


def test_an_altered_array_of_an_npz_export_is_refused(home, tmp_path):
    folder = shutil.copytree(home / "npz", tmp_path / "npz")
    with np.load(folder / "parameters.npz") as file:
        arrays = dict(file)
    arrays["image/cls"] = arrays["image/cls"] + 1
    np.savez(folder / "parameters.npz", **arrays)
    with pytest.raises(UserError, match=r"parameters.npz differs from its digest"):
        read_source(str(folder))


def test_a_run_keeps_the_checkpoint_that_it_started_from(run, home, tmp_path):
    source = shutil.copytree(home / "w", tmp_path / "source")
    given = dataclasses.replace(
        changed(run, init={"path": str(source)}), workdir=str(tmp_path / "run")
    )
    started = initial.pinned(given)
    assert started.init.path == str(source / "checkpoints" / "0")
    saved(started, tmp_path / "run", 2)

    later = shutil.copytree(source / "checkpoints" / "0", source / "checkpoints" / "1")
    (later / "environment.json").write_text("{}")
    manifest.write(epath.Path(later))
    elsewhere = dataclasses.replace(given, workdir=str(tmp_path / "new"))
    assert initial.pinned(elsewhere).init.path == str(later)
    assert initial.pinned(given) == started
    with pytest.raises(UserError, match=r"^init.sha256: .* it is another model"):
        initial.pinned(changed(elsewhere, init={"sha256": started.init.sha256}))

    # Resuming needs no source: neither one that is gone nor one that has changed since.
    shutil.copy(later / "environment.json", source / "checkpoints" / "0")
    manifest.write(epath.Path(source / "checkpoints" / "0"))
    assert initial.pinned(started) == started
    shutil.rmtree(source)
    assert initial.pinned(given) == initial.pinned(started) == started


@pytest.mark.parametrize("fields", [{"resize": True}, {"skip": ("text/.*",)}, {"sha256": "0" * 64}])
def test_fields_of_init_without_a_path_are_errors(fields):
    (name,) = fields
    with pytest.raises(UserError, match=f"^{name}: is .*, and does nothing without a model; set "):
        config.validate(InitFrom(**fields))
    config.validate(InitFrom("model", **fields))


def test_init_is_short_for_its_path():
    run = load_run(["configs/quickstart.py:tiny", "--init", "some/where"], "vljax train")
    assert run.init == InitFrom("some/where")
    assert load_run(["configs/quickstart.py:tiny", "--init=w"], "x").init == InitFrom("w")
    assert config.decode(Run, json.loads(config.to_json(run))) == run


def _reversed(content):
    content["model"]["merges"].reverse()


def _swapped(content):
    vocab = content["model"]["vocab"]
    vocab["sign"], vocab["\u0120sign"] = vocab["\u0120sign"], vocab["sign"]


def _without_prefix_space(content):
    (level,) = (p for p in _parts(content["pre_tokenizer"]) if p["type"] == "ByteLevel")
    level["add_prefix_space"] = not level["add_prefix_space"]


def _lower_case(content):
    content["normalizer"] = {"type": "Lowercase"}


def _parts(pre_tokenizer):
    return pre_tokenizer.get("pretokenizers", [pre_tokenizer])


def _longer(content):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    size = 1 + max(content["model"]["vocab"].values())
    content["added_tokens"].append({"id": size, "content": "<new>", "special": True, **plain})


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("change", [_reversed, _swapped, _without_prefix_space, _lower_case])
def test_a_tokenizer_with_other_ids_differs(change, grown):
    """Four files whose recipe fields and, but for one, vocabularies are equal."""
    content = json.loads(BUILTIN_VOCABULARY.read_text())
    if grown:
        _longer(content)
    same = HuggingFace("a").load_vocabulary(json.dumps(content, indent=1).encode())
    change(content)
    other = HuggingFace("b").load_vocabulary(json.dumps(content).encode())
    old = HuggingFace(str(BUILTIN_VOCABULARY)).load()
    assert tokenizer_difference(old, same) is None
    assert tokenizer_difference(old, other) is not None
