"""`vljax data answers`: writes the vocabulary of answers, object names or tags of data sets."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vljax.commands.data.arguments import SourceParser, count
from vljax.config import UserError
from vljax.data.records import Source
from vljax.data.vocabulary import TermCounts, count_answers, count_names, count_tags
from vljax.data_tools.source_arguments import parse_sources
from vljax.files import write_file
from vljax.progress import shown

if TYPE_CHECKING:
    from rich.console import Console

_DESCRIPTION = """\
Counts the answers to the questions of data sets, or of the training data of a recipe, and writes
the most frequent ones, one per line, for encode_answers. With --objects it counts the names of
regions instead, for grid_labels; with --tags the tags of examples, for encode_tags."""


def run(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    """Counts, writes the file, and prints which share of the questions, regions or tags it covers.

    Args:
      argv: sources with their fields, or a recipe with overrides, and the options below.
      prog: the command, for messages.
      console: where to print the summary.

    Returns:
      `path`, `size`, `counted` (questions, regions or tags), `different` (texts among them), the
      `share` that the file covers, and `left_out`, the most frequent texts that are not in it.

    Raises:
      UserError: if a data set cannot be opened or has nothing to count, no text is frequent enough,
        or the file cannot be written.
      SystemExit: after `--help`.
    """
    args, rest = _parser(prog).split(argv)
    if args.out is None:
        raise UserError(f"name the file to write: {prog} ... --out answers.txt")
    sources, kinds = _sources(rest, prog)
    if args.objects and args.tags:
        raise UserError("--tags: cannot go with --objects; one file has one of them")
    what = "regions" if args.objects else "tags" if args.tags else "questions"
    counter: Counter[str] = Counter()
    for source in sources:
        with shown(source.full_name, f"counted the {what} of {{:,}} of {{:,}} examples") as done:
            if args.objects:
                found = count_names(source, examples=args.max_examples, progress=done)
            elif args.tags:
                found = count_tags(source, examples=args.max_examples, progress=done)
            else:
                found = count_answers(source, kinds, examples=args.max_examples, progress=done)
        counter.update(dict(found.counts))
    counts = TermCounts.of(counter)
    terms = counts.most_frequent(args.most, args.min_count)
    if not terms:
        names = ", ".join(source.full_name for source in sources)
        if counts.counts:
            term, most = counts.counts[0]
            raise UserError(
                f"--min-count {args.min_count}: no text is that frequent among the {what} of"
                f" {names}; the most frequent one, {term!r}, occurs {most:,} times"
            )
        raise UserError(f"{names}: no {what} to count; check which field holds them")
    try:
        write_file(args.out, "".join(f"{term}\n" for term in terms).encode())
    except OSError as error:
        raise UserError(f"--out {args.out}: {error.strerror or error}") from None
    others = [[term, number] for term, number in counts.counts if term not in {*terms}]
    result = {
        "path": args.out,
        "size": len(terms),
        "counted": counts.total,
        "different": len(counts.counts),
        "share": counts.share(terms),
        "left_out": others[:10],
    }
    console.print(
        f"{args.out}: {len(terms):,} of {len(counts.counts):,} different texts, for "
        f"{result['share']:.1%} of {counts.total:,} {what}",
        highlight=False,
        soft_wrap=True,
    )
    return result


def _parser(prog: str) -> SourceParser:
    usage = (
        "SOURCE... | RECIPE --out PATH [--most N] [--min-count N] [--objects | --tags] [--F VALUE]"
    )
    parser = SourceParser(prog, usage, _DESCRIPTION)
    parser.add_argument("--out", metavar="PATH", help="the file to write")
    parser.add_argument("--most", type=count, metavar="N", help="number of texts; all by default")
    parser.add_argument(
        "--min-count",
        type=count,
        default=1,
        metavar="N",
        help="how often a text must occur (%(default)s)",
    )
    parser.add_argument(
        "--max-examples",
        type=count,
        metavar="N",
        help="number of examples of each data set to count, from the first on; all by default",
    )
    parser.add_argument(
        "--objects", action="store_true", help="count names of regions, not answers"
    )
    parser.add_argument("--tags", action="store_true", help="count tags of examples, not answers")
    return parser


def _sources(argv: list[str], prog: str) -> tuple[list[Source], tuple[str, ...]]:
    """The sources to count, and the kinds of questions; all if there are none."""
    if not argv or not argv[0].partition(":")[0].endswith(".py"):
        return parse_sources(argv, prog), ()
    from vljax import config
    from vljax.data.sources.mixture import parts_of
    from vljax.data.transforms.questions import ChooseQuestions
    from vljax.overrides import override
    from vljax.run import Run

    spec, *overrides = argv
    # Not validated: the file of the vocabulary is not there yet.
    data = override(config.load(spec, Run), overrides, f"{prog} {spec}").data
    choices = [t for t in data.train_transforms if isinstance(t, ChooseQuestions)]
    kinds = tuple(kind for choice in choices for kind in choice.kinds)
    return [part.source for part in parts_of(data.source).values()], kinds
