"""The arguments of `vljax import` and `vljax export`. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from typing import Any

from vljax.interop.export_issues import ACCEPTABLE
from vljax.interop.formats import MODULES
from vljax.models.quantization.forms import FORMS

NAMES = ("import", "export")

_IMPORT = """\
Makes OUT a workdir with one checkpoint, of step 0, that holds all that the model needs:
vljax.inference.load and vljax export read it. SRC is a folder; its format is found out: a
transformers folder (clip, siglip, siglip2, vit, dinov2, dinov2_with_registers, bert, roberta), an
open_clip folder, or one that `vljax export` wrote as safetensors or npz. A file of big_vision
(siglip.npz) holds weights alone, and takes --recipe, which says what they are of:

    vljax import siglip.npz OUT --recipe configs/siglip_vit_b16.py --data.tokenizer.path c4.model"""

_EXPORT = """\
Writes OUT, a folder that the other software loads as it is: weights, configuration, image
preprocessing and tokenizer. CHECKPOINT is one (W/checkpoints/STEP), or a workdir: its newest intact
one. Averaged parameters are taken where the run kept an average. What the format cannot express
ends the export; --accept names what may be lost.

formats:
"""

_FORMATS = {
    "transformers": "clip, siglip, siglip2, or a single tower (vit, dinov2, bert, roberta)",
    "open_clip": "CLIP, with or without custom_text, and SigLIP with a tower of timm",
    "safetensors": "all parameters under vljax's names; vljax.inference.load and import read it",
    "npz": "the same in a file of NumPy; import reads it",
    "stablehlo": "encoders as programs for any batch on cpu, cuda and tpu; jax runs them",
    "onnx": "encoders as graphs for any batch; onnxruntime runs them",
}
"""Those of `formats.MODULES`, in a line each."""


def add(commands: Any) -> None:
    """Adds both commands to a parser's sub-commands."""
    importing = commands.add_parser(
        "import",
        help="make a checkpoint of a model of other software",
        description=_IMPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    importing.add_argument("source", metavar="SRC", help="the folder or file to read")
    importing.add_argument(
        "--recipe",
        metavar="RECIPE",
        help="for a file of big_vision: a recipe whose model and tokenizer are meant, with --FIELD"
        " VALUE ... as `vljax train` takes them",
    )
    exporting = commands.add_parser(
        "export",
        help="write a checkpoint for other software",
        description=_EXPORT + "\n".join(f"  {name:13}{_FORMATS[name]}" for name in MODULES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    exporting.add_argument("source", metavar="CHECKPOINT", help="a checkpoint or a workdir")
    for command in (importing, exporting):
        command.add_argument("out", metavar="OUT", help="the folder to make")
    _add_export(exporting)
    for command in (importing, exporting):
        command.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
        command.add_argument(
            "--json", metavar="PATH", help="write the result as JSON too; - for standard output"
        )


def _add_export(exporting: argparse.ArgumentParser) -> None:
    """The arguments of `vljax export` alone."""
    exporting.add_argument(
        "--format", required=True, choices=MODULES, metavar="FORMAT", help=", ".join(MODULES)
    )
    exporting.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="of the arrays; float32 unless said otherwise",
    )
    exporting.add_argument(
        "--quantize",
        choices=FORMS,
        metavar="FORM",
        help="the kernels of linear maps, with --format safetensors, which vljax.inference.load"
        f" reads: {'; '.join(f'{name} ({form.meaning})' for name, form in FORMS.items())}",
    )
    exporting.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="LOSS",
        help="a loss that is acceptable, may be repeated: "
        + "; ".join(f"{name} ({meaning})" for name, meaning in ACCEPTABLE.items()),
    )
    exporting.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="with --format transformers, for the vocabulary of CLIP, which is built in: a"
        " tokenizer.json that gives the same ids",
    )
