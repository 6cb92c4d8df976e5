"""Scanning one tar shard."""

import gzip
import tarfile

import pytest

from tests.data.written import sample, special, write_shards, write_tar
from vljax.config import UserError
from vljax.data.sources.filters import Range
from vljax.data.sources.tar_scan import IndexOptions, key_before, scan
from vljax.files import find_files

OPTIONS = IndexOptions(image=("jpg", "png"), members=("txt",), filters=(), label=None)


def scanned(path, options=OPTIONS):
    return scan(find_files(str(path), (".tar",), "path")[0], options)


def contents(path, result):
    content = path.read_bytes()
    return [
        [content[block * 512 : block * 512 + size] for block, size in row.tolist()]
        for row in result.rows
    ]


def test_the_index_has_the_offsets_of_members(tmp_path):
    samples = [sample(i) for i in range(3)]
    result = scanned(write_shards(tmp_path, samples))
    expected = [[s["jpg"], s["txt"].encode()] for s in samples]
    assert contents(tmp_path / "00000.tar", result) == expected
    assert result.counts.fields == {"jpg": 3, "txt": 3, "json": 3}
    assert {"jpg", "txt", "json.caption", "json.width"} <= result.columns


def test_members_of_an_example_need_not_be_neighbours(tmp_path):
    path = tmp_path / "x.tar"
    names = ["./d/a.JPG", "./d/b.png", "./d/a.txt", "./d/b.txt", "./d/b.seg.png"]
    write_tar(path, {name: name.encode() for name in names})
    result = scanned(path)
    expected = [[b"./d/a.JPG", b"./d/a.txt"], [b"./d/b.png", b"./d/b.txt"]]
    assert contents(path, result) == expected
    assert result.counts.fields["seg.png"] == 1


def test_long_names_and_unicode_names_are_read(tmp_path):
    path = tmp_path / "x.tar"
    names = [f"{'folder' * 40}/a.jpg", "猫.jpg"]
    write_tar(path, {name: name.encode() for name in names})
    assert [row[0] for row in contents(path, scanned(path))] == [n.encode() for n in names]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("/abs.jpg", b"x", "path leads out of the archive"),
        ("a/../../b.jpg", b"x", "path leads out of the archive"),
        ("..\\b.jpg", b"x", "path leads out of the archive"),
        ("link.jpg", special(tarfile.SYMTYPE, "/etc/passwd"), "link"),
        ("link.jpg", special(tarfile.LNKTYPE, "a.jpg"), "link"),
        ("device.jpg", special(tarfile.CHRTYPE), "device or other special file"),
        ("pipe.jpg", special(tarfile.FIFOTYPE), "device or other special file"),
        ("a.pyd", b"x", "pickle"),
        ("a.meta.pickle", b"x", "pickle"),
        ("README", b"x", "name is not KEY.FIELD"),
    ],
)
def test_refused_members_are_counted_by_reason(tmp_path, name, content, reason):
    path = tmp_path / "x.tar"
    write_tar(path, {"a.jpg": b"image", "a.txt": b"text", name: content})
    result = scanned(path)
    assert contents(path, result) == [[b"image", b"text"]]
    assert result.counts.left_out == {reason: 1}
    assert result.counts.named == {reason: [f"x.tar/{name}"]}


def test_a_key_that_occurs_twice_keeps_its_first_members(tmp_path):
    samples = [sample(1), sample(2), sample(1, txt="another")]
    result = scanned(write_shards(tmp_path, samples))
    expected = [[s["jpg"], s["txt"].encode()] for s in samples[:2]]
    assert contents(tmp_path / "00000.tar", result) == expected
    assert result.counts.left_out == {"key occurs twice in its shard": 3}


def test_examples_without_an_image_are_left_out(tmp_path):
    result = scanned(write_shards(tmp_path, [sample(1, jpg=None), sample(2, txt=None)]))
    assert result.rows[:, 1].tolist() == [[0, 0]]
    assert result.counts.named == {"no image": ["00000.tar/000000001"]}
    assert result.counts.fields == {"jpg": 1, "json": 1}


def test_filtered_examples_are_counted(tmp_path):
    samples = [sample(i) for i in range(5)] + [sample(5, json={"width": None})]
    options = IndexOptions(("jpg",), (), (Range("json.width", minimum=23),), None)
    result = scanned(write_shards(tmp_path, samples), options)
    assert len(result.rows) == 2
    assert result.counts.left_out == {"json.width is not at least 23": 4}


def test_class_names_are_collected(tmp_path):
    samples = [sample(i, cls=str(i % 2)) for i in range(4)]
    options = IndexOptions(("jpg",), ("cls",), (), "cls")
    assert scanned(write_shards(tmp_path, samples), options).classes == {"0", "1"}


@pytest.fixture
def whole(tmp_path):
    write_shards(tmp_path, [sample(i) for i in range(3)])
    return (tmp_path / "00000.tar").read_bytes()


@pytest.mark.parametrize("end", ["inside a header", "inside a member", "after a member"])
def test_a_truncated_shard_is_an_error_with_the_offset(tmp_path, whole, end):
    with tarfile.open(tmp_path / "00000.tar") as tar:
        second = tar.getmembers()[3]
    size = {
        "inside a header": second.offset + 100,
        "inside a member": second.offset_data + 10,
        "after a member": second.offset,
    }[end]
    path = tmp_path / "short.tar"
    path.write_bytes(whole[:size])
    with pytest.raises(UserError, match=rf"{path}: ends at byte {size:,}, .*\(truncated\?\)"):
        scanned(path)


def test_a_damaged_header_is_an_error_with_the_offset(tmp_path, whole):
    with tarfile.open(tmp_path / "00000.tar") as tar:
        offset = tar.getmembers()[3].offset
    path = tmp_path / "bad.tar"
    path.write_bytes(whole[:offset] + b"\xff" * 512 + whole[offset + 512 :])
    with pytest.raises(UserError, match=rf"{path}: no valid header at byte {offset:,}"):
        scanned(path)


def pictures(first, end):
    return {f"{i:05d}.{e}": f"{i} {e}".encode() for i in range(first, end) for e in ("jpg", "txt")}


def test_all_archives_of_joined_shards_are_read(tmp_path):
    write_tar(tmp_path / "0.tar", pictures(0, 4))
    write_tar(tmp_path / "1.tar", pictures(4, 7))
    path = tmp_path / "x.tar"
    path.write_bytes((tmp_path / "0.tar").read_bytes() + (tmp_path / "1.tar").read_bytes())
    result = scanned(path)
    assert contents(path, result) == [
        [f"{i} {e}".encode() for e in ("jpg", "txt")] for i in range(7)
    ]
    assert result.counts.left_out == {}
    path.write_bytes(path.read_bytes()[:-5_000])  # inside the last members
    with pytest.raises(UserError, match=r"ends at byte .*\(truncated\?\)"):
        scanned(path)


def test_members_behind_a_hole_are_read_and_the_rest_of_it_is_named(tmp_path):
    path = tmp_path / "x.tar"
    write_tar(path, pictures(0, 5) | {"00005.jpg": b"x" * 5000} | pictures(6, 8))
    content = path.read_bytes()
    hole = content.find(b"00005.jpg")
    path.write_bytes(content[:hole] + bytes(2048) + content[hole + 2048 :])
    result = scanned(path)
    assert [image for image, _ in contents(path, result)] == [
        f"{i} jpg".encode() for i in (0, 1, 2, 3, 4, 6, 7)
    ]
    name = f"x.tar: 3,584 bytes from byte {hole + 2048:,}"
    assert result.counts.named == {"bytes after an end mark that are not members": [name]}


def test_bytes_after_the_end_are_named(tmp_path):
    path = tmp_path / "x.tar"
    write_tar(path, pictures(0, 4))
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(100_000))
    assert scanned(path).counts.left_out == {}
    path.write_bytes(whole + b"x" * 5000)
    result = scanned(path)
    assert len(result.rows) == 4
    name = f"x.tar: 5,000 bytes from byte {len(whole):,}"
    assert result.counts.named == {"bytes after an end mark that are not members": [name]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a tar file"),
        (b"not a tar " * 200, "is not a tar file"),
        (gzip.compress(b"x" * 4000, mtime=0), "is compressed, which allows no random access"),
    ],
)
def test_other_kinds_of_files_are_an_error(tmp_path, content, message):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: {message}"):
        scanned(path)


@pytest.mark.parametrize("key", ["a", "k" * 120, "k" * 600])
def test_the_key_of_a_member_is_found_with_one_read(tmp_path, key):
    path = tmp_path / "x.tar"
    write_tar(path, {"first.jpg": b"1", f"{key}.jpg": b"2", f"{key}.txt": b"3"})
    content, readings = path.read_bytes(), []
    for row, name in zip(scanned(path).rows, ("first", key), strict=True):
        block = int(row[0, 0])

        def read(blocks, block=block):
            readings.append(blocks)
            return content[(block - blocks) * 512 : block * 512]

        assert key_before(read, block) == name
    assert len(readings) == 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.REGTYPE, "the header at byte 0 has a negative size"),
        (tarfile.FIFOTYPE, "the header at byte 0 has a negative size"),
        (tarfile.XHDTYPE, "is not a tar file"),
        (tarfile.GNUTYPE_LONGNAME, "is not a tar file"),
    ],
)
def test_a_negative_size_is_an_error(tmp_path, kind, message):
    header = tarfile.TarInfo("0.jpg")
    header.size, header.type = -1024, kind
    path = tmp_path / "0.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(UserError, match=message):
        scanned(path)
