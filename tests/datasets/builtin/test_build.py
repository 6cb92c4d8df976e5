"""Tests of the builder of the built-in data set, and of the data set it made."""

import hashlib
import io
import json
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image

from vljax.datasets.builtin import build, metadata, pictures, selection
from vljax.datasets.builtin import captions as cleaning

DATA = Path(build.__file__).parent
NO_CURATION = selection.Curation({}, {}, {}, {})
PUBLIC_DOMAIN = "http://web.resource.org/cc/PublicDomain"
SVG = """<?xml version="1.0"?>{doctype}
<svg xmlns="http://www.w3.org/2000/svg"><metadata>
<rdf:RDF xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work>
<dc:title>{title}</dc:title>
<dc:subject><rdf:Bag><rdf:li>Fruit</rdf:li><rdf:li> fruit </rdf:li><rdf:li>clipart</rdf:li>
<rdf:li>Ann Other</rdf:li><rdf:li>HASH(0x8a3ecd4)</rdf:li><rdf:li>red_thing</rdf:li></rdf:Bag>
</dc:subject><dc:creator><cc:Agent><dc:title>Ann Other</dc:title></cc:Agent></dc:creator>
<cc:license rdf:resource="{licence}"/></cc:Work></rdf:RDF></metadata>{drawing}</svg>
"""


class Tree:
    """A small made-up pair of unpacked packages."""

    def __init__(self, path: Path) -> None:
        self.png_package, self.svg_package = path / "png", path / "svg"
        self.png_root = self.png_package / build.PNG_FOLDER
        self.svg_root = self.svg_package / build.SVG_FOLDER
        self.png_root.mkdir(parents=True)
        self.svg_root.mkdir(parents=True)
        self._shade = 0

    def add(
        self,
        source: str,
        title: str = "red apple",
        licence: str = PUBLIC_DOMAIN,
        doctype: str = "",
        drawing: str = "",
        picture: Image.Image | None = None,
    ) -> Path:
        """Adds a picture unlike the others, and its SVG file; returns the PNG file's path."""
        self._shade += 20
        if picture is None:
            picture = Image.new("RGBA", (300, 150), (self._shade, 50, 50, 255))
        png = self.png_root / source
        png.parent.mkdir(parents=True, exist_ok=True)
        picture.save(png)
        text = SVG.format(title=title, licence=licence, doctype=doctype, drawing=drawing)
        svg_file = (self.svg_root / source).with_suffix(".svg")
        svg_file.parent.mkdir(parents=True, exist_ok=True)
        svg_file.write_text(text)
        return png

    def select(
        self, curation: selection.Curation = NO_CURATION
    ) -> tuple[list[selection.Item], dict[str, int]]:
        items, dropped = selection.select(self.png_root, self.svg_root, curation)
        return items, dict(dropped)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def huge_png(width: int, height: int) -> bytes:
    """Returns a PNG whose header is right and whose pixels are missing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
    )


# The selection rules.


def test_good_picture_becomes_an_item(tree: Tree) -> None:
    tree.add("food/fruit/apple.png", title="Red_apple 01")
    (item,), dropped = tree.select()
    assert dropped == {}
    assert (item.caption, item.caption_from) == ("Red apple", "title")
    assert item.class_name == "food"
    assert item.tags == ("fruit", "red thing")
    assert item.licence_url == PUBLIC_DOMAIN
    with Image.open(io.BytesIO(item.webp)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (128, 64))


@pytest.mark.parametrize("folder", sorted(selection.LEFT_OUT_FOLDERS))
def test_left_out_folder(tree: Tree, folder: str) -> None:
    tree.add(f"{folder}/apple.png")
    tree.add(f"food/{folder}/apple.png")
    assert tree.select() == ([], {"in a left-out folder": 2})


def test_symbolic_link(tree: Tree) -> None:
    target = tree.add("food/apple.png")
    tree.add("food/pear.png", title="pear").unlink()
    (tree.png_root / "food/pear.png").symlink_to(target)
    items, dropped = tree.select()
    assert [item.source for item in items] == ["food/apple.png"]
    assert dropped == {"symbolic link": 1}


@pytest.mark.parametrize("licence", ["", "http://creativecommons.org/licenses/GPL/2.0/"])
def test_not_public_domain(tree: Tree, licence: str) -> None:
    tree.add("food/apple.png", licence=licence)
    assert tree.select() == ([], {"not tagged public domain": 1})


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        ("HASH(0x8a3ecd4)", "title is a hash"),
        ("d41d8cd98f00b204e9800998ecf8427e", "title is a hash"),
        ("someone@example.org", "title is or holds an address"),
        ("Telephone (email: someone@example.org)", "title is or holds an address"),
        ("12345", "title is a number"),
        ("Ann Other", "title is the author's name"),
        ("ok 01", "caption too short"),
        ("Untitled", "caption says nothing"),
    ],
)
def test_bad_title(tree: Tree, title: str, reason: str) -> None:
    tree.add("food/apple.png", title=title)
    assert tree.select() == ([], {reason: 1})


def test_duplicate_keeps_first_by_path(tree: Tree) -> None:
    data = tree.add("food/b.png", title="second").read_bytes()
    tree.add("food/a.png", title="first").write_bytes(data)
    items, dropped = tree.select()
    assert [item.source for item in items] == ["food/a.png"]
    assert dropped == {"duplicate of an earlier file": 1}


def test_oversized_by_header_is_not_decoded(tree: Tree) -> None:
    tree.add("food/stop.png").write_bytes(huge_png(20990, 29700))
    tree.add("food/go.png").write_bytes(huge_png(4000, 4000))
    # The second has exactly 16 megapixels, so it is opened and found to be truncated.
    assert tree.select() == ([], {"more than 16 megapixels": 1, "broken PNG": 1})


def test_missing_svg(tree: Tree) -> None:
    tree.add("food/apple.png")
    (tree.svg_root / "food/apple.svg").unlink()
    assert tree.select() == ([], {"SVG missing": 1})


def test_broken_svg(tree: Tree) -> None:
    tree.add("food/apple.png")
    path = tree.svg_root / "food/apple.svg"
    path.write_text(path.read_text()[:400])
    assert tree.select() == ([], {"SVG broken": 1})


def test_svg_broken_after_its_metadata_is_read(tree: Tree) -> None:
    tree.add("food/apple.png", drawing="<g><path")
    assert len(tree.select()[0]) == 1


def test_flat_entities_are_read_and_nested_ones_refused(tree: Tree) -> None:
    flat = '<!DOCTYPE svg [<!ENTITY a "apple">]>'
    nested = '<!DOCTYPE svg [<!ENTITY a "apple"><!ENTITY b "&a;&a;">]>'
    tree.add("food/flat.png", title="red &a;", doctype=flat)
    tree.add("food/nested.png", title="red &b;", doctype=nested)
    (item,), dropped = tree.select()
    assert item.caption == "red apple"
    assert dropped == {"SVG broken": 1}


def test_almost_empty_picture(tree: Tree) -> None:
    tree.add("food/clear.png", picture=Image.new("RGBA", (64, 64)))
    dots = Image.new("RGBA", (1280, 1280))
    dots.putpixel((0, 0), (0, 0, 0, 255))
    dots.putpixel((1279, 1279), (0, 0, 0, 255))
    tree.add("food/dots.png", picture=dots)
    assert tree.select() == ([], {"almost empty": 2})


def test_line_is_too_thin(tree: Tree) -> None:
    tree.add("food/line.png", picture=Image.new("RGBA", (1000, 20), (0, 0, 0, 255)))
    assert tree.select() == ([], {"less than 8 pixels high or wide": 1})


def test_caption_cap(tree: Tree) -> None:
    for index in range(selection.MAX_ITEMS_PER_CAPTION + 2):
        tree.add(f"food/apple{index:02}.png", title="Apple" if index % 2 else "apple!")
    items, dropped = tree.select()
    assert len(items) == selection.MAX_ITEMS_PER_CAPTION
    assert dropped == {"8 items have the caption already": 2}


def test_curation_changes_exclusions_captions_and_classes(tree: Tree) -> None:
    for name, title in [("bad", "bad"), ("flags/one", "Italy"), ("mela", "mela"), ("odd", "12")]:
        tree.add(f"unsorted/{name}.png", title=title)
    curation = selection.Curation(
        excluded={"unsorted/bad.png": "broken"},
        captions_by_title={"mela": "apple"},
        captions_by_source={"unsorted/odd.png": "odd thing"},
        classes={"unsorted/mela": "food", "unsorted/flags/": "flags"},
    )
    items, dropped = tree.select(curation)
    assert [(item.caption, item.caption_from, item.class_name) for item in items] == [
        ("Italy", "title", "flags"),
        ("apple", "hand", "food"),
    ]
    assert dropped == {"excluded by eye: broken": 1, "without a class": 1}


def test_picture_is_cropped_scaled_down_and_never_enlarged(tree: Tree) -> None:
    wide = Image.new("RGBA", (600, 600))
    wide.paste((200, 0, 0, 255), (100, 200, 500, 300))
    small = Image.new("RGBA", (30, 20), (0, 200, 0, 255))
    sizes = [
        pictures.shrink(tree.add(f"food/{index}.png", picture=picture)).size
        for index, picture in enumerate([wide, small])
    ]
    assert sizes == [(128, 32), (30, 20)]


# Captions, tags and splits.


@pytest.mark.parametrize(
    ("title", "cleaned"),
    [
        ("Tigre01", "Tigre"),
        ("00_moonphases_openclipart", "moonphases"),
        ("books.svg", "books"),
        ("mailbox 2", "mailbox"),
        ("BlueMan#101", "BlueMan"),
        ("circles 3 pattern", "circles pattern"),
        ("Onion  Rings (B &amp; W)", "Onion Rings (black and white)"),
        ("Flat_Cake_bw", "Flat Cake (black and white)"),
        ("Clipart by Ann Other - United States - Ohio", "United States - Ohio"),
        ("L&Atilde;&copy;zard", "Lézard"),
        ("Iraqi flag 1959-1963", "Iraqi flag 1959-1963"),
        ("M16", "M16"),
        ("Ice Cream Cone (2 Scoop)", "Ice Cream Cone (2 Scoop)"),
    ],
)
def test_clean_text(title: str, cleaned: str) -> None:
    assert cleaning.clean_text(title) == cleaned


@pytest.mark.parametrize(
    ("source", "title", "caption"),
    [
        ("signs/aiga_air_transportation1.png", "AIGA_Symbol_Signs", "air transportation"),
        ("signs/azalea_0_symbol_1m_bwh.png", "Map Symbols", "azalea"),
        ("animals/sheep-md-v0.1.png", "", "sheep"),
        ("food/lemon.png", "Clipart by Nicu Buculei - pear", "lemon"),
    ],
)
def test_file_name_replaces_the_title_of_a_batch(source: str, title: str, caption: str) -> None:
    about = metadata.Metadata(title, (), (), PUBLIC_DOMAIN)
    assert selection.find_caption(source, about, NO_CURATION) == (caption, "file name")


def test_clean_tags() -> None:
    keywords = ["Fruit", " fruit", "HASH(0x8a)", "unsorted", "png", "00", "x", "jim@x.org", "=Red_"]
    assert cleaning.clean_tags([*keywords, "Jim Doe"], ["jim doe"]) == ["fruit", "red"]


def test_split_ignores_form_and_has_the_stated_shares() -> None:
    assert cleaning.split_of("Red  Apple!") == cleaning.split_of("red apple")
    counts = Counter(cleaning.split_of(f"caption {index}") for index in range(4000))
    assert counts["train"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert counts["validation"] / 4000 == pytest.approx(0.10, abs=0.03)
    assert counts["test"] / 4000 == pytest.approx(0.15, abs=0.03)


# The command.


def test_two_runs_write_the_same_bytes(tree: Tree, tmp_path: Path) -> None:
    for index in range(5):
        tree.add(f"food/{index}.png", title=f"{'abcde'[index]} picture")
    contents = []
    for name in ("one", "two"):
        arguments = ["--png", tree.png_package, "--svg", tree.svg_package, "--out", tmp_path / name]
        assert build.main([str(argument) for argument in arguments]) == 0
        contents.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"items.jsonl", "images.array_record", "README.md"}


@pytest.mark.parametrize("missing", ["--png", "--svg"])
def test_missing_folder_is_one_line_and_status_2(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    folders = {"--png": tree.png_package, "--svg": tree.svg_package, "--out": tmp_path / "out"}
    folders[missing] = tmp_path / "nowhere"
    arguments = [text for option, folder in folders.items() for text in (option, str(folder))]
    assert build.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "nowhere" in error
    assert not (tmp_path / "out").exists()


# The data set in the package.


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    with (DATA / "items.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_records_are_in_index_order_and_complete(records: list[dict[str, Any]]) -> None:
    assert [record["index"] for record in records] == list(range(len(records)))
    assert 2500 <= len(records) <= 3200
    sources = [record["source"] for record in records]
    assert sources == sorted(set(sources))
    for record in records:
        assert record["caption"].strip()
        assert len(record["tags"]) == len(set(record["tags"]))
        assert record["caption_from"] in ("title", "file name", "hand")


def test_all_records_are_public_domain(records: list[dict[str, Any]]) -> None:
    assert {record["licence"] for record in records} == {"public domain"}
    assert {record["licence_url"] for record in records} <= selection.PUBLIC_DOMAIN_URLS


def test_no_caption_is_in_two_splits(records: list[dict[str, Any]]) -> None:
    splits: dict[str, set[str]] = {}
    for record in records:
        key = " ".join(
            "".join(c if c.isalnum() else " " for c in record["caption"].lower()).split()
        )
        splits.setdefault(key, set()).add(record["split"])
    assert all(len(names) == 1 for names in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_every_picture_decodes_with_the_stated_size_and_digest(
    records: list[dict[str, Any]],
) -> None:
    source = ArrayRecordDataSource(str(DATA / "images.array_record"))
    assert len(source) == len(records)
    for record in records:
        data = source[record["index"]]
        assert hashlib.sha256(data).hexdigest() == record["sha256"]
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "WEBP"
            # WebP keeps no alpha channel for a picture without a transparent pixel.
            assert picture.mode in ("RGBA", "RGB")
            assert picture.convert("RGBA").size == (record["width"], record["height"])
        assert max(record["width"], record["height"]) <= 128


def test_no_picture_occurs_twice(records: list[dict[str, Any]]) -> None:
    assert len({record["sha256"] for record in records}) == len(records)


def test_classes_are_sensible(records: list[dict[str, Any]]) -> None:
    counts = Counter(record["class"] for record in records)
    assert 15 <= len(counts) <= 20
    assert min(counts.values()) >= 15
    assert max(counts.values()) <= 0.2 * len(records)
    assert not {"unsorted", "special"} & set(counts)
    assert all(name == name.lower() and "_" not in name for name in counts)


def test_data_follow_the_curation(records: list[dict[str, Any]]) -> None:
    curation = selection.load_curation(DATA / "curation.toml")
    sources = {record["source"] for record in records}
    assert not sources & set(curation.excluded)
    captions = {record["source"]: record["caption"] for record in records}
    for source, caption in curation.captions_by_source.items():
        assert captions.get(source, caption) == caption


def test_data_are_small() -> None:
    names = ("items.jsonl", "images.array_record", "README.md", "curation.toml")
    assert sum((DATA / name).stat().st_size for name in names) < 7_000_000


def test_card_states_the_counts(records: list[dict[str, Any]]) -> None:
    text = (DATA / "README.md").read_text(encoding="utf-8")
    counts = Counter(record["split"] for record in records)
    row = (
        f"| all | {counts['train']} | {counts['validation']} | {counts['test']} | {len(records)} |"
    )
    assert row in text
