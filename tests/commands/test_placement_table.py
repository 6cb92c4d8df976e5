"""The table of parameter placement."""

import io

import pytest
from rich.console import Console

from vljax.commands.check import print_placement
from vljax.files import format_bytes
from vljax.parallel.placement import ParameterPlacement


def row(path, shape=(768, 3072), split=None, unsplit=None, held=1024):
    return ParameterPlacement(path, shape, ("embed", "mlp"), split or {}, unsplit or {}, 8192, held)


def printed(*rows):
    out = io.StringIO()
    print_placement(rows, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    return [" ".join(line.split()) for line in lines if "\u2500" not in line]


def test_similar_parameters_share_a_line():
    split = {"fsdp": "embed", "tensor": "mlp"}
    blocks = [
        row(f"{tower}/blocks/{i}/{name}/kernel", split=split)
        for tower in ("image", "text")
        for i in range(12)
        for name in ("query", "key")
    ]
    odd = row("text/blocks/3/up/kernel", split=split)
    shape = row("image/blocks/3/up/kernel", shape=(4, 6), split=split)
    table = row("text/embedding", split={"tensor": "vocab"})
    assert printed(*blocks, table, odd, shape, row("scale", shape=()), row("bias", shape=())) == [
        "parameter shape per device",
        "fsdp(embed), tensor(mlp)",
        "{image,text}/blocks/{0..11}/{query,key}/kernel 768 x 3072 48.0 KiB",
        "text/blocks/3/up/kernel 768 x 3072 1.0 KiB",
        "image/blocks/3/up/kernel 4 x 6 1.0 KiB",
        "tensor(vocab)",
        "text/embedding 768 x 3072 1.0 KiB",
        "whole",
        "2 arrays 2.0 KiB",
    ]


def test_paths_share_a_line_only_if_all_combinations_exist():
    split = {"fsdp": "embed"}
    paths = ("a/x", "a/y", "b/x", "2/z", "4/z")
    lines = printed(*(row(path, split=split) for path in paths))
    assert [line.split()[0] for line in lines[2:]] == ["{a,b}/x", "a/y", "{2,4}/z"]


def test_a_placement_without_splits_is_one_line():
    assert printed(row("a"), row("b")) == ["every parameter whole on each device: 2.0 KiB"]


def test_reasons_for_unsplit_parameters_are_printed():
    heads = {"tensor": "tensor 8 does not divide heads 12; 4 would do"}
    mlp = {"tensor": "tensor 8 does not divide mlp 30; 2 would do"}
    rows = (row("a/q", unsplit=heads), row("a/k", unsplit=heads), row("a/up", unsplit=mlp))
    assert printed(*rows)[1:] == [
        f"not split: {heads['tensor']}: a/{{q,k}} (2.0 KiB on each device)",
        f"not split: {mlp['tensor']}: a/up (1.0 KiB on each device)",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (812_623_880, "775 MiB"),
        (2**30 - 1, "1.0 GiB"),
        (10 * 2**30, "10.0 GiB"),
        (5000 * 2**40, "5,000 TiB"),
    ],
)
def test_bytes(count, text):
    assert format_bytes(count) == text
