"""Damaged files for every reader of files: what happens when they are read?

    python benchmarks/fuzz.py --seconds 600
    python benchmarks/fuzz.py --inputs 200 --readers tar parquet --seed 7
    python benchmarks/fuzz.py --replay runs/fuzz/tar.file.17.tar

A small valid file of each kind is made, changed at random, and read as a user would read it. Each
input has one of these outcomes:

    read      it was read, and the values have the types and ranges that the interface promises
    masked    every problem was an `ExampleError`: the example is masked out
    refused   one clear line (`UserError`)
    fault     anything else: another exception, a message of several lines, a signal, more than 10
              seconds of CPU time, or more than 2 GiB of memory

Inputs are read in a child process, so that a crash is seen and attributed to its input. An input
depends on seed, reader and number only. The input of each fault is stored, and `--replay` reads it
again in this process, with the traceback. The exit status is 1 if there was a fault.

Formats with checksums or compression would hide most changes from the code behind them. Their
readers have variants that change the content inside and then wrap it as a valid file: the headers
of a tar with their checksums, the pickle of a `.pth`, the records of an ArrayRecord file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CPU_SECONDS, WALL_SECONDS = 10, 120  # of one input; the second for a reader that waits for ever
MEMORY = 2 << 30  # bytes that reading one input may add
MOST_CHARACTERS = 2000  # of one message
MOST_RECORDS = 50  # of one input
STORED = Path(__file__).parents[1] / "tests" / "parity" / "data"


@dataclass(frozen=True)
class Seed:
    """A valid file that is changed."""

    name: str
    """Name of the variant, without dots."""
    file: str
    """Name of the file in the folder of the input."""
    content: bytes
    """What is changed."""
    wrap: Callable[[bytes], bytes] = bytes
    """Makes the file from the changed content."""
    beside: dict[str, bytes] = field(default_factory=dict)
    """Other files of the folder, which stay intact."""
    files: Callable[[bytes], dict[str, bytes]] | None = None
    """In place of `file` and `wrap`: makes all files of the folder from the changed content."""
    text: bool = False
    """Whether the content is text: its words and lines are changed too."""
    form: str = "json"
    """What the structural changes of a text follow: "json", "lines" of JSON, or "table"."""


@dataclass(frozen=True)
class Reader:
    """A public reader of files."""

    seeds: Callable[[], list[Seed]]
    """Makes the valid files."""
    read: Callable[[Path, Path], bool]
    """Reads the file (folder, file); whether nothing was masked out. Raises UserError."""


# --- Changes --------------------------------------------------------------------------------------

_NUMBERS = (0, 1, 2, 7, 255, 256, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)
_TEXTS = (
    "", "\0", "..", "/", "a" * 5000, "9" * 5000, "\ud800", "\u202e", "\U0001f9ff", "1e999", "NaN",
    "-1", "None", "true", "\r", "\n\n", "\x1b[31m", "nul\0byte.jpg", "../../../etc/hostname",
    "memory://x", "http://",
)  # fmt: skip


def _number(rng: random.Random, old: int = 0) -> int:
    return rng.choice([*_NUMBERS, old + 1, old - 1, old * 2, -old, -1, rng.getrandbits(32)])


def _span(rng: random.Random, size: int) -> tuple[int, int]:
    """Start and end of a block, mostly a short one, often near one end of the file."""
    length = min(size, int(2 ** rng.uniform(0, 10)))
    room = size - length
    near = int(2 ** rng.uniform(0, 9)) - 1
    start = rng.choice([min(near, room), max(0, room - near), rng.randint(0, room)])
    return start, start + length


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    """One random change of any content."""
    data = bytearray(content)
    start, end = _span(rng, len(data))
    block = bytes(data[start:end])
    match rng.randrange(10):
        case 0 | 1 if data:
            for _ in range(rng.choice((1, 1, 2, 8))):
                where = rng.choice((start, rng.randrange(len(data))))
                data[min(where, len(data) - 1)] ^= 1 << rng.randrange(8)
        case 2:
            del data[rng.randint(0, len(data)) :]
        case 3:
            del data[start:end]
        case 4:
            data[end:end] = block * rng.choice((1, 1, 3, 100))
        case 5:
            data[start:start] = rng.randbytes(rng.choice((1, 2, 4, 16, 512)))
        case 6:
            data[start:end] = rng.choice((b"\0", b"\xff", b" ")) * len(block)
        case 7:
            other, _ = _span(rng, len(data))
            data[other : other + len(block)] = block
        case 8:  # a length or another number in a header
            size = rng.choice((1, 2, 4, 8))
            order: Any = rng.choice(("little", "big"))
            old = int.from_bytes(data[start : start + size], order)
            new = _number(rng, old) % (1 << 8 * size)
            data[start : start + size] = new.to_bytes(size, order)
        case _:  # a number in digits
            found = list(re.finditer(rb"\d+", data))
            if found:
                digits = rng.choice(found)
                text = str(_number(rng, int(digits[0][:30]))).encode()
                keep = rng.random() < 0.5  # the length, as tar needs
                width = len(digits[0])
                data[digits.start() : digits.end()] = (
                    text.rjust(width, b"0")[:width] if keep else text
                )
    return bytes(data)


def _value(rng: random.Random, old: Any) -> Any:
    if isinstance(old, int | float) and rng.random() < 0.5:
        return rng.choice([_number(rng, int(old)), -old, old + 0.5, str(old), float("nan"), 1e308])
    return rng.choice(
        [
            *(None, True, False, [], {}, [old], {"a": old}, str(old), [[]], _number(rng), -1.5),
            *(10**400, float("inf"), rng.choice(_TEXTS), rng.choice(_TEXTS)),
        ]
    )


def change_json(rng: random.Random, value: Any) -> Any:
    """The value with one node replaced, removed, renamed, or exchanged with another."""
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        # A long list (the words of a vocabulary) counts as a few nodes.
        for key in rng.sample(list(keys), min(len(keys), 12)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    if isinstance(value, dict | list):
        visit(value)
    if not places or rng.random() < 0.03:
        return _value(rng, value)
    node, key = rng.choice(places)
    match rng.randrange(8):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[rng.choice([*_TEXTS, key + "x", key[:-1]])] = node.pop(key)
        case 2:
            other, name = rng.choice(places)
            with contextlib.suppress(LookupError):
                node[key], other[name] = other[name], node[key]
        case 3 if isinstance(node, list):
            node.extend([node[key]] * rng.choice((1, 100)))
        case _:
            node[key] = _value(rng, node[key])
    return value


def change_text(rng: random.Random, content: bytes, form: str) -> bytes:
    """One change of a text: of its structure, its values or its encoding."""
    text = content.decode(errors="replace")
    kind = rng.randrange(8)
    if kind == 0:  # the encoding
        codec = rng.choice(
            ("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "cp500", "latin-1", "utf-7")
        )
        return text.encode(codec, "replace")
    if kind == 1:
        return text.replace("\n", rng.choice(("\r", "\r\n", "\0", "\u2028"))).encode()
    if kind == 2 and form != "table":  # nesting deeper than any parser's stack
        depth = rng.choice((100, 1000, 100_000))
        deep = rng.choice(("[", '{"a":')) * depth
        start = rng.choice((0, content.find(b":") + 1))
        return content[:start] + deep.encode() + content[start:]
    if form == "table":
        delimiter = "\t" if "\t" in text else ","
        rows = [line.split(delimiter) for line in text.split("\n")]
        for _ in range(rng.choice((1, 2))):
            row = rng.choice(rows) if rows else []
            change = rng.randrange(6)
            if not row or change == 0:
                rows.insert(
                    rng.randint(0, len(rows)), [rng.choice(_TEXTS)] * rng.choice((1, 3, 500))
                )
            elif change == 1:
                row.pop(rng.randrange(len(row)))
            elif change == 2:
                row.insert(rng.randint(0, len(row)), str(_number(rng)))
            else:
                row[rng.randrange(len(row))] = rng.choice([*_TEXTS, str(_number(rng)), '"', 'x"y'])
        lines = [delimiter.join(row) for row in rows]
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    options: dict[str, Any] = {"ensure_ascii": rng.random() < 0.5}
    try:
        if form == "lines":
            lines = text.splitlines()
            number = rng.randrange(len(lines))
            lines[number] = json.dumps(change_json(rng, json.loads(lines[number])), **options)
            changed = "\n".join(lines)
        else:
            changed = json.dumps(change_json(rng, json.loads(text)), **options)
    except (ValueError, IndexError, ArithmeticError, RecursionError):  # no JSON any more
        return change_bytes(rng, content)
    return changed.encode("utf-8", "surrogatepass")


def changed(seed: Seed, reader: str, base: int, number: int) -> bytes:
    """The content of an input: the seed's, changed one to three times."""
    rng = random.Random(f"{base} {reader} {seed.name} {number}")
    content = seed.content
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if seed.text and rng.random() < 0.7:
            content = change_text(rng, content, seed.form)
        else:
            content = change_bytes(rng, content)
    return content


# --- Valid files ----------------------------------------------------------------------------------


def image_bytes(format: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    """A small image file."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 4), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode).save(out, format, **options)
    return out.getvalue()


def _exif() -> Any:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


_ABOUT = {"caption": "a cat", "tags": ["grey", "small"], "width": 24, "class": "cat", "n": 1.5}


def _about() -> bytes:
    return json.dumps(_ABOUT).encode()


def tar_of(members: dict[str, bytes]) -> bytes:
    """A tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def with_tar_checksums(content: bytes) -> bytes:
    """A tar file whose headers have the right checksums."""
    data = bytearray(content)
    for start in range(0, len(data) - 511, 512):
        if data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b" " * 8
            total = sum(data[start : start + 512])
            data[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(data)


def _tar_seeds() -> list[Seed]:
    members: dict[str, bytes] = {}
    for i in range(3):
        members |= {f"{i}.jpg": image_bytes(), f"{i}.txt": b"a cat", f"{i}.json": _about()}
    whole = tar_of(members)
    pax = io.BytesIO()
    with tarfile.open(fileobj=pax, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in members.items():
            member = tarfile.TarInfo("f\xe4" * 80 + name)
            member.size = len(text)
            member.pax_headers = {"comment": "a cat", "mtime": "1.5"}
            tar.addfile(member, io.BytesIO(text))
    return [
        Seed("file", "0.tar", whole),
        Seed("headers", "0.tar", whole, with_tar_checksums),
        Seed("pax", "0.tar", pax.getvalue(), with_tar_checksums),
        Seed("json", "0.tar", _about(), lambda c: tar_of({**members, "1.json": c}), text=True),
    ]


def _parquet_of(columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    table = pyarrow.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    parquet.write_table(table, out, row_group_size=2)
    return out.getvalue()


def _parquet_seeds() -> list[Seed]:
    import pyarrow

    columns = {
        "image": [image_bytes()] * 3,
        "caption": ["a cat", "a dog", None],
        "tags": [["grey"], [], ["small", "old"]],
        "class": ["cat", "dog", "cat"],
    }
    classes = {"info": {"features": {"class": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    stated = {**columns, "class": [0, 1, 0]}

    def text(content: bytes) -> bytes:
        # A column that says that it is UTF-8, with bytes that may not be.
        offsets = struct.pack("<3i", 0, len(content), 2 * len(content))
        buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(content * 2)]
        captions = pyarrow.Array.from_buffers(pyarrow.string(), 2, buffers)
        return _parquet_of(
            {"image": [image_bytes()] * 2, "caption": captions, "tags": [[]] * 2, "class": captions}
        )

    return [
        Seed("file", "0.parquet", _parquet_of(columns)),
        Seed("values", "0.parquet", b"a cat", text),
        Seed(
            "metadata",
            "0.parquet",
            json.dumps(classes).encode(),
            lambda c: _parquet_of(stated, {b"huggingface": c}),
            text=True,
        ),
    ]


def _table(delimiter: str) -> bytes:
    rows = ["image,caption,tags,class", "0.jpg,a cat,grey,cat", '1.jpg,"a ""big"" dog",,dog']
    return "\n".join([*rows, "0.jpg,\xe4pfel,red,-1", ""]).replace(",", delimiter).encode()


def _images() -> dict[str, bytes]:
    return {"0.jpg": image_bytes(), "1.jpg": image_bytes()}


def _line_seeds() -> list[Seed]:
    lines = [
        {"image": "0.jpg", "caption": "a cat", "tags": ["grey"], "class": "cat", "n": 1},
        {"image": "1.jpg", "captions": ["a dog", "asleep"], "class": "dog", "question": "what?"},
        {"image": "0.jpg", "caption": "\xe4pfel", "class": None},
    ]
    questions = {"question": "what?", "answers": ["cat", "cat", "dog"], "boxes": [[1, 2, 10, 12]]}
    asked = [{"image": "0.jpg", "caption": "a cat", **questions}] * 2
    many = [("file", lines), ("asked", asked)]
    return [
        Seed(
            name,
            "0.jsonl",
            "\n".join(map(json.dumps, rows)).encode(),
            beside=_images(),
            text=True,
            form="lines",
        )
        for name, rows in many
    ]


def _folder_seeds() -> list[Seed]:
    beside = {"cat/1.jpg": image_bytes(), "dog/0.jpg": image_bytes(), "dog/0.txt": b"a dog"}
    names = b"cat/0.jpg\ncat/0.txt\ncat/0.json\ndog/1.PNG\ndog/1.Txt\n2.webp"

    def named(content: bytes) -> dict[str, bytes]:
        files = {}
        for name in content.split(b"\n"):
            files[os.fsdecode(name)] = image_bytes() if b"." in name else b"a cat"
        return files

    return [
        Seed(
            "text", "cat/0.txt", b"a cat\nasleep\n", beside={**beside, "cat/0.jpg": image_bytes()}
        ),
        Seed("image", "cat/0.jpg", image_bytes(), beside={**beside, "cat/0.txt": b"a cat"}),
        Seed("names", "names.txt", names, files=named),
    ]


def _array_record_of(records: list[bytes]) -> bytes:
    from array_record.python.array_record_module import ArrayRecordWriter

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "0.array_record")
        writer = ArrayRecordWriter(path, "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return Path(path).read_bytes()


def _array_record_seeds() -> list[Seed]:
    from vljax.data.sources.record_format import LAYOUT, pack

    about = {
        "captions": ["a cat"],
        "tags": ["grey"],
        LAYOUT: {
            "regions": [{"name": "cat", "box": [1, 2, 10, 12], "colour": None}],
            "phrases": [{"caption": 0, "start": 0, "end": 5, "regions": [0]}],
            "questions": [{"kind": "what", "text": "what?", "answer": "cat"}],
            "masks": "aGVsbG8=",
        },
    }
    good = pack(about, image_bytes())
    return [
        Seed("file", "0.array_record", _array_record_of([good] * 3)),
        Seed("record", "0.array_record", good, lambda c: _array_record_of([good, c])),
        Seed(
            "json",
            "0.array_record",
            json.dumps(about).encode(),
            lambda c: _array_record_of(
                [good, b"VLX1" + struct.pack("<I", len(c)) + c + image_bytes()]
            ),
            text=True,
        ),
    ]


def with_png_checksums(content: bytes) -> bytes:
    """A PNG file whose chunks have the right checksums, as far as their lengths can be followed."""
    data, start = bytearray(content), 8
    while start + 12 <= len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        end = start + 8 + size
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[start + 4 : end]).to_bytes(4, "big")
        start = end + 4
    return bytes(data)


def _image_seeds(ending: str) -> Callable[[], list[Seed]]:
    def seeds() -> list[Seed]:
        of: dict[str, list[tuple[str, dict[str, Any]]]] = {
            "jpg": [
                ("rgb", {}),
                ("exif", {"exif": _exif()}),
                ("progressive", {"progressive": True}),
                ("cmyk", {"mode": "CMYK"}),
            ],
            "png": [("rgb", {}), ("palette", {"mode": "P"}), ("alpha", {"mode": "RGBA"})],
            "webp": [("lossy", {}), ("lossless", {"lossless": True, "exif": _exif()})],
            "tif": [
                ("raw", {}),
                ("lzw", {"compression": "tiff_lzw"}),
                ("grey", {"mode": "F"}),
                ("jpeg", {"compression": "jpeg"}),
            ],
            "gif": [("palette", {"mode": "P"})],
            "bmp": [("rgb", {})],
        }
        formats = {"jpg": "JPEG", "tif": "TIFF"}
        format = formats.get(ending, ending.upper())
        made = [Seed(n, f"0.{ending}", image_bytes(format, **o)) for n, o in of[ending]]
        if ending == "png":
            made += [Seed(f"{s.name}_crc", s.file, s.content, with_png_checksums) for s in made]
        return made

    return seeds


def _arrays() -> dict[str, Any]:
    import numpy as np

    return {
        "a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
        "a/bias": np.zeros(4, np.int8),
    }


def _safetensors_seeds() -> list[Seed]:
    from safetensors.numpy import save

    whole = save(_arrays())
    size = int.from_bytes(whole[:8], "little")
    header, rest = whole[8 : 8 + size], whole[8 + size :]
    index = {
        "metadata": {"total_size": 52},
        "weight_map": dict.fromkeys(_arrays(), "0.safetensors"),
    }
    return [
        Seed("file", "0.safetensors", whole),
        Seed(
            "header",
            "0.safetensors",
            header,
            lambda c: len(c).to_bytes(8, "little") + c + rest,
            text=True,
        ),
        Seed(
            "index",
            "model.safetensors.index.json",
            json.dumps(index).encode(),
            beside={"0.safetensors": whole},
            text=True,
        ),
    ]


def _rezipped(whole: bytes, name: str, content: bytes) -> bytes:
    """A zip archive with one member replaced; nothing is compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            new.writestr(member, content if member == name else old.read(member))
    return out.getvalue()


def _member_seed(name: str, file: str, whole: bytes, suffix: str) -> Seed:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        member = next(m for m in archive.namelist() if m.endswith(suffix))
        return Seed(name, file, archive.read(member), lambda c: _rezipped(whole, member, c))


def _torch_seeds() -> list[Seed]:
    files = {
        name: (STORED / f"torch_{name}.pth").read_bytes()
        for name in ("zip", "legacy", "newer_types", "protocol_4")
    }
    seeds = [Seed(name, "0.pth", content) for name, content in files.items()]
    for name in ("zip", "newer_types", "protocol_4"):
        seeds.append(_member_seed(f"{name}_pickle", "0.pth", files[name], "data.pkl"))
    return seeds


def _npz_seeds() -> list[Seed]:
    import numpy as np

    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, **_arrays())
    np.savez_compressed(packed, **_arrays())
    return [
        Seed("file", "0.npz", plain.getvalue()),
        Seed("compressed", "0.npz", packed.getvalue()),
        _member_seed("array", "0.npz", plain.getvalue(), "kernel.npy"),
    ]


def _feature_seeds() -> list[Seed]:
    import numpy as np

    arrays = {"features": np.arange(12, dtype=np.float32).reshape(3, 4)}
    arrays["boxes"] = np.tile(np.float32([0, 0.25, 0.5, 1]), (3, 1))
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, **arrays)
    np.savez_compressed(packed, **arrays)
    return [
        Seed("file", "0.npz", plain.getvalue()),
        Seed("compressed", "0.npz", packed.getvalue()),
        _member_seed("array", "0.npz", plain.getvalue(), "features.npy"),
    ]


_MODELS = (
    "transformers_clip_a", "transformers_siglip_a", "siglip2_a", "vit_a", "bert_a", "dinov2_a",
    "open_clip_clip_a", "blip_a", "lxmert_a", "vilt_a", "visual_bert_a",
)  # fmt: skip


def _config_seeds() -> list[Seed]:
    seeds = []
    for model in _MODELS:
        with zipfile.ZipFile(STORED / "interop" / f"{model}.zip") as archive:
            files = {n: archive.read(n) for n in archive.namelist() if not n.endswith("/")}
        for name, content in files.items():
            if name.endswith((".json", "spiece.model")):
                beside = {n: c for n, c in files.items() if n != name}
                variant = f"{model}-{Path(name).stem}"
                text = name.endswith(".json")
                seeds.append(Seed(variant, name, content, beside=beside, text=text))
    return seeds


def _tokenizer_seeds() -> list[Seed]:
    from vljax.data.tokenizers import HuggingFace
    from vljax.data.tokenizers.train import train_bpe

    bpe = train_bpe(["a cat", "a cat and a dog"], vocab_size=270).encode()
    seeds = [Seed("bpe", "tokenizer.json", bpe, text=True)]
    with zipfile.ZipFile(STORED / "interop" / "bert_a.zip") as archive:
        words = next(n for n in archive.namelist() if n.endswith("tokenizer.json"))
        seeds.append(Seed("words", "tokenizer.json", archive.read(words), text=True))
    saved = json.loads(
        HuggingFace("tokenizer.json", context_length=8).load_vocabulary(bpe).files()["config.json"]
    )
    content = json.dumps(saved).encode()
    return [
        *seeds,
        Seed("saved", "config.json", content, beside={"tokenizer.json": bpe}, text=True),
    ]


def _sentencepiece_seeds() -> list[Seed]:
    import sentencepiece

    seeds = []
    for kind in ("unigram", "bpe"):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a cat and a dog", "two dogs", "a small grey cat"] * 20),
            model_writer=model,
            model_type=kind,
            vocab_size=30,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        seeds.append(Seed(kind, "0.model", model.getvalue()))
    return seeds


# --- Readers --------------------------------------------------------------------------------------


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def _each_record(records: Any) -> bool:
    """Reads and decodes the first records; whether all could be read."""
    from vljax.data.images import decode_image
    from vljax.data.records import ExampleError

    intact = True
    for name in records.class_names:
        name.encode()
    for index in range(min(len(records), MOST_RECORDS)):
        try:
            records.annotation(index)
            record = records[index]
            for text in (*record.captions, *record.tags):
                text.encode()
            label = record.label
            _require(label is None or 0 <= label < 2**31, f"label {label!r}")
            names = records.class_names
            _require(label is None or not names or label < len(names), f"label {label!r}")
            pixels = decode_image(record.image, (0, 0, 0), 64_000_000)
            _require(pixels.ndim == 3 and pixels.shape[2] == 3, f"pixels {pixels.shape}")
            records.other_columns(index)
        except ExampleError as error:
            _check(error)
            intact = False
    return intact


def _read_source(make: Callable[[Path, Path], Any]) -> Callable[..., bool]:
    def read(folder: Path, file: Path) -> bool:
        intact = _each_record(make(folder, file).open())
        opened = make(folder, file).open_with_all_columns(1, lambda done, total: None)
        return intact & _each_record(opened)

    return read


def _source(name: str, **options: Any) -> Callable[[Path, Path], Any]:
    def make(folder: Path, file: Path) -> Any:
        from vljax.data import sources
        from vljax.data.sources.filters import Length, Range

        number = int.from_bytes(file.read_bytes()[-64:], "little") if file.is_file() else 0
        filters: Any = {"tar": (Range("json.width", 1, 100),), "jsonl": (Range("n", 0, 9),)}
        filters |= {"csv": (Length("caption", 1, 90),), "parquet": (Length("caption", 1, 90),)}
        more: dict[str, Any] = {**options}
        # Every other input goes through filters, whose code reads values too.
        if number % 2 and name in filters:
            more["filters"] = filters[name]
        if name == "tar":
            more["index_folder"] = str(folder / "index")
        return getattr(sources, _SOURCES[name])(str(folder if name == "folder" else file), **more)

    return make


_SOURCES = {"tar": "WebDataset", "parquet": "Parquet", "csv": "Csv", "tsv": "Tsv"}
_SOURCES |= {"jsonl": "JsonLines", "folder": "Folder", "array_record": "ArrayRecord"}


def _read_lines(folder: Path, file: Path) -> bool:
    asked = b"boxes" in file.read_bytes()
    more = {"question": "question", "answers": "answers", "boxes": "boxes"} if asked else {}
    return _read_source(_source("jsonl", **more))(folder, file)


def _read_image(folder: Path, file: Path) -> bool:
    from vljax.data.images import Box, JpegImage, decode_image, image_errors, read_header
    from vljax.data.records import ExampleError

    content, intact = file.read_bytes(), True

    def part() -> None:
        with image_errors(content):
            jpeg = JpegImage.open(content)
            if jpeg is not None and jpeg.shape[0] * jpeg.shape[1] <= 64_000_000:
                pixels = jpeg.part(Box(0, 0, jpeg.shape[0], jpeg.shape[1]), 4, 4).pixels
                _require(pixels.ndim == 3, f"pixels {pixels.shape}")

    for read in (lambda: read_header(content), lambda: _pixels(decode_image, content), part):
        try:
            read()
        except ExampleError as error:
            _check(error)
            intact = False
    return intact


def _read_features(folder: Path, file: Path) -> bool:
    import numpy as np

    from vljax.data.records import ExampleError, Record
    from vljax.data.transforms import DecodeFeatures

    transform, record = DecodeFeatures(most=5, dim=4), Record(captions=(), image=file.read_bytes())
    try:
        made = transform({"record": record}, np.random.default_rng(0))
    except ExampleError as error:
        _check(error)
        return False
    _require(bool(np.isfinite(made["regions"]).all()), "features that are not finite")
    _require(made["regions"].shape == (5, 4), f"{made['regions'].shape}")
    return True


def _pixels(decode: Any, content: bytes) -> None:
    pixels = decode(content, (0, 0, 0), 64_000_000)
    _require(pixels.dtype == "uint8" and pixels.shape[2:] == (3,), f"{pixels.shape}")


def _read_weights(folder: Path, file: Path) -> bool:
    from vljax.interop.files.read import read_tensors, read_weights

    if file.name.endswith(".index.json"):
        tensors = read_weights(folder, ["model.safetensors"])
    else:
        tensors = read_tensors(str(file))
    for name, tensor in tensors.items():
        _require(isinstance(name, str), f"name {name!r}")
        array = tensor.read()
        _require(tuple(array.shape) == tuple(tensor.shape), f"{array.shape}, {tensor.shape}")
        _require(array.dtype.itemsize == tensor.dtype.itemsize, f"{array.dtype}, {tensor.dtype}")
        array.sum() if array.dtype.kind in "fiu" else array.tobytes()
    return True


def _read_config(folder: Path, file: Path) -> bool:
    from vljax import config
    from vljax.interop.formats import find_format

    name = "open_clip" if (folder / "open_clip_config.json").exists() else "transformers"
    form = find_format(name)
    _require(form.read is not None, name)
    if not form.recognises(folder):
        return True
    model = form.read(folder)  # type: ignore[misc]
    config.validate(model.run)
    return True


def _read_tokenizer(folder: Path, file: Path) -> bool:
    from vljax.data.tokenizers import HuggingFace, SentencePiece, load_tokenizer

    if file.name == "config.json":
        tokenizer = load_tokenizer(str(folder))
    elif file.suffix == ".json":
        names = {"pad_token": "<pad>", "eos_token": "</s>"}
        if b"[SEP]" in file.read_bytes():
            names = {"pad_token": "[PAD]", "eos_token": "[SEP]"}
        tokenizer = HuggingFace(str(file), context_length=8, **names).load()  # type: ignore[arg-type]
    else:
        tokenizer = SentencePiece(str(file), context_length=8).load()
    texts = ["a cat", "", "\U0001f9ff \u9f98", "x" * 300, "</s> <pad>\0"]
    ids, mask = tokenizer(texts)
    _require(ids.shape == mask.shape == (5, tokenizer.context_length), f"{ids.shape}")
    _require(bool((ids >= 0).all() and (ids < tokenizer.vocab_size).all()), "an id out of range")
    for text in tokenizer.decode(ids):
        _require(isinstance(text, str), f"{text!r}")
    return True


_COLUMNS = {"tags": "tags", "label": "class"}
READERS = {
    "tar": Reader(
        _tar_seeds,
        _read_source(
            _source("tar", captions=("txt", "json.caption"), tags="json.tags", label="json.class")
        ),
    ),
    "parquet": Reader(_parquet_seeds, _read_source(_source("parquet", **_COLUMNS))),
    "csv": Reader(
        lambda: [Seed("file", "0.csv", _table(","), beside=_images(), text=True, form="table")],
        _read_source(_source("csv", **_COLUMNS)),
    ),
    "tsv": Reader(
        lambda: [Seed("file", "0.tsv", _table("\t"), beside=_images(), text=True, form="table")],
        _read_source(_source("tsv", **_COLUMNS)),
    ),
    "jsonl": Reader(_line_seeds, _read_lines),
    "folder": Reader(_folder_seeds, _read_source(_source("folder"))),
    "array_record": Reader(_array_record_seeds, _read_source(_source("array_record", label=None))),
    **{
        name: Reader(_image_seeds(ending), _read_image)
        for name, ending in (
            *(("jpeg", "jpg"), ("png", "png"), ("webp", "webp")),
            *(("tiff", "tif"), ("gif", "gif"), ("bmp", "bmp")),
        )
    },
    "features": Reader(_feature_seeds, _read_features),
    "safetensors": Reader(_safetensors_seeds, _read_weights),
    "pth": Reader(_torch_seeds, _read_weights),
    "npz": Reader(_npz_seeds, _read_weights),
    "config": Reader(_config_seeds, _read_config),
    "tokenizer": Reader(_tokenizer_seeds, _read_tokenizer),
    "sentencepiece": Reader(_sentencepiece_seeds, _read_tokenizer),
}


# --- One input ------------------------------------------------------------------------------------


def _check(error: BaseException) -> None:
    """Raises AssertionError unless an error has a message of one line that can be printed.

    A `UserError` must not stand for an allocation beyond the limit either, which a reader took for
    damage. Pillow raises MemoryError itself for sizes that it refuses.
    """
    from vljax.config import UserError

    message, cause = str(error), error
    while cause is not None and isinstance(error, UserError):
        _require(not isinstance(cause, MemoryError), f"MemoryError, reported as {message[:200]!r}")
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    _require(bool(message.strip()), "the message is empty")
    _require(len(message.splitlines()) == 1, f"a message of several lines: {message[:300]!r}")
    _require(len(message) <= MOST_CHARACTERS, f"a message of {len(message):,} characters")
    message.encode()


def place(seed: Seed, content: bytes, folder: Path) -> Path:
    """Writes the files of an input; returns the path of the changed one."""
    files = {**seed.beside, seed.file: seed.wrap(content)}
    if seed.files is not None:
        files = seed.files(content)
    for name, data in files.items():
        path = folder / name
        # Names that are changed may be refused by the system, or lead out of the folder.
        if seed.files is not None and (name.startswith("/") or ".." in name.split("/")):
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except (OSError, ValueError):
            if seed.files is None:
                raise
    return folder / seed.file


def outcome_of(reader: Reader, folder: Path, file: Path) -> tuple[str, str]:
    """The outcome of reading an input, and where a fault is."""
    from vljax.config import UserError

    try:
        return ("read" if reader.read(folder, file) else "masked"), ""
    except UserError as error:
        try:
            _check(error)
        except (AssertionError, UnicodeEncodeError) as bad:
            return "fault", f"UserError: {bad} at {_place_of(error)}"
        return "refused", ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        text = " ".join(str(error).split())[:200]
        return "fault", f"{type(error).__name__} ({text}) at {_place_of(error)}"


def _place_of(error: BaseException) -> str:
    """The last line of vljax in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/vljax/" in f.filename] or frames
    if not own:
        return "?"
    return f"{own[-1].filename.rpartition('/vljax/')[2]}:{own[-1].lineno}"


# --- The child process ----------------------------------------------------------------------------


def child(names: list[str], base: int, start: int, stop: int, work: Path, faults: Path) -> None:
    """Reads inputs in turn over all readers, and prints a line before and after each."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the protocol
    seeds = {name: READERS[name].seeds() for name in names}
    import vljax.data.sources
    import vljax.interop.formats  # noqa: F401

    for name in names:  # first calls import more, which must count for no input
        if start == 0:
            for seed in seeds[name]:
                folder = work / "valid"
                file = place(seed, seed.content, folder)
                found, where = outcome_of(READERS[name], folder, file)
                if found != "read" and name != "folder":
                    sys.exit(f"the valid file {name}.{seed.name} gives: {found} {where}")
                shutil.rmtree(folder)
    for turn in range(start, stop):
        number, name = divmod(turn, len(names))
        reader = names[name]
        seed = seeds[reader][number % len(seeds[reader])]
        content = changed(seed, reader, base, number)
        folder = work / str(turn)
        stored = faults / f"{reader}.{seed.name}.{number}{Path(seed.file).suffix}"
        print("start", turn, reader, stored.name, file=out)
        (work / "content").write_bytes(content)
        file = place(seed, content, folder)
        _limit()
        before = _peak()
        found, where = outcome_of(READERS[reader], folder, file)
        if (grown := _peak() - before) > MEMORY:
            found, where = "fault", f"{grown / 2**30:.1f} GiB of memory"
        if found == "fault":
            _store(work, stored)
        print("end", found, where, file=out)
        shutil.rmtree(folder, ignore_errors=True)


def _store(work: Path, stored: Path) -> None:
    """Stores the changed content of a fault, not the file: `--replay` wraps it again."""
    stored.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work / "content", stored)


def _limit() -> None:
    """Limits of the next input: CPU seconds, and address space as a guard for the machine."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + CPU_SECONDS + 1, hard))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEMORY, resource.RLIM_INFINITY))


def _peak() -> int:
    """Peak memory in bytes since the last call."""
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) << 10  # type: ignore[index]
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak


# --- The parent process ---------------------------------------------------------------------------


@dataclass
class Result:
    """What was found."""

    outcomes: dict[str, Counter[str]]
    """Reader -> number of inputs by outcome."""
    faults: list[dict[str, str]]
    """Reader, stored file and description of each fault."""


def fuzz(
    names: list[str],
    *,
    inputs: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    faults: Path = Path("runs/fuzz"),
    script: Path = Path(__file__),
) -> Result:
    """Reads damaged files, by all readers in turn.

    Args:
      names: readers, of `READERS`.
      inputs: number of inputs for each reader; None for no limit.
      seconds: when to stop; None for no limit.
      seed: of the changes.
      faults: folder for the inputs of faults; made if there is one.
      script: the program whose `--child` reads the inputs.
    """
    stop = len(names) * inputs if inputs is not None else 2**40
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    result = Result({name: Counter() for name in names}, [])
    turn = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        while turn < stop and time.monotonic() < end:
            turn = _one_child(script, names, seed, turn, stop, end, work, faults, result)
    return result


def _one_child(
    script: Path,
    names: list[str],
    seed: int,
    turn: int,
    stop: int,
    end: float,
    work: Path,
    faults: Path,
    result: Result,
) -> int:
    """Runs a child until it ends or an input ends it; returns the next turn."""
    root = Path(__file__).parents[1]
    paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "TMPDIR": str(work), "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    arguments = [",".join(names), seed, turn, stop, work, faults.absolute()]
    log = work / "stderr"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(script), "--child", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
        )
    assert process.stdout is not None
    current: tuple[str, str] | None = None
    started = False
    for line in _lines(process.stdout.fileno(), end):
        if line is None:  # no line for a long time, or the end of the run
            process.kill()
            if time.monotonic() >= end:
                current = None
            break
        word, _, rest = line.partition(" ")
        if word == "start":
            started = True
            number, reader, name = rest.split(" ", 2)
            turn, current = int(number), (reader, name)
        elif word == "end" and current is not None:
            found, _, where = rest.partition(" ")
            _add(result, current, found, where, faults)
            turn, current = turn + 1, None
    process.stdout.close()
    code = process.wait()
    if current is not None:
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        if code == -signal.SIGXCPU:
            reason = f"a hang: more than {CPU_SECONDS} s of CPU time"
        elif code == -signal.SIGKILL:
            reason = f"a hang: no answer in {WALL_SECONDS} s"
        _store(work, faults / current[1])
        _add(result, current, "fault", reason, faults)
        return turn + 1
    if time.monotonic() < end and (code != 0 or not started):
        sys.exit(f"the child process ended with {code}: {log.read_text(errors='replace')[-2000:]}")
    return turn


def _lines(descriptor: int, end: float) -> Iterator[str | None]:
    """The lines of a pipe; None if none comes in time."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(min(WALL_SECONDS, max(0.0, end - time.monotonic()))):
                yield None
                return
            chunk = os.read(descriptor, 2**16)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)


def _add(result: Result, current: tuple[str, str], found: str, where: str, faults: Path) -> None:
    reader, name = current
    result.outcomes[reader][found] += 1
    if found == "fault":
        result.faults.append({"reader": reader, "file": str(faults / name), "fault": where})


def replay(path: Path) -> None:
    """Reads the stored input of a fault in this process."""
    reader, variant, _ = path.name.split(".", 2)
    if reader not in READERS:
        sys.exit(f"--replay {path}: not named READER.VARIANT.NUMBER.ENDING, as faults are stored")
    seed = next(s for s in READERS[reader].seeds() if s.name == variant)
    with tempfile.TemporaryDirectory() as folder:
        file = place(seed, path.read_bytes(), Path(folder))
        print("read" if READERS[reader].read(Path(folder), file) else "masked")


def show(result: Result) -> None:
    """Prints the numbers for each reader, then one line for each kind of fault."""
    kinds = ("read", "masked", "refused", "fault")
    print(f"{'reader':14} {'inputs':>8}" + "".join(f"{kind:>9}" for kind in kinds))
    for name, counts in (
        *result.outcomes.items(),
        ("all", sum(result.outcomes.values(), Counter())),
    ):
        row = "".join(f"{counts[kind]:9,}" for kind in kinds)
        print(f"{name:14} {sum(counts.values()):8,}{row}")
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for fault in result.faults:
        key = fault["reader"], re.sub(r"\(.*\)|\d{3,}", "", fault["fault"])
        groups.setdefault(key, []).append(fault)
    for (reader, _), same in groups.items():
        print(f"\n{len(same)} x {reader}: {same[0]['fault']}\n    --replay {same[0]['file']}")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        names, base, start, stop, work, faults = sys.argv[2:]
        child(names.split(","), int(base), int(start), int(stop), Path(work), Path(faults))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="when to stop (default: after --inputs)")
    parser.add_argument("--inputs", type=int, help="inputs for each reader (default: 100)")
    parser.add_argument("--readers", nargs="+", choices=sorted(READERS), default=list(READERS))
    parser.add_argument("--seed", type=int, default=0, help="seed of the changes")
    parser.add_argument("--faults", type=Path, default=Path("runs/fuzz"), help="folder of inputs")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--replay", type=Path, help="read the stored input of a fault again")
    options = parser.parse_args()
    if options.replay is not None:
        replay(options.replay)
        return
    inputs = 100 if options.inputs is None and options.seconds is None else options.inputs
    result = fuzz(
        options.readers,
        inputs=inputs,
        seconds=options.seconds,
        seed=options.seed,
        faults=options.faults,
    )
    show(result)
    if options.json is not None:
        content = {"outcomes": result.outcomes, "faults": result.faults}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(1 if result.faults else 0)


if __name__ == "__main__":
    main()
