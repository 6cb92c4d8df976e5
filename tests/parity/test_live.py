"""Import and export of random configurations, compared with transformers and open_clip live.

Needs PyTorch and the other packages of the extra `parity`, and is skipped without them:

    pip install -c constraints.txt -e '.[test,parity]' && pytest tests/parity/test_live.py

A folder that the other software wrote is imported; float32 here must be within 1e-5 of float64
there, from image file and string to embeddings and logits. The export of the result must load there
with no array missing or left over, and compute the same to the bit. The reference is float64, since
float32 there is as far from float64 as float32 here: for logits near 11, up to 5.0e-6 and 8.4e-6
were measured, and the two float32 results were once 1.0014e-5 apart.
"""

# ruff: noqa: E402  what is missing has to be told before it is imported

import itertools
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="no torch: pip install 'vljax[parity]'")
for package in ("timm", "transformers", "open_clip"):
    pytest.importorskip(package, reason=f"no {package}: pip install 'vljax[parity]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.parity import interop_inputs as inputs
from tests.parity import make_interop as other
from tests.parity.interop_cases import TRUNKS
from vljax.inference import load
from vljax.interop.convert import export_model, import_model
from vljax.interop.open_clip import timm_trunks
from vljax.interop.open_clip.timm_trunks import Trunk
from vljax.models.presets import Size

TOLERANCE = 1e-5
pytestmark = pytest.mark.slow(
    subject=["tests/parity", "vljax/interop", "vljax/models", "vljax/data/tokenizers"]
)

live = settings(
    max_examples=8,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
NUMBER = itertools.count()


@st.composite
def towers(draw):
    """The sizes of a transformer: width, depth, heads and MLP size."""
    heads, head_dim = draw(st.integers(1, 4)), draw(st.sampled_from([4, 6, 8, 12]))
    depth, mlp = draw(st.integers(1, 3)), draw(st.integers(5, 60))
    return {"width": heads * head_dim, "depth": depth, "heads": heads, "mlp_dim": mlp}


@st.composite
def sides(draw):
    """Patch and image sizes; the image may not be a multiple of the patch."""
    patch = draw(st.integers(4, 9))
    return patch, patch * draw(st.integers(2, 5)) + draw(st.integers(0, patch - 1))


CONTEXTS = st.integers(4, 16)
EPSILON = st.sampled_from([1e-5, 1e-6, 1e-3])
CHANNELS = st.lists(st.sampled_from([0.25, 0.4375, 0.5]), min_size=3, max_size=3)


def of_transformers(tower, activation, epsilon):
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = dict(zip(names, tower.values(), strict=True))
    return {**sizes, "hidden_act": activation, "layer_norm_eps": epsilon}


def check(source: Path, kind: str) -> None:
    """Imports a folder and exports it again; both must compute the same as the source."""
    run = getattr(other, f"load_and_run_{kind}")
    theirs = run(source, torch.float64)
    workdir, out = source.with_name("w"), source.with_name("out")
    import_model(str(source), str(workdir), overwrite=False, report=lambda done, total: None)
    model = load(str(workdir))
    np.testing.assert_array_equal(model.tokenizer(inputs.TEXTS)[0], theirs["ids"])
    image, text = model.encode_image(inputs.images()), model.encode_text(inputs.TEXTS)
    params = model.variables.params
    logits = image @ text.T * np.exp(params["logit_scale"]) + params.get("logit_bias", 0)
    ours = {"image": image, "text": text, "logits": logits}
    export_model(str(workdir), str(out), kind, report=lambda done, total: None)
    before, after = run(source), run(out)
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=TOLERANCE, err_msg=name)
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


@pytest.fixture
def folder(tmp_path):
    """A new folder for each example."""

    def new() -> Path:
        path = tmp_path / str(next(NUMBER)) / "src"
        path.mkdir(parents=True)
        return path

    return new


@live
@given(st.data())
def test_transformers_clip(folder, data):
    draw = data.draw
    activations = st.sampled_from(["quick_gelu", "gelu", "gelu_pytorch_tanh"])
    patch, size = draw(sides())
    vision = of_transformers(draw(towers()), draw(activations), draw(EPSILON))
    text = of_transformers(draw(towers()), draw(activations), draw(EPSILON))
    case = {
        "kind": "clip",
        "vision": {**vision, "patch_size": patch, "image_size": size},
        "text": {**text, "max_position_embeddings": draw(CONTEXTS)},
        "projection": draw(st.integers(3, 30)),
        "resample": draw(st.sampled_from([2, 3])),
        "old_eos": draw(st.booleans()),
    }
    source = folder()
    other.transformers_folder(case, source, seed=draw(st.integers(0, 99)))
    check(source, "transformers")


@live
@given(st.data())
def test_transformers_siglip(folder, data):
    draw = data.draw
    activations = st.sampled_from(["gelu", "gelu_pytorch_tanh"])
    patch, size = draw(sides())
    vision = of_transformers(draw(towers()), draw(activations), draw(EPSILON))
    text = of_transformers(draw(towers()), draw(activations), draw(EPSILON))
    case = {
        "kind": "siglip",
        "vision": {**vision, "patch_size": patch, "image_size": size},
        "text": {**text, "max_position_embeddings": draw(CONTEXTS)},
        "resample": draw(st.sampled_from([2, 3])),
        "mean": draw(CHANNELS),
        "std": draw(CHANNELS),
    }
    source = folder()
    other.transformers_folder(case, source, seed=draw(st.integers(0, 99)))
    check(source, "transformers")


def preprocessing(draw, size, modes):
    return {
        "size": size,
        "mean": draw(CHANNELS),
        "std": draw(CHANNELS),
        "interpolation": draw(st.sampled_from(["bicubic", "bilinear"])),
        "resize_mode": draw(st.sampled_from(modes)),
        "fill_color": draw(st.integers(0, 255)),
    }


def ratio(tower):
    made = tower["mlp_dim"] / tower["width"]
    return made if int(tower["width"] * made) == tower["mlp_dim"] else made + 1e-6


@live
@given(st.data())
def test_open_clip(folder, data):
    draw = data.draw
    patch, size = draw(sides())
    image, text = draw(towers()), draw(towers())
    quick, custom = draw(st.booleans()), draw(st.booleans())
    tanh = {} if quick else {"act_kwargs": {"approximate": "tanh"}}
    vision = {
        "image_size": size,
        "patch_size": patch,
        "layers": image["depth"],
        "width": image["width"],
        "head_width": image["width"] // image["heads"],
        "mlp_ratio": ratio(image),
        "no_ln_pre": draw(st.booleans()),
        "norm_kwargs": {"eps": draw(EPSILON)},
        **draw(st.sampled_from([{}, tanh])),
    }
    words = {
        "context_length": draw(CONTEXTS),
        "vocab_size": 628,
        "hf_tokenizer_name": "local",
        "width": text["width"],
        "heads": text["heads"],
        "layers": text["depth"],
        "mlp_ratio": ratio(text),
        "norm_kwargs": {"eps": draw(EPSILON)},
        **draw(st.sampled_from([{}, tanh])),
        **draw(st.sampled_from([{}, {"pool_type": "eos", "eos_id": 627}] if custom else [{}])),
        **draw(st.sampled_from([{}, {"proj_bias": True}] if custom else [{}])),
    }
    config = {"embed_dim": draw(st.integers(3, 30)), "quick_gelu": quick, "custom_text": custom}
    config |= draw(st.sampled_from([{}, {"init_logit_bias": -10}]))
    config |= {"vision_cfg": vision, "text_cfg": words}
    transforms = preprocessing(draw, size, ["shortest", "squash", "longest"])
    case = {"tokenizer": "clip", "model_cfg": config, "preprocess_cfg": transforms}
    source = folder()
    other.open_clip_folder(case, source, seed=draw(st.integers(0, 99)))
    check(source, "open_clip")


def known_to_both(tower, patch, size, activation):
    """Registers a random trunk with timm and vljax, and returns its name."""
    name = f"vit_live_{next(NUMBER)}"
    TRUNKS[name] = {**tower, "patch": patch, "image": size, "activation": activation}
    other.register_trunks()
    sizes = Size(tower["width"], tower["depth"], tower["mlp_dim"], tower["heads"])
    timm_trunks.TRUNKS[name] = Trunk(sizes, patch, size, activation)
    return name


@pytest.fixture
def restored():
    """Removes the registered trunks after a test."""
    before = dict(TRUNKS), dict(timm_trunks.TRUNKS)
    yield
    for known, old in zip((TRUNKS, timm_trunks.TRUNKS), before, strict=True):
        known.clear()
        known.update(old)


@live
@given(st.data())
def test_open_clip_siglip(folder, restored, data):
    draw = data.draw
    patch, size = draw(sides())
    image, text = draw(towers()), draw(towers())
    tanh = {"act_kwargs": {"approximate": "tanh"}}
    projection = draw(st.sampled_from([("none", False), ("linear", False), ("linear", True)]))
    vision = {
        "image_size": size,
        "timm_model_name": known_to_both(
            image, patch, size, draw(st.sampled_from(["gelu", "gelu_tanh"]))
        ),
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": projection[0],
        "timm_proj_bias": projection[1],
    }
    words = {
        "context_length": draw(CONTEXTS),
        "vocab_size": 64,
        "hf_tokenizer_name": "local",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": text["width"],
        "heads": text["heads"],
        "layers": text["depth"],
        "mlp_ratio": ratio(text),
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": draw(EPSILON)},
        **draw(st.sampled_from([{}, tanh])),
    }
    dim = image["width"] if projection[0] == "none" else draw(st.integers(3, 30))
    config = {"embed_dim": dim, "init_logit_bias": -10, "custom_text": True}
    config |= {"vision_cfg": vision, "text_cfg": words}
    transforms = preprocessing(draw, size, ["squash"])
    case = {"tokenizer": "siglip", "model_cfg": config, "preprocess_cfg": transforms}
    source = folder()
    other.open_clip_folder(case, source, seed=draw(st.integers(0, 99)))
    check(source, "open_clip")
