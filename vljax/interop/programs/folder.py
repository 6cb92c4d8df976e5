"""What folders of programs have in common: the pipeline around them, and an example."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vljax.data.tokenizers import Clip, HuggingFace, SentencePiece
from vljax.data.transforms import CentreCrop, Decode, Resize
from vljax.interop import export_manifest, plain
from vljax.interop.export_issues import Losses
from vljax.interop.format import Trained
from vljax.interop.programs.encoders import EncoderFunction

WEIGHTS = "parameters"
"""As in a folder of plain safetensors, which this one is, too."""
_PACKAGES = {"stablehlo": ("jax", "flatbuffers", "safetensors"), "onnx": ("onnxruntime",)}
_TOKENIZERS = {
    "huggingface": ("tokenizers",),
    "sentencepiece": ("sentencepiece",),
    "clip": ("instant-clip-tokenizer", "regex"),
}
_REPAIRS = ("clip", "clip_whitespace", "siglip_open_clip")
"""Cleanings that need ftfy."""


def check(trained: Trained, losses: Losses) -> None:
    """Raises UserError if the pipeline that travels along cannot do what evaluation does."""
    transforms = [t for t in trained.run.data.eval_transforms if t.provides != "text"]
    kinds = [type(transform) for transform in transforms]
    if kinds not in ([Decode, Resize], [Decode, Resize, CentreCrop]):
        names = [transform.type_name for transform in transforms]
        losses.refuse("data.eval_transforms", names, "decode, resize and centre_crop")
    decode = transforms[0]
    assert isinstance(decode, Decode)
    losses.require({"random_background": False}, decode, "data.eval_transforms.decode")
    if decode.scaled:
        losses.lose("resize", "decoding JPEG files no finer than needed")
    config = trained.tokenizer.config
    if type(config) not in (HuggingFace, SentencePiece, Clip):
        losses.refuse("data.tokenizer", config.type_name, "huggingface, sentencepiece and clip")


def described(encoder: EncoderFunction, file: str) -> dict[str, Any]:
    """An encoder's entry in `export.json`."""

    def spec(name: str, of: Any) -> dict[str, Any]:
        return {"name": name, "shape": ["batch", *of.shape[1:]], "dtype": np.dtype(of.dtype).name}

    return {
        "file": file,
        "inputs": [spec(name, of) for name, of in encoder.inputs.items()],
        "output": spec("embedding", encoder.output),
        "weights": list(encoder.weights),
    }


def finish(
    out: Path,
    trained: Trained,
    kind: str,
    programs: Mapping[str, Any],
    weights: Sequence[Path],
) -> None:
    """Writes what stands beside the programs and weights, `export.json` last.

    Args:
      out: the folder.
      trained: the checkpoint.
      kind: "stablehlo" or "onnx".
      programs: their entries in `export.json`.
      weights: the files of weights.
    """
    requires = _requires(trained, kind)
    readme = _readme(kind, requires, programs)
    plain.write_files(out, {**plain.files(trained), **_pipeline(kind), "README.md": readme})
    more = {
        "versions": _versions(("jax", "jaxlib")),
        "requires": requires,
        "programs": dict(programs),
        "weights": [file.name for file in weights],
        "preprocessing": plain.PREPROCESS,
        "tokenizer": "tokenizer",
    }
    export_manifest.write(out, kind, trained, more)


def _requires(trained: Trained, kind: str) -> list[str]:
    names = ["numpy", *_PACKAGES[kind]]
    if "text" in trained.run.model.encoders:
        config = trained.tokenizer.config
        names += _TOKENIZERS[config.type_name]
        names += ["ftfy"] if config.cleaning in _REPAIRS else []
    if "image" not in trained.run.model.encoders:
        return names
    names.append("pillow")
    for transform in trained.run.data.eval_transforms:
        by_opencv = isinstance(transform, Resize) and (
            not transform.antialias or transform.interpolation == "area"
        )
        names += ["opencv-python-headless"] if by_opencv else []
    return names


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def _pipeline(kind: str) -> dict[str, bytes]:
    """The modules that travel along: of `standalone`, and those of `data` that they need."""
    here = "vljax.interop.programs.standalone"
    sources = {
        "embed.py": f"{here}.embed",
        "pipeline/__init__.py": here,
        "pipeline/images.py": f"{here}.images",
        "pipeline/texts.py": f"{here}.texts",
        "pipeline/programs.py": f"{here}.{kind}_programs",
        "pipeline/cleaning.py": "vljax.data.tokenizers.cleaning",
        "pipeline/clip_bpe.py": "vljax.data.tokenizers.clip_bpe",
    }
    return {name: _travelling(module) for name, module in sources.items()}


def _travelling(module: str) -> bytes:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    for ours, theirs in (
        ("vljax.interop.programs.standalone.stablehlo_programs", "pipeline.programs"),
        ("vljax.interop.programs.standalone", "pipeline"),
        ("vljax.data.tokenizers", "pipeline"),
    ):
        source = source.replace(ours, theirs)
    return source.encode()


_RUN = {
    "stablehlo": """\
import json
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file

described = json.load(open("export.json"))
program = next(iter(described["programs"].values()))
encode = export.deserialize(bytearray(open(program["file"], "rb").read()))
arrays = {}
for file in described["weights"]:
    arrays |= load_file(file)
weights = {name: arrays[name] for name in program["weights"]}
inputs = {x["name"]: np.ones((2, *x["shape"][1:]), x["dtype"]) for x in program["inputs"]}
print(jax.jit(encode.call)(weights, inputs).shape)
""",
    "onnx": """\
import json
import numpy as np, onnxruntime

program = next(iter(json.load(open("export.json"))["programs"].values()))
session = onnxruntime.InferenceSession(program["file"])
inputs = {x["name"]: np.ones((2, *x["shape"][1:]), x["dtype"]) for x in program["inputs"]}
print(session.run(["embedding"], inputs)[0].shape)
""",
}

_ARGUMENTS = {"image": "--images cat.jpg dog.png", "text": '--texts "a cat" "a dog"'}


def _readme(kind: str, requires: Sequence[str], streams: Collection[str]) -> bytes:
    arguments = " ".join(_ARGUMENTS[stream] for stream in streams)
    return f"""\
# Encoders ({", ".join(streams)}) as {kind}

Written by `vljax export`; needs no vljax.

```
pip install {" ".join(requires)}
python embed.py {arguments} [--output embeddings.npz]
```

`embed.py` goes from files and strings to embeddings as the model was evaluated, and prints their
cosines; `embed.Model` is the same for Python. `pipeline/` decodes and resizes images, cleans and
splits texts. `export.json` says what the programs read and make (the batch may have any size),
in which order weights come, and what each file's digest is. The programs alone:

```python
{_RUN[kind]}```
""".encode()
