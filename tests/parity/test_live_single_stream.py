"""Import and export of random ViLT and VisualBERT models, compared with transformers live.

The requirements, both directions and the tolerance are those of `test_live.py`. An exported ViLT is
compared within the tolerance, not to the bit, since transformers orders patches at random.
"""

# ruff: noqa: E402  what is missing has to be told before it is imported

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="no torch: pip install 'vljax[parity]'")
pytest.importorskip("transformers", reason="no transformers: pip install 'vljax[parity]'")
pytest.importorskip("timm", reason="no timm: pip install 'vljax[parity]'")

from hypothesis import given
from hypothesis import strategies as st

from tests.interop.test_fusions import compare
from tests.parity import make_fusions as other
from tests.parity.test_live import CONTEXTS, EPSILON, TOLERANCE, live, of_transformers, towers
from tests.parity.test_live import folder as folder
from vljax.inference import load
from vljax.interop.convert import export_model, import_model

pytestmark = pytest.mark.slow(
    subject=["tests/parity", "vljax/interop", "vljax/models", "vljax/data/tokenizers"]
)

ACTIVATIONS = st.sampled_from(["gelu", "gelu_pytorch_tanh", "quick_gelu"])
ANSWERS = ("yes", "no", "Red", "2 dogs", "left of it")


def check(case, source, seed):
    """Imports a folder and exports it again; both must compute the same as the source."""
    other.make(case, source, seed)
    workdir, out = source.with_name("w"), source.with_name("out")
    import_model(str(source), str(workdir), overwrite=False, report=lambda done, total: None)
    compare(case["kind"], load(str(workdir)), other.run(case, source, torch.float64))
    export_model(str(workdir), str(out), "transformers", report=lambda done, total: None)
    before, after = other.run(case, source), other.run(case, out)
    tolerance = TOLERANCE if case["kind"] == "vilt" else 0
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=0, atol=tolerance, err_msg=name)


def stack(draw):
    return of_transformers(draw(towers()), draw(ACTIVATIONS), draw(EPSILON))


@live
@given(st.data())
def test_vilt(folder, data):
    draw = data.draw
    patch = draw(st.integers(4, 9))
    config = {**stack(draw), "patch_size": patch, "max_position_embeddings": draw(CONTEXTS)}
    config["image_size"] = patch * draw(st.integers(1, 5)) + draw(st.integers(0, patch - 1))
    config["type_vocab_size"] = draw(st.integers(1, 3))
    kinds = ["ViltModel", "ViltForQuestionAnswering", "ViltForImageAndTextRetrieval"]
    model = draw(st.sampled_from(kinds))
    case = {
        "kind": "vilt",
        "config": config,
        "shortest": draw(st.integers(2 * patch, 5 * patch)),
        "model": model,
        "answers": ANSWERS if model == "ViltForQuestionAnswering" else (),
    }
    check(case, folder(), draw(st.integers(0, 99)))


@live
@given(st.data())
def test_visual_bert(folder, data):
    draw = data.draw
    config = {**stack(draw), "max_position_embeddings": draw(CONTEXTS)}
    config["visual_embedding_dim"] = draw(st.integers(1, 20))
    config["type_vocab_size"] = draw(st.integers(2, 3))
    answers = draw(st.booleans())
    case = {
        "kind": "visual_bert",
        "config": config,
        "model": "VisualBertForQuestionAnswering" if answers else "VisualBertModel",
        "answers": ANSWERS if answers else (),
    }
    check(case, folder(), draw(st.integers(0, 99)))
