"""The files around exported programs: a pipeline without vljax, `export.json`, a README."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vljax.data.tokenizers import Clip, HuggingFace, SentencePiece
from vljax.data.tokenizers.base import Tokenizer
from vljax.data.transforms import CentreCrop, Decode, Resize
from vljax.data.transforms.base import image_transforms
from vljax.interop import plain
from vljax.interop.export_plan import ExportIssues, TrainedModel
from vljax.interop.exported import write_manifest
from vljax.interop.programs.functions import ProgramFunction
from vljax.interop.transformers.images import record_scaled, refuse_random_background
from vljax.interop.transformers.tokenizer_json import FTFY
from vljax.models.node import stream_of
from vljax.run import Run
from vljax.workdir import tokenizer_folder, vocabulary_file

_PACKAGES = {"stablehlo": ("jax", "flatbuffers", "safetensors"), "onnx": ("onnxruntime",)}
_TOKENIZERS = {
    "huggingface": ("tokenizers",),
    "sentencepiece": ("sentencepiece",),
    "clip": ("instant-clip-tokenizer", "regex"),
}


def check(trained: TrainedModel, issues: ExportIssues) -> None:
    """Collects what the exported pipeline cannot preprocess as evaluation does."""
    whole = trained.run.data.eval_transforms
    transforms = image_transforms(whole)
    kinds = [type(transform) for transform in transforms]
    if kinds not in ([Decode, Resize], [Decode, Resize, CentreCrop]):
        names = [transform.type_name for transform in transforms]
        issues.refuse("data.eval_transforms", names, "decode, resize and centre_crop")
    for decode in transforms:
        if isinstance(decode, Decode):
            refuse_random_background(decode, whole, issues)
            record_scaled(decode, whole, issues)
    for name, config in _tokenizers(trained.run).items():
        if type(config) not in (HuggingFace, SentencePiece, Clip):
            issues.refuse(
                f"data.tokenizers.{name}", config.type_name, "huggingface, sentencepiece and clip"
            )


def _tokenizers(run: Run) -> dict[str, Tokenizer]:
    """The tokenizers of texts and questions, by name."""
    answering = run.question_answering()
    names = {
        run.data.tokenizer_name() if "text" in run.model.encoders else None,
        None if answering is None else answering.tokenizer,
    }
    return {name: each for name, each in run.data.tokenizers.items() if name in names}


def described(function: ProgramFunction, file: str) -> dict[str, Any]:
    """The entry of a program in `export.json`."""

    def spec(name: str, of: Any) -> dict[str, Any]:
        return {"name": name, "shape": ["batch", *of.shape[1:]], "dtype": np.dtype(of.dtype).name}

    return {
        "file": file,
        "inputs": [spec(name, of) for name, of in function.inputs.items()],
        "output": spec(function.output_name, function.result),
        "weights": list(function.weights),
    }


def finish(
    out: Path,
    trained: TrainedModel,
    kind: str,
    programs: Mapping[str, Any],
    weights: Sequence[Path],
) -> None:
    """Writes all files beside programs and weights, `export.json` last.

    Args:
      out: the folder.
      trained: the checkpoint.
      kind: "stablehlo" or "onnx".
      programs: the entries of the programs in `export.json`.
      weights: the files of weights.
    """
    requires = _requires(trained, kind)
    answering = trained.run.question_answering()
    embeds = [name for name, each in programs.items() if each["output"]["name"] == "embedding"]
    scripts = [*(["embed"] if embeds else []), *(["answer"] if answering else [])]
    readme = _readme(kind, requires, programs, embeds, scripts)
    plain.write_files(
        out, {**plain.files(trained), **_pipeline(kind, scripts), "README.md": readme}
    )
    more = {
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        "requires": requires,
        "programs": dict(programs),
        "weights": [file.name for file in weights],
        "preprocessing": plain.PREPROCESS,
        "tokenizer": tokenizer_folder(trained.run.data.main_tokenizer),
    }
    if answering is not None:
        more["answering"] = {
            "program": stream_of(answering.logits),
            "loss": answering.loss,
            "tokenizer": tokenizer_folder(answering.tokenizer),
            "vocabulary": vocabulary_file(answering.targets),
        }
    write_manifest(out, kind, trained, more)


def _requires(trained: TrainedModel, kind: str) -> list[str]:
    names = ["numpy", *_PACKAGES[kind]]
    for config in _tokenizers(trained.run).values():
        names += _TOKENIZERS[config.type_name]
        names += ["ftfy"] if config.cleaning in FTFY else []
    names = [*dict.fromkeys(names)]
    if "image" not in trained.run.model.encoders:
        return names
    names.append("pillow")
    for transform in trained.run.data.eval_transforms:
        by_opencv = isinstance(transform, Resize) and (
            not transform.antialias or transform.interpolation == "area"
        )
        names += ["opencv-python-headless"] if by_opencv else []
    return names


def _pipeline(kind: str, scripts: Sequence[str]) -> dict[str, bytes]:
    """Copies of the modules in `standalone`, and of the modules of `data` that they need."""
    here = "vljax.interop.programs.standalone"
    sources = {
        **{f"{script}.py": f"{here}.{script}" for script in scripts},
        "pipeline/__init__.py": here,
        "pipeline/model.py": f"{here}.model",
        "pipeline/images.py": f"{here}.images",
        "pipeline/inputs.py": f"{here}.inputs",
        "pipeline/texts.py": f"{here}.texts",
        "pipeline/programs.py": f"{here}.{kind}_programs",
        "pipeline/opened_images.py": "vljax.data.opened_images",
        "pipeline/cleaning.py": "vljax.data.tokenizers.cleaning",
        "pipeline/clip_bpe.py": "vljax.data.tokenizers.clip_bpe",
    }
    return {name: _copied(module) for name, module in sources.items()}


def _copied(module: str) -> bytes:
    """The source of a module with its imports changed to the exported folder's."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    for ours, theirs in (
        ("vljax.interop.programs.standalone.stablehlo_programs", "pipeline.programs"),
        ("vljax.interop.programs.standalone", "pipeline"),
        ("vljax.data.opened_images", "pipeline.opened_images"),
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
run = export.deserialize(bytearray(open(program["file"], "rb").read()))
arrays = {}
for file in described["weights"]:
    arrays |= load_file(file)
weights = {name: arrays[name] for name in program["weights"]}
inputs = {x["name"]: np.ones((2, *x["shape"][1:]), x["dtype"]) for x in program["inputs"]}
print(jax.jit(run.call)(weights, inputs).shape)
""",
    "onnx": """\
import json
import numpy as np, onnxruntime

program = next(iter(json.load(open("export.json"))["programs"].values()))
session = onnxruntime.InferenceSession(program["file"])
inputs = {x["name"]: np.ones((2, *x["shape"][1:]), x["dtype"]) for x in program["inputs"]}
print(session.run(None, inputs)[0].shape)
""",
}

_ARGUMENTS = {"image": "--images cat.jpg dog.png", "text": '--texts "a cat" "a dog"'}
_SCRIPTS = {
    "embed": """\
`embed.py` embeds image files and texts with the preprocessing of evaluation, and prints their
cosine similarities.
""",
    "answer": """\
`answer.py` answers questions about image files with the preprocessing of evaluation, and prints the
most likely answers with their probabilities.
""",
}


def _readme(
    kind: str,
    requires: Sequence[str],
    programs: Collection[str],
    embeds: Sequence[str],
    scripts: Sequence[str],
) -> bytes:
    embed = " ".join(_ARGUMENTS[stream] for stream in embeds if stream in _ARGUMENTS)
    arguments = {
        "embed": f"{embed} [--output embeddings.npz]",
        "answer": '--images cat.jpg --questions "What is left of the cat?"',
    }
    commands = "\n".join(f"python {script}.py {arguments[script]}" for script in scripts)
    return f"""\
# Programs ({", ".join(programs)}) as {kind}

Written by `vljax export`. It runs without vljax.

```
pip install {" ".join(requires)}
{commands}
```

{"".join(_SCRIPTS[script] for script in scripts)}
`pipeline.model.Model` does the same in Python. `pipeline/` decodes and resizes images, and cleans
and tokenizes texts. `export.json` lists the inputs and outputs of the programs (for any batch
size), the order of their weights, and the digest of each file. To run a program alone:

```python
{_RUN[kind]}```
""".encode()
