"""`vljax data build tuxpaint-stamps`: from a Debian package to a data set on disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from vljax.config import UserError
from vljax.datasets.tuxpaint import debian, stamps

PACKAGE = debian.Package(
    filename="pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    size=160_880_444,
)

Progress = Callable[[str, int, int], None]


def build(
    out: Path,
    *,
    deb: Path | None,
    mirror: str = debian.MIRROR,
    sha256: str = PACKAGE.sha256,
    progress: Progress,
) -> Mapping[str, int | str]:
    """Build the data set; the same package and library versions give the same bytes.

    Args:
      out: the folder for items.jsonl, images.array_record and README.md; made if missing.
      deb: the package, if it was downloaded already.
      mirror: the Debian mirror to download it from, if `deb` is None.
      sha256: SHA-256 of `deb`.
      progress: called with the stage, the amount done and the total.

    Returns:
      A summary of the data set.

    Raises:
      UserError: if the package cannot be downloaded, has another digest, or has no stamps.
    """
    if (out / "README.md").exists() and not (out / "items.jsonl").exists():
        raise UserError(f"--out {out}: has a README.md of its own; name another folder")
    rasterise = stamps.svg_rasteriser()  # fails before a long download, not after it
    if deb is None:
        source = debian.download(
            PACKAGE, mirror, out / "download", lambda done, size: progress("download", done, size)
        )
    else:
        source = deb
        if not deb.is_file():
            raise UserError(f"--deb {deb}: no such file")
        debian.verify(deb, sha256)
    progress("unpack", 0, 1)
    files = dict(debian.read_files(source, stamps.FOLDER, stamps.wanted))
    progress("unpack", 1, 1)
    chosen, dropped = stamps.select(
        files, rasterise, lambda done, count: progress("pictures", done, count)
    )
    if not chosen:
        raise UserError(f"{source}: no stamps below {stamps.FOLDER}")
    _write(chosen, out)
    size = (out / "images.array_record").stat().st_size
    (out / "README.md").write_text(
        stamps.render_card(chosen, dropped, source.name, sha256, size), encoding="utf-8"
    )
    if deb is None:
        source.unlink()
        with contextlib.suppress(OSError):  # something else is in it
            source.parent.rmdir()
    return {
        "name": "tuxpaint-stamps",
        "folder": str(out),
        "images": len(chosen),
        "languages": len(stamps.locales(chosen)),
        "bytes": size,
        **{split: sum(classes.values()) for split, classes in stamps.counts(chosen).items()},
    }


def _write(chosen: list[stamps.Stamp], out: Path) -> None:
    """Write images and items."""
    from array_record.python.array_record_module import ArrayRecordWriter

    out.mkdir(parents=True, exist_ok=True)
    index = out / "items.jsonl"
    # items.jsonl is written last and then renamed, so that an interrupted build is not mistaken for
    # a complete one.
    index.unlink(missing_ok=True)
    # One record a group, so that reading one picture at random reads no other.
    writer = ArrayRecordWriter(str(out / "images.array_record"), "group_size:1,uncompressed")
    for stamp in chosen:
        writer.write(stamp.webp)
    writer.close()
    part = index.with_name("items.jsonl.part")
    lines = (json.dumps(stamp.item(i), ensure_ascii=False) for i, stamp in enumerate(chosen))
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    part.replace(index)
