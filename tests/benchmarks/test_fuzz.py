"""Damaged files in every reader, and that the fuzzer sees each kind of fault."""

import sys

import pytest

from benchmarks import fuzz

# Readers with every kind of fault, for a child process. Any file but the valid one is a fault.
FAULTY = """
import os, sys, time
from benchmarks import fuzz
from vljax.config import UserError

fuzz.CPU_SECONDS, fuzz.MEMORY = 1, 2**28
SEEDS = lambda: [fuzz.Seed("file", "0.bin", b"abc")]

def once_valid(act):
    def read(folder, file):
        return folder.name == "valid" or bool(act())
    return fuzz.Reader(SEEDS, read)

def spin():
    while True:
        pass

def long_line():
    raise type("Long", (UserError,), {"__str__": lambda self: "two\\nlines"})("")

def fill():
    return bytearray(7 * 2**26)[0] == 0  # below the limit of addresses

fuzz.READERS = {
    "raises": once_valid(lambda: {}["key"]),
    "crashes": once_valid(os.abort),
    "hangs": once_valid(spin),
    "writes_lines": once_valid(long_line),
    "fills_memory": once_valid(fill),
    "reads": once_valid(lambda: True),
}
fuzz.main()
"""


def test_each_kind_of_fault_is_seen_attributed_and_stored(tmp_path):
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    kinds = {
        "raises": "KeyError ('key')",
        "crashes": "signal SIGABRT",
        "hangs": "a hang: more than",
        "writes_lines": "a message of several lines",
        "fills_memory": "0.4 GiB of memory",
    }
    names = [*kinds, "reads"]
    result = fuzz.fuzz(names, inputs=1, seed=3, faults=tmp_path / "faults", script=script)
    assert {fault["reader"]: fault["fault"] for fault in result.faults}.keys() == kinds.keys()
    for fault in result.faults:
        assert kinds[fault["reader"]] in fault["fault"]
        stored = tmp_path / "faults" / f"{fault['reader']}.file.0.bin"
        seed = fuzz.Seed("file", "0.bin", b"abc")
        assert stored.read_bytes() == fuzz.changed(seed, fault["reader"], 3, 0)
    assert result.outcomes["reads"] == {"read": 1}


def test_a_stored_input_can_be_read_again(tmp_path, monkeypatch, capsys):
    (seed,) = (s for s in fuzz.READERS["safetensors"].seeds() if s.name == "header")
    stored = tmp_path / "safetensors.header.0.safetensors"
    stored.write_bytes(seed.content)
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--replay", str(stored)])
    fuzz.main()
    assert capsys.readouterr().out == "read\n"


def test_an_input_depends_on_seed_and_number_only():
    seed = fuzz.READERS["jsonl"].seeds()[0]
    first = [fuzz.changed(seed, "jsonl", 0, number) for number in range(20)]
    assert first == [fuzz.changed(seed, "jsonl", 0, number) for number in range(20)]
    assert len(set(first)) > 15
    assert first != [fuzz.changed(seed, "jsonl", 1, number) for number in range(20)]


def test_damaged_files_give_masked_examples_or_one_line(tmp_path):
    result = fuzz.fuzz(list(fuzz.READERS), inputs=20, seed=0, faults=tmp_path)
    assert result.faults == []
    for name, outcomes in result.outcomes.items():
        assert sum(outcomes.values()) == 20, name
        # Not every input is refused, and not every one is read intact.
        assert outcomes["refused"] < 20, name
        assert outcomes["read"] < 20, name


@pytest.mark.slow(
    subject=[
        "benchmarks/fuzz.py",
        "vljax/data/sources",
        "vljax/data/tokenizers",
        "vljax/data/transforms/features.py",
        "vljax/data/images.py",
        "vljax/data/opened_images.py",
        "vljax/data/records.py",
        "vljax/interop/files",
        "vljax/interop/foreign_config.py",
        "vljax/interop/historical.py",
        "vljax/interop/open_clip",
        "vljax/interop/transformers",
        "vljax/config.py",
        "vljax/files.py",
    ]
)
def test_thousands_of_damaged_files_give_masked_examples_or_one_line(tmp_path):
    result = fuzz.fuzz(list(fuzz.READERS), inputs=300, seed=1, faults=tmp_path)
    assert result.faults == []
    tried = sum(sum(outcomes.values()) for outcomes in result.outcomes.values())
    assert tried == len(fuzz.READERS) * 300
