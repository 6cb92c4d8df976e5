"""Import and export of random blip and lxmert, compared with transformers live.

The requirements, both directions and the tolerance are those of `test_live.py`.
"""

# ruff: noqa: E402  what is missing has to be told before it is imported

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="no torch: pip install 'vljax[parity]'")
for package in ("timm", "transformers", "open_clip"):
    pytest.importorskip(package, reason=f"no {package}: pip install 'vljax[parity]'")

from hypothesis import given
from hypothesis import strategies as st

from tests.interop.test_fusions import outputs_of
from tests.parity import make_fusions as other
from tests.parity.test_live import CONTEXTS, EPSILON, TOLERANCE, live, of_transformers, towers
from tests.parity.test_live import folder as folder
from tests.parity.test_live_families import ACTIVATIONS, grids, stacks
from vljax.inference import load
from vljax.interop.convert import export_model, import_model

pytestmark = pytest.mark.slow(
    subject=["tests/parity", "vljax/interop", "vljax/models", "vljax/data/tokenizers"]
)
ANSWERS = ("yes", "no", "Red", "2 dogs", "left of it")


def check(case, source, seed):
    """Imports a folder and exports it again; both must compute the same as the source."""
    other.make(case, source, seed)
    theirs = other.run(case, source, torch.float64)
    workdir, out = source.with_name("w"), source.with_name("out")
    import_model(str(source), str(workdir), overwrite=False, report=lambda done, total: None)
    ours = outputs_of(case["kind"], load(str(workdir)), theirs)
    export_model(str(workdir), str(out), "transformers", report=lambda done, total: None)
    before, after = other.run(case, source), other.run(case, out)
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=TOLERANCE, err_msg=name)
        # Two names of one approximation, gelu_new and gelu_pytorch_tanh, differ in the last bit.
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-6, err_msg=name)


@live
@given(st.data())
def test_blip(folder, data):
    draw = data.draw
    case = {
        "kind": "blip",
        "vision": {**draw(stacks()), **draw(grids())},
        "text": {**draw(stacks()), "max_position_embeddings": draw(CONTEXTS)},
        "dim": draw(st.integers(3, 30)),
    }
    check(case, folder(), draw(st.integers(0, 99)))


@live
@given(st.data())
def test_lxmert(folder, data):
    draw = data.draw
    config = of_transformers(draw(towers()), draw(ACTIVATIONS), draw(EPSILON))
    del config["num_hidden_layers"], config["layer_norm_eps"]  # it has neither
    config |= {name: draw(st.integers(1, 3)) for name in ("l_layers", "r_layers", "x_layers")}
    config |= {"visual_feat_dim": draw(st.integers(3, 20))}
    config |= {
        "max_position_embeddings": draw(CONTEXTS),
        "type_vocab_size": draw(st.integers(1, 3)),
    }
    case = {"kind": "lxmert", "config": config, "answers": draw(st.sampled_from([(), ANSWERS]))}
    check(case, folder(), draw(st.integers(0, 99)))
