"""`vljax data inspect`: statistics and problems of data sets, before training on them."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vljax.commands.data.arguments import SourceParser, count
from vljax.config import UserError
from vljax.data_tools.source_arguments import (
    parse_sources,
    parse_tokenizer,
    split_fields,
    tokenizer_with_fields,
)
from vljax.files import expand_user, filesystem, is_remote, write_file

if TYPE_CHECKING:
    from rich.console import Console

    from vljax.data.pipeline.pipeline import Data
    from vljax.data.records import Records, Source
    from vljax.data.tokenizers import LoadedTokenizer, Tokenizer
    from vljax.data_tools.inspection.inspect import InspectionOptions

_DESCRIPTION = """\
Looks at every example, or a sample: captions and their lengths, image sizes, formats and colours,
labels, duplicates, and unusable examples with the reason. --html also writes images and charts."""

_RECIPE = """\
Instead of SOURCE, a recipe (configs/NAME.py, with --data.source ... after it) gives its sources,
tokenizer and pixel limit."""


def run(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    """Inspects each source and prints tables of the results.

    Returns:
      `sources`: the result of `vljax.data_tools.inspection.inspect` for each; `html`: the file, if
      any.

    Raises:
      UserError: if a source cannot be opened, or an argument does not fit.
      SystemExit: after `--help`.
    """
    options, rest = _parser(prog).split(argv)
    _check(options)
    inputs = _inputs(rest, options, prog)
    from vljax.commands.data.index import indexed
    from vljax.commands.data.inspection_table import print_inspection
    from vljax.data_tools.inspection.inspect import InspectionOptions, inspect
    from vljax.progress import shown

    how = InspectionOptions(
        sample=options.sample,
        seed=options.sample_seed,
        workers=options.workers,
        tokenizer=inputs.tokenizer,
        max_pixels=inputs.max_pixels,
        decodes=not options.headers_only,
    )
    found = []
    for source in inputs.sources:
        records = indexed(source, options.workers)
        if not len(records):
            raise UserError(f"{source.full_name}: no examples{_left_out(records)}")
        with shown(source.full_name, "examined {:,} of {:,} examples") as progress:
            found.append(inspect(source, records, how, progress))
        print_inspection(console, found[-1].result)
    result: dict[str, Any] = {"sources": [inspection.result for inspection in found]}
    if options.html is not None:
        result["html"] = options.html
        _write(options.html, _page(found, how, options.pictures))
        console.print(f"wrote {options.html}", highlight=False, markup=False, soft_wrap=True)
    return result


def _left_out(records: Records) -> str:
    """Why a data set has no examples, for messages: what its filters left out."""
    counts = getattr(records, "counts", None)
    reasons = {} if counts is None else counts.left_out
    found = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
    return f" (left out: {found})" if found else ""


def _parser(prog: str) -> SourceParser:
    parser = SourceParser(
        prog,
        "SOURCE... [--sample N] [--html PATH] [--json PATH] [--FIELD VALUE ...]",
        _DESCRIPTION,
        f"\n{_RECIPE}",
    )
    add = parser.add_argument
    add("--sample", type=count, metavar="N", help="inspect only N random examples")
    add(
        "--sample-seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed (%(default)s)",
    )
    add(
        "--tokenizer",
        metavar="NAME",
        help="what counts tokens: TYPE, TYPE:PATH, a tokenizer.json, a .model, the tokenizer of a "
        "checkpoint, or none (clip, or the recipe's); --tokenizer.context_length 32 sets a field",
    )
    add("--headers-only", action="store_true", help="decode no image: faster, but damaged images "
        "and those that look alike stay unknown")  # fmt: skip
    add("--max-pixels", type=count, metavar="N", help="images with more cannot be used "
        "(64 million, or the recipe's)")  # fmt: skip
    add("--workers", type=count, metavar="N", help="processes; by default one a core")
    add(
        "--html",
        type=expand_user,
        metavar="PATH",
        help="write pictures and charts as one HTML file",
    )
    add("--pictures", type=count, default=60, metavar="N", help="examples in it (%(default)s)")
    add("--json", metavar="PATH", help="write the result as JSON too; - for stdout")
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.sample_seed < 0:
        raise UserError(f"--sample-seed: must be 0 or more, got {options.sample_seed}")
    if options.html is not None and os.path.isdir(options.html):
        raise UserError(f"--html {options.html}: is a folder; name a file in it")
    if options.html is not None and is_remote(options.html):
        filesystem(options.html)  # raises for an unusable URL now, not after the inspection


@dataclass(frozen=True)
class _Inputs:
    sources: list[Source]
    tokenizer: LoadedTokenizer | None
    max_pixels: int


def _inputs(argv: list[str], options: argparse.Namespace, prog: str) -> _Inputs:
    """The sources to inspect, the tokenizer and the pixel limit."""
    from vljax.data.transforms.decode import Decode

    fields, rest = split_fields(argv, "tokenizer")
    if rest and rest[0].partition(":")[0].endswith(".py"):
        return _recipe_inputs(rest, fields, options, prog)
    sources = parse_sources(rest, prog)
    return _Inputs(
        sources,
        parse_tokenizer(options.tokenizer or "clip", fields, prog),
        options.max_pixels or Decode().max_pixels,
    )


def _recipe_inputs(
    argv: list[str], fields: list[str], options: argparse.Namespace, prog: str
) -> _Inputs:
    from vljax import config
    from vljax.data.sources.mixture import parts_of
    from vljax.data.transforms.decode import Decode
    from vljax.overrides import override
    from vljax.run import Run

    spec, *overrides = argv
    run = config.validate(override(config.load(spec, Run), overrides, f"{prog} {spec}"))
    word, data = options.tokenizer, run.data
    decode = [each for each in data.train_transforms if isinstance(each, Decode)]
    return _Inputs(
        [part.source for part in parts_of(data.source).values()],
        parse_tokenizer(word, fields, prog)
        if word
        else tokenizer_with_fields(_text_tokenizer(data, spec), fields, f"{prog} {spec}"),
        options.max_pixels or [*decode, Decode()][0].max_pixels,
    )


def _text_tokenizer(data: Data, spec: str) -> Tokenizer:
    name = data.tokenizer_name()
    if name is None:
        raise UserError(f"{spec}: no transform makes text; name a tokenizer with --tokenizer")
    return data.tokenizers[name]


def _page(found: list[Any], how: InspectionOptions, pictures: int) -> str:
    from vljax.commands.data.inspection_page import inspection_page

    return inspection_page(found, how, pictures)


def _write(path: str, content: str) -> None:
    try:
        write_file(path, content.encode())
    except OSError as error:
        raise UserError(f"--html {path}: {error.strerror or error}") from None
