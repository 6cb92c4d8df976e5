"""`vljax data build tuxpaint-stamps`: from Debian's package to a data set on disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from vljax.config import UserError
from vljax.datasets.tuxpaint import debian, stamps
from vljax.datasets.tuxpaint import stamps as stamps_card

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
    """Builds the data set; the same package and library versions give the same bytes.

    Args:
      out: the folder for items.jsonl, images.array_record and README.md; made if missing.
      deb: the package, where it was downloaded already.
      mirror: the Debian mirror to download it from otherwise.
      sha256: digest of the package.
      progress: called with the stage, what is done and what there is to do.

    Returns:
      What was written, for people and programs.

    Raises:
      UserError: if the package cannot be had, is another one, or holds no stamps.
    """
    if (out / "README.md").exists() and not (out / "items.jsonl").exists():
        raise UserError(f"--out {out}: has a README.md of its own; name another folder")
    rasterise = stamps.svg_rasteriser()  # before a long download
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
        stamps_card.render(chosen, dropped, source.name, sha256, size), encoding="utf-8"
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
    """Writes images and items; items last and by renaming: without them there is no data set."""
    from array_record.python.array_record_module import ArrayRecordWriter

    out.mkdir(parents=True, exist_ok=True)
    index = out / "items.jsonl"
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
