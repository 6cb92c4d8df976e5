"""Packages made by dpkg-deb, which Debian and Ubuntu have; elsewhere these tests are skipped."""

import hashlib
import http.server
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest

from vljax.config import UserError
from vljax.datasets.tuxpaint import debian

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb makes packages")


def make_package(folder: Path, files: dict[str, bytes], compression: str = "xz") -> Path:
    """A Debian package with these files, made by dpkg-deb."""
    root = folder / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: fake\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: d\n"
    )
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "usr/link.png").symlink_to("/etc/passwd")
    path = folder / "fake_1_all.deb"
    command = ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "-b", str(root), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


@needs_dpkg
@pytest.mark.parametrize("compression", ["xz", "gzip", "none"])
def test_files_of_a_package_are_read_below_a_folder(tmp_path, compression):
    files = {"usr/a/x.png": b"one", "usr/a/deep/y.txt": b"two", "usr/b/z.png": b"three"}
    path = make_package(tmp_path, files, compression)
    read = dict(debian.read_files(path, "usr/a", lambda name: True))
    assert read == {"x.png": b"one", "deep/y.txt": b"two"}
    only = dict(debian.read_files(path, "usr", lambda name: name.endswith(".png")))
    assert only == {"a/x.png": b"one", "b/z.png": b"three"}  # and not the link


@needs_dpkg
def test_paths_that_lead_out_of_the_folder_are_skipped(tmp_path):
    (tmp_path / "debian-binary").write_text("2.0\n")
    (tmp_path / "f").write_text("bad")
    transform = "--transform=s,^f$,usr/a/../../../bad,"
    for command in (
        ["tar", "-cJPf", "data.tar.xz", transform, "f"],
        ["ar", "rc", "bad.deb", "debian-binary", "data.tar.xz"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    assert list(debian.read_files(tmp_path / "bad.deb", "usr/a", lambda name: True)) == []


@needs_dpkg
def test_damaged_packages_are_named(tmp_path):
    path = make_package(tmp_path, {"usr/a/x.png": bytes(range(256)) * 400})
    content = path.read_bytes()
    for damaged, message in (
        (b"PK\3\4", "not a Debian package"),
        (content[:100], r"damaged Debian package \(no data.tar\)"),
        (content[: len(content) - 300], "damaged Debian package"),
        (content.replace(b"data.tar.xz ", b"data.tar.zst"), "compressed as zst, which cannot"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            list(debian.read_files(path, "usr/a", lambda name: True))


@pytest.fixture
def mirror(tmp_path):
    """Address and folder of a mirror on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "mirror"
    (folder / "pool").mkdir(parents=True)
    handler = partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_is_verified_kept_and_not_repeated(mirror, tmp_path):
    address, folder = mirror
    content = b"a package" * 1000
    package = debian.Package("pool/p.deb", hashlib.sha256(content).hexdigest(), len(content))
    (folder / "pool/p.deb").write_bytes(content)
    seen = []
    path = debian.download(package, address, tmp_path / "down", lambda *state: seen.append(state))
    assert path.read_bytes() == content
    assert seen[-1] == (len(content), len(content))
    (folder / "pool/p.deb").unlink()
    assert debian.download(package, address, tmp_path / "down", lambda *state: None) == path


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (None, r"p\.deb: cannot be downloaded \(HTTP Error 404.*--mirror takes another mirror"),
        (b"b package" * 1000, "SHA-256 is .*, expected .*; damaged or another version"),
        (b"a package" * 1001, r"cannot be downloaded \(more than 9,000 bytes\)"),
        (b"a package" * 999, r"cannot be downloaded \(ended after 8,991 of 9,000 bytes\)"),
    ],
)
def test_a_wrong_download_is_not_kept(mirror, tmp_path, served, message):
    address, folder = mirror
    content = b"a package" * 1000
    package = debian.Package("pool/p.deb", hashlib.sha256(content).hexdigest(), len(content))
    if served is not None:
        (folder / "pool/p.deb").write_bytes(served)
    with pytest.raises(UserError, match=message):
        debian.download(package, address, tmp_path / "down", lambda *state: None)
    assert not (tmp_path / "down/p.deb").exists()


def test_a_mirror_must_be_an_http_address(tmp_path):
    package = debian.Package("pool/p.deb", "0" * 64, 1)
    with pytest.raises(UserError, match="--mirror file:///x: not an http"):
        debian.download(package, "file:///x", tmp_path, lambda *state: None)
