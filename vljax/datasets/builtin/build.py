"""Build the built-in data set from the Debian packages of the Open Clip Art Library.

Unpack `openclipart-png` and `openclipart-svg` with `dpkg-deb -x` and run:

    python -m vljax.datasets.builtin.build --png PNG_DIR --svg SVG_DIR --out OUT_DIR

The same packages give byte-identical files.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from array_record.python import array_record_module

from vljax.datasets.builtin import card, selection

PNG_FOLDER = "usr/share/openclipart/png"
SVG_FOLDER = "usr/share/openclipart/svg"


def write(items: Sequence[selection.Item], dropped: Mapping[str, int], out: Path) -> None:
    """Write the data set.

    Args:
      items: the items in the order of the data set.
      dropped: how many files each rule left out.
      out: the folder for items.jsonl, images.array_record and README.md; made if missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    records = [item.record(index) for index, item in enumerate(items)]
    with (out / "items.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    images_path = out / "images.array_record"
    # One record a group, so that reading one picture at random reads no other.
    writer = array_record_module.ArrayRecordWriter(str(images_path), "group_size:1,uncompressed")
    for item in items:
        writer.write(item.webp)
    writer.close()
    text = card.render(records, dropped, images_path.stat().st_size)
    (out / "README.md").write_text(text, encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the builder from the command line.

    Args:
      arguments: command-line arguments; those of the process by default.

    Returns:
      The exit status: 0, or 2 if a folder is missing or holds no clip art.
    """
    parser = argparse.ArgumentParser(
        prog="python -m vljax.datasets.builtin.build",
        description="Build the built-in data set from two unpacked Debian packages.",
        epilog="Unpack a package with: dpkg-deb -x PACKAGE.deb DIR",
    )
    parser.add_argument(
        "--png", type=Path, required=True, metavar="DIR", help="openclipart-png, unpacked"
    )
    parser.add_argument(
        "--svg", type=Path, required=True, metavar="DIR", help="openclipart-svg, unpacked"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write the data set to"
    )
    options = parser.parse_args(arguments)
    png_root, svg_root = options.png / PNG_FOLDER, options.svg / SVG_FOLDER
    for root in (png_root, svg_root):
        if not root.is_dir():
            print(f"error: no folder {root}", file=sys.stderr)
            return 2
    curation = selection.load_curation(Path(__file__).with_name("curation.toml"))
    items, dropped = selection.select(png_root, svg_root, curation)
    if not items:
        print(f"error: no usable clip art below {png_root}", file=sys.stderr)
        return 2
    write(items, dropped, options.out)
    print(f"wrote {len(items)} items to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
