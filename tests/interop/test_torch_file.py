"""Files of `torch.save`, compared with what PyTorch reads (`tests/parity/make_torch_files.py`)."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vljax.config import UserError
from vljax.interop.files.npz import read_npz
from vljax.interop.files.torch import state_dict
from vljax.interop.files.torch_tensors import StoredTensor

DATA = Path(__file__).parents[1] / "parity" / "data"


def expected(group: str) -> dict[str, np.ndarray]:
    with np.load(DATA / "torch_expected.npz") as stored:
        return {
            k.removeprefix(f"{group}/"): v for k, v in stored.items() if k.startswith(f"{group}/")
        }


@pytest.mark.parametrize(
    ("file", "subtree", "group"),
    [
        ("torch_zip", None, "common"),
        ("torch_legacy", None, "common"),
        ("torch_protocol_4", None, "common"),
        ("torch_newer_types", None, "newer"),
        ("torch_module", None, "module"),  # the only state dict beside other entries
        ("torch_module", "model", "module"),
        ("torch_two", "b", "common"),
    ],
)
def test_tensors_equal_those_that_pytorch_reads(file, subtree, group):
    tensors, wanted = state_dict(DATA / f"{file}.pth", subtree), expected(group)
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        array = tensor.read()
        assert array.dtype == tensor.dtype, name
        assert tensor.dtype.name == (name if name in NAMED else wanted[name].dtype.name), name
        np.testing.assert_array_equal(array.astype(wanted[name].dtype), wanted[name], name)


NAMED = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}


@pytest.mark.parametrize("file", ["torch_zip", "torch_legacy"])
def test_views_of_a_storage_share_memory_mapped_from_the_file(file):
    tensors = state_dict(DATA / f"{file}.pth")
    whole, part = (tensors[name].read() for name in ("plain", "offset"))
    assert np.shares_memory(whole, part)
    with pytest.raises(ValueError, match="read-only"):
        part[0] = 1
    base = whole
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def rewritten(tmp_path: Path, change) -> Path:
    """The zip file with its records changed: `change(name, content)` gives the content or None."""
    path = tmp_path / "changed.pth"
    with zipfile.ZipFile(DATA / "torch_zip.pth") as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            content = change(info.filename.partition("/")[2], old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
    return path


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_a_function_is_refused_and_not_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    attack = pickle.dumps({"weight": Attack()}, protocol)
    path = rewritten(tmp_path, lambda name, old: attack if name == "data.pkl" else old)
    with pytest.raises(UserError, match=r"changed\.pth: refers to (posix|nt)\.system"):
        state_dict(path)
    legacy = tmp_path / "legacy.pth"
    pickles = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    legacy.write_bytes(b"".join(pickle.dumps(p, 2) for p in pickles) + attack)
    with pytest.raises(UserError, match=r"legacy\.pth: refers to (posix|nt)\.system"):
        state_dict(legacy)
    assert not (tmp_path / "attacked").exists()


def test_a_pickled_module_is_refused_by_its_class_name():
    with pytest.raises(UserError, match=r"refers to torch\.nn\.modules\.container\.Sequential"):
        state_dict(DATA / "torch_whole_module.pth")


@pytest.mark.parametrize(
    ("file", "subtree", "message"),
    [
        ("torch_script", None, "is a TorchScript program; save the model's state_dict"),
        ("torch_two", None, r"holds several state dicts \(a, b\); name one, FILE:a"),
        ("torch_two", "c", "no state dict 'c'; known: a, b"),
    ],
)
def test_files_without_exactly_one_state_dict_are_an_error(file, subtree, message):
    with pytest.raises(UserError, match=message):
        state_dict(DATA / f"{file}.pth", subtree)


@pytest.mark.parametrize("file", ["torch_zip", "torch_legacy"])
def test_a_file_cut_anywhere_is_an_error(tmp_path, file):
    content = (DATA / f"{file}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for size in {*range(0, len(content), 257), len(content) - 1}:
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"cut\.pth: (damaged|not a file of torch\.save)"):
            state_dict(path)


def test_other_files_are_an_error(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(UserError, match=r"other\.pth: not a file of torch\.save"):
        state_dict(path)
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises(UserError, match=r"other\.pth: not a file of torch\.save"):
        state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(UserError, match=r"not of torch\.save: data\.pkl is missing"):
        state_dict(path)


def test_a_flipped_byte_in_a_storage_is_an_error(tmp_path):
    content = bytearray((DATA / "torch_zip.pth").read_bytes())
    plain = expected("common")["plain"].tobytes()
    content[content.index(plain) + 5] ^= 1
    path = tmp_path / "flipped.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="data/0 differs from its checksum"):
        state_dict(path)["plain"].read()


def test_a_tensor_may_not_reach_past_its_storage(tmp_path):
    def shorten(name: str, content: bytes) -> bytes:
        return content[:-4] if name == "data/0" else content

    with pytest.raises(UserError, match="damaged: storage 0 has 188 bytes only"):
        state_dict(rewritten(tmp_path, shorten))

    def widen(name: str, content: bytes) -> bytes:
        # The shape (6, 8) becomes (6, 9), with strides as before.
        return (
            content.replace(b"K\x06K\x08\x86", b"K\x06K\x09\x86") if name == "data.pkl" else content
        )

    with pytest.raises(UserError, match="reaches past the end of storage 0 of 192 bytes"):
        state_dict(rewritten(tmp_path, widen))


def test_a_storage_that_is_missing_or_compressed_is_an_error(tmp_path):
    with pytest.raises(UserError, match="storage 0 is missing"):
        state_dict(rewritten(tmp_path, lambda name, old: None if name == "data/0" else old))
    path = tmp_path / "compressed.pth"
    deflated = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(DATA / "torch_zip.pth") as old, deflated as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(UserError, match="storage 0 is compressed"):
        state_dict(path)


def test_big_endian_files_are_read(tmp_path):
    def swap(name: str, content: bytes) -> bytes:
        if name == "byteorder":
            return b"big"
        numbers = struct.iter_unpack("<f", content) if name == "data/0" else []
        return b"".join(struct.pack(">f", *n) for n in numbers) or content

    tensors = state_dict(rewritten(tmp_path, swap))
    np.testing.assert_array_equal(tensors["plain"].read(), expected("common")["plain"])


def test_a_record_beyond_the_end_of_the_file_is_damage(tmp_path):
    with zipfile.ZipFile(DATA / "torch_zip.pth") as archive:
        name = next(n for n in archive.namelist() if "/data/" in n)
    content = (DATA / "torch_zip.pth").read_bytes()
    directory = content.rindex(name.encode()) - 46
    assert content[directory : directory + 4] == b"PK\x01\x02"
    offset = struct.pack("<I", len(content) - 10)
    path = tmp_path / "0.pth"
    path.write_bytes(content[: directory + 42] + offset + content[directory + 46 :])
    tensors = state_dict(path).values()
    with pytest.raises(UserError, match=f"{name} is not at its recorded offset"):
        list(map(StoredTensor.read, tensors))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"(3, 4), }", b"(3, 4   }", "not an intact npz file"),
        (b"'shape': (3, 4), } ", b"'shape': (3, 4e9),}", "not an intact npz file"),
        (b"(3, 4), }        ", b"(3, 4000000000),}", r"48,000,000,000 bytes in \d+"),
    ],
)
def test_a_damaged_header_of_an_npz_array_is_damage(tmp_path, old, new, message):
    array = io.BytesIO()
    np.save(array, np.zeros((3, 4), np.float32))
    assert len(old) == len(new)
    with zipfile.ZipFile(tmp_path / "0.npz", "w") as archive:
        archive.writestr("a.npy", array.getvalue().replace(old, new))
    with pytest.raises(UserError, match=message):
        read_npz(tmp_path / "0.npz")
