"""Silent behaviour of other software that would give wrong results unnoticed.

transformers and open_clip wrote the stored folders themselves. `test_folders.py` and
`test_families.py` check that exports have the same arrays with the same names, shapes and values
(`pre_layrnorm`, 0-d and (1,) scalars, projections as (in, out), patches as rows, `q` apart from
`kv`).
"""

import dataclasses
import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.interop.conftest import unzip
from tests.parity import interop_inputs as inputs
from vljax.config import UserError
from vljax.data.tokenizers import HuggingFace
from vljax.interop.checkpoints import read_trained
from vljax.interop.convert import export_model, import_model
from vljax.interop.export_plan import ExportIssues
from vljax.interop.formats import detect_format, find_format
from vljax.training import checkpoint

TWO_TOWERS = ["transformers_clip_a", "transformers_siglip_a", "transformers_siglip_b", "siglip2_b"]


class Home:
    """Folders of other software, each imported once."""

    def __init__(self, folder):
        self.folder = folder

    def foreign(self, name):
        path = self.folder / name
        if not path.exists():
            unzip(name, path)
        return path

    def trained(self, name):
        workdir = self.folder / f"{name}-w"
        if not workdir.exists():
            import_model(str(self.foreign(name)), str(workdir), overwrite=False, report=quiet)
        return read_trained(checkpoint.find_intact(str(workdir)))[0]


def quiet(done, total):
    pass


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home"))


def read(folder):
    return detect_format(folder).read(folder)


def written(trained, kind, accept=()):
    """All files except the arrays, with JSON decoded."""
    files = find_format(kind).write(trained, ExportIssues(kind, accept)).files
    return {k: json.loads(v) if k.endswith(".json") else v for k, v in files.items()}


def edited(folder, file, edit):
    content = json.loads((folder / file).read_text())
    edit(content)
    (folder / file).write_text(json.dumps(content))


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_export_writes_the_configuration_that_transformers_wrote(name, home):
    """The configuration includes activations, epsilons, sizes and ids of special tokens."""
    theirs = json.loads((home.foreign(name) / "config.json").read_text())
    ours = written(home.trained(name), "transformers")["config.json"]
    # These fields may differ: data type, version and initialisation.
    kept = {"dtype", "transformers_version", "initializer_range", "initializer_factor"}
    unused = {("clip", "projection_dim"), ("siglip2", "bos_token_id")}
    family = theirs["model_type"]
    for part in (None, "text_config", "vision_config"):
        have, wanted = (c if part is None else c[part] for c in (ours, theirs))
        for field, value in wanted.items():
            odd = part is not None and (family, field) in unused
            if field not in kept and not isinstance(value, dict) and not odd:
                assert have[field] == value, (part, field)


@pytest.mark.parametrize("name", ["transformers_clip_a", "transformers_siglip_a", "siglip2_a"])
def test_missing_configuration_fields_have_the_defaults_of_transformers(name, foreign):
    """CLIP: quick_gelu and 1e-5; SigLIP: tanh GELU and 1e-6. The stored folders have these."""
    source = foreign(name)
    whole = read(source).run

    def leave_out(config):
        for part in (config["text_config"], config["vision_config"]):
            del part["hidden_act"], part["layer_norm_eps"]

    edited(source, "config.json", leave_out)
    assert read(source).run == whole


def test_a_config_dict_overrides_the_whole_part_of_a_clip(foreign):
    """CLIPConfig of transformers: `text_config.update(CLIPTextConfig(**text_config_dict))`."""
    source = foreign("transformers_clip_a")
    plain = read(source)

    def null(config):
        config.update(text_config_dict=None, vision_config_dict=None)

    edited(source, "config.json", null)
    assert (read(source).run, read(source).notes) == (plain.run, [])

    def override(config):
        for part in ("text_config", "vision_config"):
            config[f"{part}_dict"] = dict(config[part])
            config[part] |= {"num_attention_heads": 8, "hidden_act": "gelu", "hidden_size": 7}

    edited(source, "config.json", override)
    assert read(source).run == plain.run
    wanted = "with other values of: hidden_act, hidden_size, num_attention_heads"
    assert [wanted in note for note in read(source).notes] == [True, True]

    def defaults(config):
        for part in ("text_config", "vision_config"):
            del config[f"{part}_dict"]["hidden_act"], config[f"{part}_dict"]["layer_norm_eps"]
            config[part]["layer_norm_eps"] = 0.5

    edited(source, "config.json", defaults)
    for name, tower in read(source).run.model.encoders.items():
        assert tower.activation == plain.run.model.encoders[name].activation == "quick_gelu"
        assert tower.norm_epsilon == 1e-5

    def alone(config):
        del config["text_config"], config["vision_config"]

    edited(source, "config.json", alone)
    assert read(source).run.model == plain.run.model
    edited(source, "config.json", lambda c: c["text_config_dict"].update(hidden_size="x"))
    with pytest.raises(UserError, match=r"text_config_dict\.hidden_size: 'x' is not of type int"):
        read(source)


@pytest.mark.parametrize(
    ("name", "towers"),
    [
        ("transformers_clip_a", ("quick_gelu", 1e-5)),
        ("transformers_siglip_a", ("gelu_tanh", 1e-6)),
    ],
)
def test_defaults_of_the_two_families_differ(name, towers, home):
    for tower in read(home.foreign(name)).run.model.encoders.values():
        assert (tower.activation, tower.norm_epsilon) == towers


def test_end_token_id_2_means_the_highest_id(foreign):
    source = foreign("transformers_clip_b")
    assert json.loads((source / "config.json").read_text())["text_config"]["eos_token_id"] == 2
    read(source)  # its end token has the highest id

    def add_token(content):
        token = content["added_tokens"][-1]
        content["added_tokens"].append({**token, "id": 628, "content": "<more>"})

    edited(source, "tokenizer.json", add_token)
    with pytest.raises(UserError, match=r"eos_token_id: is 2, .* the highest id, 628; but"):
        read(source)


def test_an_end_token_that_differs_from_the_tokenizer_is_an_error(foreign):
    source = foreign("transformers_clip_a")
    edited(source, "config.json", lambda c: c["text_config"].update(eos_token_id=626))
    with pytest.raises(UserError, match="is 626, but the tokenizer ends texts with id 627"):
        read(source)


def test_export_never_writes_an_end_token_of_id_2(home):
    trained = home.trained("transformers_clip_b")
    assert written(trained, "transformers")["config.json"]["text_config"]["eos_token_id"] == 627
    content = json.loads(tokenizer_of(trained))
    vocabulary = content["model"]["vocab"]
    other = next(name for name, i in vocabulary.items() if i == 2)
    ends = {"<|endoftext|>": 2, other: 627}
    vocabulary.update(ends)
    for token in content["added_tokens"]:
        token["id"] = ends.get(token["content"], token["id"])
    content["post_processor"] = None
    loaded = trained.tokenizer.config.load_vocabulary(json.dumps(content).encode())
    with pytest.raises(UserError, match="the end token has the id 2, for which transformers clip"):
        written(dataclasses.replace(trained, tokenizer=loaded), "transformers")


def tokenizer_of(trained):
    return trained.tokenizer.files()[trained.tokenizer.vocabulary_file]


@pytest.mark.parametrize(
    ("name", "kind", "fields", "message"),
    [
        ("transformers_clip_a", "transformers", {"image": {"patch_bias": True}}, "patch_bias"),
        ("transformers_siglip_a", "transformers", {"text": {"mask_padding": True}}, "mask_padding"),
        ("open_clip_siglip_a", "open_clip", {"text": {"mask_padding": True}}, "mask_padding"),
        ("transformers_siglip_a", "transformers", {"text": {"pooling": "mean"}}, "text.pooling"),
        ("open_clip_siglip_a", "open_clip", {"text": {"pooling": "mean"}}, "text.pooling"),
    ],
)
def test_model_fields_that_a_format_lacks_are_an_error(name, kind, fields, message, home):
    trained = home.trained(name)
    model = trained.run.model
    encoders = dict(model.encoders)
    for tower, changes in fields.items():
        encoders[tower] = dataclasses.replace(encoders[tower], **changes)
    model = dataclasses.replace(model, nodes={**model.nodes, **encoders})
    other = dataclasses.replace(trained, run=dataclasses.replace(trained.run, model=model))
    with pytest.raises(UserError, match=f"cannot express .*{message}"):
        written(other, kind, ["text-cleaning", "resize"])


@pytest.mark.parametrize(
    ("name", "pad", "given"),
    [
        ("transformers_siglip_a", 1, ["input_ids"]),
        ("siglip2_a", 0, ["input_ids"]),
        ("siglip2_b", 0, ["input_ids", "attention_mask"]),
        ("transformers_clip_a", 627, ["input_ids", "attention_mask"]),
    ],
)
def test_padding_token_and_model_inputs(name, pad, given, home):
    trained = home.trained(name)
    files = written(trained, "transformers")
    text, tokenizer = files["config.json"]["text_config"], files["tokenizer_config.json"]
    length = trained.run.model.encoders["text"].context_length
    assert (text["pad_token_id"], text["max_position_embeddings"]) == (pad, length)
    assert tokenizer["model_max_length"] == length
    assert tokenizer["model_input_names"] == given
    assert tokenizer["padding_side"] == "right"
    assert trained.tokenizer(["a"])[0][0, -1] == pad


@pytest.mark.parametrize("cleaning", ["lower", "none"])
def test_export_of_a_siglip_with_byte_pairs_keeps_its_lower_casing(cleaning, home):
    """A GemmaTokenizer would not lower-case, so export names another class and writes all steps."""
    trained = with_byte_pairs(home, cleaning)
    written_files = find_format("transformers").write(trained, ExportIssues("transformers")).files
    config = json.loads(written_files["tokenizer_config.json"])
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    theirs = Tokenizer.from_buffer(written_files["tokenizer.json"])
    for text in ["A Photo", *inputs.TEXTS[:3]]:
        assert theirs.encode(text).ids == trained.tokenizer([text])[0][0].tolist()
    same = theirs.encode("A Photo").ids == theirs.encode("a photo").ids
    assert same == (cleaning == "lower")


def with_byte_pairs(home, cleaning):
    """A SigLIP with the byte pairs of a SigLIP 2, which include upper case."""
    trained, gemma = home.trained("transformers_siglip_a"), home.trained("siglip2_a")
    content = json.loads(tokenizer_of(gemma))
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    content = json.dumps({**content, "normalizer": space}).encode()
    config = HuggingFace(
        None,
        context_length=12,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token=None,
        cleaning=cleaning,
    )
    return dataclasses.replace(trained, tokenizer=config.load_vocabulary(content))


def test_import_notes_that_a_siglip_keeps_upper_case(home, foreign):
    """transformers reads released SigLIP 2 of type `siglip` with a GemmaTokenizer this way."""
    source = foreign("transformers_siglip_a")
    files = find_format("transformers").write(with_byte_pairs(home, "none"), ExportIssues("")).files
    (source / "spiece.model").unlink()
    (source / "tokenizer.json").write_bytes(files["tokenizer.json"])
    config = json.loads(files["tokenizer_config.json"])
    config["tokenizer_class"] = "GemmaTokenizer"
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    edited(source, "config.json", lambda c: c["text_config"].update(vocab_size=330))
    (note,) = read(source).notes
    assert "texts keep upper case" in note
    assert not read(home.foreign("transformers_siglip_a")).notes


def test_a_siglip_tokenizer_that_keeps_upper_case_is_refused(foreign):
    source = foreign("transformers_siglip_a")
    edited(source, "tokenizer_config.json", lambda c: c.update(do_lower_case=False))
    with pytest.raises(UserError, match="do_lower_case: is False; vljax has only True"):
        read(source)


def test_siglip2_lower_cases_whatever_its_file_states(foreign):
    source = foreign("siglip2_a")
    edited(source, "tokenizer.json", lambda c: c.update(normalizer=None))
    ids, _ = read(source).tokenizer(["A PHOTO of a cat", "a photo of a cat"])
    np.testing.assert_array_equal(ids[0], ids[1])


def test_exported_siglip2_processors_hold_the_sizes(home):
    """Siglip2Processor ignores these sizes; `test_families.py` tests the note about that."""
    processor = written(home.trained("siglip2_b"), "transformers")["preprocessor_config.json"]
    assert (processor["patch_size"], processor["max_num_patches"]) == (6, 30)


def test_safetensors_metadata_says_pytorch(home, tmp_path):
    """transformers does not load a safetensors file without `format` in its metadata."""
    from safetensors import safe_open

    home.trained("transformers_siglip_a")
    workdir, out = home.folder / "transformers_siglip_a-w", tmp_path / "out"
    export_model(str(workdir), str(out), "transformers", report=quiet)
    with safe_open(out / "model.safetensors", "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}
