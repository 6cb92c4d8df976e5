"""Names and files of earlier years give the numbers that transformers and open_clip compute.

The tests rewrite the stored folders as older software saved them. The model must stay the one whose
numbers `test_folders.py` and `test_families.py` compare with the stored outputs of transformers and
open_clip.
"""

import json
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.parity import interop_inputs as inputs
from vljax.config import UserError
from vljax.inference import load
from vljax.interop import pretrained
from vljax.interop.convert import import_model
from vljax.interop.files.read import read_tensors
from vljax.interop.formats import detect_format
from vljax.interop.mapped_model import read_model

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:9bb748f4\nsize 1433\n"


def quiet(done, total):
    pass


def same_numbers(source, folder, tmp_path):
    """Imports `source`; the embeddings must be those that are stored in `folder`."""
    import_model(str(source), str(tmp_path / "w"), overwrite=True, report=quiet)
    model, stored = load(tmp_path / "w"), np.load(folder / "outputs.npz")
    for name, given in (("text", inputs.TEXTS), ("image", inputs.images())):
        if name in stored:
            made = getattr(model, f"encode_{name}")(given)
            np.testing.assert_allclose(made, stored[name], rtol=0, atol=1e-5, err_msg=name)


class Plain:
    """The model of a folder before its files are rewritten."""

    def __init__(self, source):
        self.source, self.model = source, read_model(str(source))
        self.ids = self.model.foreign.tokenizer(inputs.TEXTS)[0]
        self.values = {name: lazy.read() for name, lazy in self.model.parameters.items()}

    def same(self, source=None):
        found = read_model(str(source or self.source))
        assert found.foreign.run == self.model.foreign.run
        np.testing.assert_array_equal(found.foreign.tokenizer(inputs.TEXTS)[0], self.ids)
        assert found.parameters.keys() == self.values.keys()
        for name, value in self.values.items():
            np.testing.assert_array_equal(found.parameters[name].read(), value, err_msg=name)


def edited(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def save_torch(file, content):
    """Writes nested dicts of float32 arrays as `torch.save` does, without PyTorch."""
    storages = {}

    def text(value):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    def pickled(value):
        if isinstance(value, dict):
            return b"}(" + b"".join(pickled(k) + pickled(v) for k, v in value.items()) + b"u"
        if isinstance(value, str):
            return text(value)
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        key = str(len(storages))
        storages[key] = np.ascontiguousarray(value, "<f4").tobytes()
        strides = [int(np.prod(value.shape[i + 1 :])) for i in range(value.ndim)]
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
        return (
            b"ctorch._utils\n_rebuild_tensor_v2\n("
            + storage
            + pickled(int(value.size))
            + b"tQ"
            + pickled(0)
            + b"".join(b"(" + b"".join(map(pickled, n)) + b"t" for n in (value.shape, strides))
            + b"\x89ccollections\nOrderedDict\n)RtR"
        )

    data = b"\x80\x02" + pickled(content) + b"."
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, stored in storages.items():
            archive.writestr(f"archive/data/{key}", stored)


def as_first_bert(tensors):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        tensors = {key.replace(new, name): array for key, array in tensors.items()}
    return tensors


@pytest.mark.parametrize("prefix", ["", "bert.", "module.bert."])
def test_gamma_and_beta_of_layer_norms(prefix, foreign, tmp_path):
    source = foreign("bert_a")
    file = source / "model.safetensors"
    model, plain = Plain(source), load_file(file)
    old = {prefix + name: array for name, array in as_first_bert(plain).items()}
    assert sum(name.endswith(("gamma", "beta")) for name in old) > 8
    if prefix == "bert.":
        old["cls.predictions.bias"] = np.zeros(3, np.float32)
    save_file(old, file)
    model.same()
    if not prefix:
        same_numbers(source, source, tmp_path)
    encoder = model.model.foreign.run.model.encoders["text"]
    found = pretrained.bert.adapted(read_tensors(str(file)), encoder, "")
    assert found.keys() - {"cls.predictions.bias"} == plain.keys()


def test_layer_norms_of_both_names_are_an_error(foreign, tmp_path):
    source = foreign("bert_a")
    file = source / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, **as_first_bert(tensors)}, file)
    with pytest.raises(UserError, match=r"holds arrays that this model lacks: .*LayerNorm\.beta"):
        import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)


@pytest.mark.parametrize("name", ["bert_a", "roberta_a", "transformers_clip_a"])
@pytest.mark.parametrize("form", ["map", "class", "neither"])
def test_special_tokens_of_older_folders(name, form, foreign):
    source = foreign(name)
    plain = Plain(source)
    file = source / "tokenizer_config.json"
    whole = json.loads(file.read_text())
    special = {key: value for key, value in whole.items() if key.endswith("_token")}
    known = ("tokenizer_class", "model_max_length", "do_lower_case", "strip_accents")
    short = {key: whole[key] for key in (*known, "tokenize_chinese_chars") if key in whole}
    file.write_text(json.dumps(short if form == "class" else {"model_max_length": 9}))
    if form == "map":
        (source / "special_tokens_map.json").write_text(json.dumps(special))
    if form == "neither":  # the class is that of the model
        file.unlink()
    plain.same()
    np.testing.assert_array_equal(plain.ids, np.load(source / "outputs.npz")["ids"])


def test_the_map_wins_in_older_folders_only(foreign):
    source = foreign("bert_a")
    (source / "special_tokens_map.json").write_text('{"pad_token": {"content": "[MASK]"}}')
    edited(source / "tokenizer_config.json", lambda c: c.pop("added_tokens_decoder", None))
    assert detect_format(source).read(source).tokenizer.config.pad_token == "[MASK]"
    edited(source / "tokenizer_config.json", lambda c: c.update(added_tokens_decoder={"0": {}}))
    assert detect_format(source).read(source).tokenizer.config.pad_token == "[PAD]"


def test_fields_of_a_bert_tokenizer_that_override_its_file_are_an_error(foreign):
    source = foreign("bert_a")
    wanted = json.loads((source / "tokenizer.json").read_text())["normalizer"]["lowercase"]
    edited(source / "tokenizer_config.json", lambda c: c.update(do_lower_case=not wanted))
    with pytest.raises(UserError, match=f"do_lower_case: is {not wanted}, but lowercase of the"):
        detect_format(source).read(source)


@pytest.mark.parametrize(
    "name", ["transformers_clip_a", "transformers_siglip_a", "siglip2_a", "vit_a", "dinov2_a"]
)
def test_a_processor_without_a_class_is_that_of_the_model(name, foreign):
    source = foreign(name)
    whole = detect_format(source).read(source).run

    def leave_out(content):
        for part in (content, content.get("image_processor", {})):
            for field in ("image_processor_type", "processor_class", "feature_extractor_type"):
                part.pop(field, None)

    for file in ("preprocessor_config.json", "processor_config.json"):
        if (source / file).exists():
            edited(source / file, leave_out)
    assert detect_format(source).read(source).run == whole


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_weights_of_torch_save(sharded, old, foreign, tmp_path):
    """Also with names of earlier years, which an index of shards states as they do."""
    source = foreign("bert_a")
    plain = Plain(source)
    tensors = load_file(source / "model.safetensors")
    if old:
        tensors = {f"module.{n}": array for n, array in as_first_bert(tensors).items()}
    (source / "model.safetensors").unlink()
    if not sharded:
        save_torch(source / "pytorch_model.bin", tensors)
    else:
        shards = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
        files = {name: shards[i % 2] for i, name in enumerate(tensors)}
        for file in set(files.values()):
            held = {name: array for name, array in tensors.items() if files[name] == file}
            save_torch(source / file, held)
        index = source / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": files}))
    plain.same()
    if sharded:
        (source / "pytorch_model-00002-of-00002.bin").unlink()
        with pytest.raises(UserError, match=r"pytorch_model-00002-of-00002\.bin: no such file"):
            import_model(str(source), str(tmp_path / "x"), overwrite=False, report=quiet)


@pytest.mark.parametrize("file", ["open_clip_pytorch_model.bin", "epoch_3.pt", "epoch_latest.pt"])
def test_weights_of_open_clip(file, foreign):
    source = foreign("open_clip_siglip_a")
    plain = Plain(source)
    tensors = load_file(source / "open_clip_model.safetensors")
    (source / "open_clip_model.safetensors").unlink()
    content = tensors
    if file.endswith(".pt"):
        held = {f"module.{name}": array for name, array in tensors.items()}
        moments = {"state": {0: {"exp_avg": next(iter(tensors.values()))}}}
        content = {"epoch": 3, "name": "a", "state_dict": held, "optimizer": moments}
    save_torch(source / file, content)
    plain.same()
    save_torch(source / "epoch_9.pt", {"state_dict": {"a": np.zeros(3)}})
    plain.same(source / file)
    if file.endswith(".pt"):
        with pytest.raises(UserError, match=r"several files of weights \(epoch_.*name one as SRC"):
            detect_format(source).read(source)


def test_weights_without_a_configuration_are_named(tmp_path):
    save_torch(tmp_path / "epoch_3.pt", {"a": np.zeros(3)})
    with pytest.raises(UserError, match=r"epoch_3\.pt: holds only weights; put its model's config"):
        detect_format(tmp_path / "epoch_3.pt")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("bert_a", "model.safetensors"),
        ("bert_a", "config.json"),
        ("bert_a", "tokenizer.json"),
        ("bert_a", "tokenizer_config.json"),
        ("bert_a", "special_tokens_map.json"),
        ("bert_a", "model.safetensors.index.json"),
        ("bert_a", "pytorch_model.bin"),
        ("vit_a", "preprocessor_config.json"),
        ("transformers_siglip_a", "spiece.model"),
        ("siglip2_a", "tokenizer.json"),
        ("siglip2_a", "processor_config.json"),
        ("open_clip_clip_a", "open_clip_config.json"),
        ("open_clip_clip_a", "open_clip_model.safetensors"),
    ],
)
def test_a_git_lfs_pointer_is_named(name, file, foreign, tmp_path):
    source = foreign(name)
    if file in ("model.safetensors.index.json", "pytorch_model.bin"):
        (source / "model.safetensors").unlink()
    (source / file).write_bytes(LFS)
    with pytest.raises(UserError) as error:
        import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)
    assert f"{source / file}: it is a Git LFS pointer; fetch the file itself" in str(error.value)


@pytest.mark.parametrize("ending", [".npz", ".pt", ".safetensors"])
def test_a_git_lfs_pointer_as_initial_values_is_named(ending, tmp_path):
    file = tmp_path / f"weights{ending}"
    file.write_bytes(LFS)
    with pytest.raises(UserError, match="it is a Git LFS pointer"):
        read_tensors(str(file))
