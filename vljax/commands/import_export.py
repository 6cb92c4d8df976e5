"""`vljax import` and `vljax export`. Importing this file is cheap."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vljax.commands import recipe_arguments
from vljax.commands.output import write_json
from vljax.interop.formats import ACCEPTABLE, FORMATS
from vljax.models.quantization.forms import FORMS

if TYPE_CHECKING:
    from vljax.interop.convert import Converted, Row

NAMES = ("import", "export")

_IMPORT = """\
Makes OUT a workdir with one checkpoint, of step 0, that vljax.load and vljax export read.
SRC is a folder; its format is detected: a transformers folder (clip, siglip, siglip2, blip, lxmert,
vilt, visual_bert, vit, dinov2, dinov2_with_registers, bert, roberta), an open_clip folder, or one
that `vljax export` wrote as safetensors or npz. A file of big_vision (siglip.npz) holds only
weights; it needs --recipe, which describes the model:

    vljax import siglip.npz OUT --recipe configs/siglip_vit_b16.py \\
        --data.tokenizers.text.path c4.model"""

_EXPORT = """\
Writes OUT, a folder that the other software loads as it is: weights, configuration, image
preprocessing and tokenizer. CHECKPOINT is a checkpoint (W/checkpoints/STEP), or a workdir for its
newest intact one. EMA parameters are exported if the run kept them. The export names all that the
format cannot express, with the flags that it needs; --accept names the issues that are acceptable.
`vljax check RECIPE --for FORMAT` tells the same before training.

formats:
"""


def add(commands: Any) -> None:
    """Adds both commands to a parser's sub-commands."""
    importing = commands.add_parser(
        "import",
        help="make a checkpoint from a model of other software",
        description=_IMPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    importing.add_argument("source", metavar="SRC", help="the folder or file to read")
    importing.add_argument(
        "--recipe",
        metavar="RECIPE",
        help="for a file of big_vision: the recipe with its model and tokenizer, with --FIELD"
        " VALUE ... as for `vljax train`",
    )
    exporting = commands.add_parser(
        "export",
        help="write a checkpoint for other software",
        description=_EXPORT + "\n".join(f"  {n:13}{entry.help}" for n, entry in FORMATS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    exporting.add_argument("source", metavar="CHECKPOINT", help="a checkpoint or a workdir")
    for command in (importing, exporting):
        command.add_argument("out", metavar="OUT", help="the folder to make")
    exporting.add_argument(
        "--format", required=True, choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS)
    )
    exporting.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="data type of the arrays; float32 by default",
    )
    exporting.add_argument(
        "--quantize",
        choices=FORMS,
        metavar="FORM",
        help="quantize the kernels of linear maps, with --format safetensors, for"
        f" vljax.load: {'; '.join(f'{n} ({form.meaning})' for n, form in FORMS.items())}",
    )
    exporting.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="ISSUE",
        help="an export issue to accept, may be repeated: "
        + "; ".join(f"{name} ({meaning})" for name, meaning in ACCEPTABLE.items()),
    )
    exporting.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="with --format transformers, for CLIP's vocabulary, which is built in: a"
        " tokenizer.json that gives the same ids",
    )
    for command in (importing, exporting):
        command.add_argument("--overwrite", action="store_true", help="replace the folder at OUT")
        command.add_argument(
            "--json", metavar="PATH", help="write the result as JSON too; - for standard output"
        )


def add_check_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `vljax check` about the export of the model that a recipe will train."""
    parser.add_argument(
        "--for",
        metavar="FORMATS",
        help="list all that these formats cannot express of the trained model, and the overrides of"
        f" the recipe that avoid it; several are separated by commas: {', '.join(FORMATS)}",
    )
    parser.add_argument(
        "--accept",
        metavar="ISSUES",
        help=f"export issues to accept, separated by commas: {', '.join(ACCEPTABLE)}",
    )
    parser.add_argument(
        "--suggest",
        action="store_true",
        help="print all overrides together, as one command that trains such a model",
    )


def run(name: str, parser: argparse.ArgumentParser, argv: list[str], prog: str) -> int:
    """Runs `import` or `export`, prints the table of mapped arrays, and returns the exit status.

    Raises:
      UserError: for bad input.
    """
    asked, rest = parser.parse_known_args(argv)
    recipe = None if name == "export" else asked.recipe
    if recipe is None:
        asked = parser.parse_args(argv)  # reports unknown arguments
    # Nothing here needs an accelerator, and starting one takes time.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from vljax.interop.convert import export_model, import_model
    from vljax.progress import shown

    recipe_run = None
    if recipe is not None:
        recipe_run = recipe_arguments.load_run([recipe, *rest], f"{prog} {name}")
    with shown(name, "{:,} of {:,} bytes", "bytes") as report:
        if name == "import":
            done = import_model(
                asked.source,
                asked.out,
                recipe=recipe_run,
                overwrite=asked.overwrite,
                report=report,
            )
        else:
            done = export_model(
                asked.source,
                asked.out,
                asked.format,
                dtype=asked.dtype,
                quantize=asked.quantize,
                accept=asked.accept,
                vocabulary=asked.tokenizer,
                overwrite=asked.overwrite,
                report=report,
            )
    if asked.json != "-":
        _print_mapping(done)
    write_json(asked.json, done.as_dict())
    return 0


def _print_mapping(converted: Converted) -> None:
    """Prints the mapping of parameters, with one row for all blocks of a tower."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{converted.format_title}: {converted.out}", title_justify="left")
    for column in ("vljax", converted.format_title, "shape", "layout", "arrays"):
        table.add_column(column, overflow="fold", justify="right" if column == "arrays" else "left")
    for (own, foreign, change), rows in _grouped(converted.rows).items():
        shape = " x ".join(map(str, rows[0].shape)) or "scalar"
        table.add_row(own, foreign, shape, change, str(len(rows)))
    console = Console(emoji=False)
    console.print(table)
    size = converted.nbytes / 1e6
    console.print(f"{converted.parameters:,} parameters, {size:,.1f} MB", highlight=False)
    for note in converted.notes:
        console.print(f"note: {note}", highlight=False)


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        own = "\n".join(_any_layer(path) for path in row.own)
        groups.setdefault((own, _any_layer(row.foreign), row.change), []).append(row)
    return groups


def _any_layer(name: str) -> str:
    return re.sub(r"(?<=[/._])\d+(?=[/.])", "*", name)
