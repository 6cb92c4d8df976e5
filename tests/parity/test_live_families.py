"""Import and export of random siglip2 and single towers, compared with transformers live.

The requirements, both directions and the tolerance are those of `test_live.py`.
"""

# ruff: noqa: E402  what is missing has to be told before it is imported

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="no torch: pip install 'vljax[parity]'")
pytest.importorskip("transformers", reason="no transformers: pip install 'vljax[parity]'")
pytest.importorskip("timm", reason="no timm: pip install 'vljax[parity]'")

from hypothesis import given
from hypothesis import strategies as st

from tests.interop.test_families import tokens_of
from tests.parity import interop_inputs as inputs
from tests.parity import make_families as other
from tests.parity.test_live import CONTEXTS, EPSILON, TOLERANCE, live, of_transformers, towers
from tests.parity.test_live import folder as folder
from vljax.inference import load
from vljax.interop.convert import export_model, import_model

pytestmark = pytest.mark.slow(
    subject=["tests/parity", "vljax/interop", "vljax/models", "vljax/data/tokenizers"]
)

ACTIVATIONS = st.sampled_from(["gelu", "gelu_pytorch_tanh", "quick_gelu"])


@st.composite
def stacks(draw):
    """The fields of a stack in `config.json`."""
    return of_transformers(draw(towers()), draw(ACTIVATIONS), draw(EPSILON))


@st.composite
def grids(draw):
    """Patch sizes, and image sizes that are multiples of them."""
    patch = draw(st.integers(4, 9))
    return {"patch_size": patch, "image_size": patch * draw(st.integers(2, 5))}


def check(case, source, seed):
    """Imports a folder and exports it again; both must compute the same as the source."""
    other.make(case, source, seed)
    theirs = other.run(case, source, torch.float64)
    workdir, out = source.with_name("w"), source.with_name("out")
    import_model(str(source), str(workdir), overwrite=False, report=lambda done, total: None)
    model, ours = load(str(workdir)), {}
    if "image" in theirs:
        ours["image"] = model.encode_image(inputs.images())
    if "ids" in theirs:
        np.testing.assert_array_equal(model.tokenizer(inputs.TEXTS)[0], theirs["ids"])
        ours["text"] = model.encode_text(inputs.TEXTS)
    if "tokens" in theirs:
        ours["tokens"] = tokens_of(model)
    if "logits" in theirs:
        params = model.variables.params
        logits = ours["image"] @ ours["text"].T
        ours["logits"] = logits * np.exp(params["logit_scale"]) + params["logit_bias"]
    assert ours.keys() == theirs.keys() - {"ids"}
    export_model(str(workdir), str(out), "transformers", report=lambda done, total: None)
    before, after = other.run(case, source), other.run(case, out)
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=TOLERANCE, err_msg=name)
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


@live
@given(st.data())
def test_siglip2(folder, data):
    draw = data.draw
    patch, side = draw(st.integers(4, 9)), draw(st.integers(2, 6))
    case = {
        "kind": "siglip2",
        "vision": {**draw(stacks()), "patch_size": patch, "num_patches": side**2},
        "text": {**draw(stacks()), "max_position_embeddings": draw(CONTEXTS)},
        "budget": draw(st.integers(9, 40)),
        "masks": draw(st.booleans()),
    }
    check(case, folder(), draw(st.integers(0, 99)))


@live
@given(st.data())
def test_vit(folder, data):
    draw = data.draw
    config = {**draw(stacks()), **draw(grids())}
    config |= draw(st.sampled_from([{}, {"pooler_output_size": 20}]))
    check({"kind": "vit", "config": config}, folder(), draw(st.integers(0, 99)))


@live
@given(st.data())
def test_dinov2(folder, data):
    draw = data.draw
    registers = draw(st.integers(0, 4))
    kind = "dinov2_with_registers" if registers else "dinov2"
    config = {**draw(stacks()), **draw(grids()), "mlp_ratio": draw(st.integers(1, 4))}
    del config["intermediate_size"]
    config["use_swiglu_ffn"] = draw(st.booleans())
    config |= {"num_register_tokens": registers} if registers else {}
    config |= {} if registers else {"use_mask_token": draw(st.booleans())}
    cropped = config["patch_size"] * draw(st.integers(2, 4))
    resized = cropped + 2 * draw(st.integers(0, 4))  # vljax crops no half pixels
    case = {"kind": kind, "config": config, "sizes": (resized, cropped)}
    check(case, folder(), draw(st.integers(0, 99)))


@live
@given(st.data())
def test_bert(folder, data):
    draw = data.draw
    config = {**draw(stacks()), "max_position_embeddings": draw(CONTEXTS)}
    config["type_vocab_size"] = draw(st.integers(1, 3))
    check({"kind": "bert", "config": config}, folder(), draw(st.integers(0, 99)))


@live
@given(st.data())
def test_roberta(folder, data):
    draw = data.draw
    config = {**draw(stacks()), "max_position_embeddings": draw(CONTEXTS) + 2}
    config["type_vocab_size"] = draw(st.integers(1, 2))
    check({"kind": "roberta", "config": config}, folder(), draw(st.integers(0, 99)))
