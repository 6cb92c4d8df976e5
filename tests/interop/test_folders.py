"""Folders written by transformers and open_clip, from image files and strings to embeddings.

References are float32, as is the computation here; measured maxima of the deviation: 2.7e-7.
"""

import numpy as np
import pytest

from tests.parity import interop_inputs as inputs
from tests.parity.interop_cases import OPEN_CLIP, TRANSFORMERS
from vljax.inference import load
from vljax.interop.convert import export_model, import_model
from vljax.interop.files.safetensors import read_folder

TOLERANCE = 2e-6
CASES = [*TRANSFORMERS, *OPEN_CLIP]


def quiet(done, total):
    pass


def weights(folder):
    base = "open_clip_model" if (folder / "open_clip_config.json").exists() else "model"
    return {name: tensor.read() for name, tensor in read_folder(folder, base).items()}


@pytest.mark.parametrize("name", CASES)
def test_import_computes_the_same_and_export_preserves_every_bit(name, foreign, tmp_path):
    source = foreign(name)
    import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)
    model, stored = load(str(tmp_path / "w")), np.load(source / "outputs.npz")
    np.testing.assert_array_equal(model.tokenizer(inputs.TEXTS)[0], stored["ids"])
    image, text = model.encode_image(inputs.images()), model.encode_text(inputs.TEXTS)
    np.testing.assert_allclose(image, stored["image"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(text, stored["text"], rtol=0, atol=TOLERANCE)

    kind = "open_clip" if name in OPEN_CLIP else "transformers"
    out = tmp_path / "out"
    export_model(str(tmp_path / "w"), str(out), kind, report=quiet)
    before, after = weights(source), weights(out)
    assert before.keys() == after.keys()
    for key, array in before.items():
        np.testing.assert_array_equal(
            after[key], array.astype(np.float32), err_msg=key, strict=True
        )
