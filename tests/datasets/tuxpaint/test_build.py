import hashlib
import io
import json
import shutil

import pytest
from PIL import Image
from rich.console import Console

from tests.data.samples import encoded, picture
from tests.datasets.tuxpaint.test_debian import make_package, needs_dpkg
from vljax.commands.data import build
from vljax.config import UserError
from vljax.datasets import Scenes, Tuxpaint
from vljax.datasets.tuxpaint import stamps

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="40pt" height="20pt">'
    '<rect width="40" height="20" fill="red"/></svg>'
)
FOLDER = stamps.FOLDER
CONSOLE = Console(stderr=True)


def png(seed: int) -> bytes:
    return encoded(picture(40, 60, 4, seed=seed))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a small data set, the result of its builder, and the arguments."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb makes packages")
    files = {
        f"{FOLDER}/animals/birds/owl.png": png(0),
        f"{FOLDER}/animals/birds/owl.txt": "An owl.\nde.utf8=Eine Eule.\nfr.utf8=\n",
        f"{FOLDER}/animals/birds/owl_mirror.png": png(0),
        f"{FOLDER}/food/cake.svg": SVG,
        f"{FOLDER}/food/cake.txt": "A cake.\nde.utf8=Ein Kuchen.\npt_BR.utf8=Um bolo.\n",
        f"{FOLDER}/food/cake.ogg": b"sound",
        f"{FOLDER}/food/both.png": png(1),
        f"{FOLDER}/food/both.svg": SVG,
        f"{FOLDER}/food/both.txt": "Both.\nca@valencia.utf8=Totes dues.\n",
        f"{FOLDER}/food/lost.txt": "Nothing to see.\n",
        f"{FOLDER}/food/broken.png": b"\x89PNG no",
        f"{FOLDER}/food/broken.txt": "Broken.\n",
        f"{FOLDER}/food/brokensvg.svg": "<svg",
        f"{FOLDER}/food/brokensvg.txt": "Broken.\n",
    }
    folder = tmp_path_factory.mktemp("stamps")
    deb = make_package(
        folder, {n: c.encode() if isinstance(c, str) else c for n, c in files.items()}
    )
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    out = folder / "out"
    argv = ["tuxpaint-stamps", "--deb", str(deb), "--sha256", digest, "--out", str(out)]
    return out, build.run(argv, "vljax data build", CONSOLE), argv


def test_the_builder_writes_pictures_captions_and_a_card(built):
    out, result, _ = built
    assert result["images"] == 3
    assert result["languages"] == 4
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert [item["source"] for item in items] == [
        "animals/birds/owl.png",
        "food/both.png",
        "food/cake.svg",
    ]
    assert items[0]["captions"] == {"en": "An owl.", "de": "Eine Eule."}
    assert (items[0]["class"], items[0]["tags"]) == ("animals", ["birds"])
    assert items[1]["captions"]["ca@valencia"] == "Totes dues."
    assert (items[2]["width"], items[2]["height"]) == (256, 128)  # drawn at 512, in points
    card = (out / "README.md").read_text()
    assert "GNU General Public License, version 2" in card
    for row in ("| broken PNG | 1 |", "| broken SVG | 1 |", "| no picture | 1 |", "de 2"):
        assert row in card
    assert not (out / "download").exists()


def test_the_same_package_gives_the_same_bytes(built, tmp_path):
    out, _, argv = built
    build.run([*argv[:-1], str(tmp_path)], "vljax data build", CONSOLE)
    for name in ("items.jsonl", "images.array_record", "README.md"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_the_source_reads_splits_languages_and_pixels(built):
    out, *_ = built
    opened = [Tuxpaint(str(out), split).open() for split in ("train", "validation", "test")]
    captions = {r.annotation(i).captions for r in opened for i in range(len(r))}
    assert captions == {("An owl.",), ("Both.",), ("A cake.",)}
    assert {r.class_names for r in opened} == {("animals", "food")}
    records = [Tuxpaint(str(out), r, ("pt_BR", "de")).open() for r in ("train", "test")]
    records.append(Tuxpaint(str(out), "validation", ("pt_BR", "de")).open())
    both = {r.annotation(i).captions for r in records for i in range(len(r))}
    assert both == {("Eine Eule.",), ("Um bolo.", "Ein Kuchen.")}  # "Both" has neither
    owl = next(r[i] for r in opened for i in range(len(r)) if "owl" in r[i].captions[0])
    assert owl.tags == ("birds", "animals")
    image = Image.open(io.BytesIO(owl.image))
    assert (image.format, image.mode) == ("WEBP", "RGBA")


def test_an_unknown_language_is_named_with_a_suggestion(built):
    out, *_ = built
    with pytest.raises(UserError, match=r"unknown language 'pt_Br'; did you mean 'pt_BR'\?"):
        Tuxpaint(str(out), languages=("en", "pt_Br")).open()


def test_missing_stamps_are_an_error_with_the_build_command(tmp_path):
    with pytest.raises(UserError, match="unset; run `vljax data build tuxpaint-stamps`"):
        Tuxpaint().open()
    with pytest.raises(UserError, match=f"{tmp_path}: no stamps; run `vljax data build"):
        Tuxpaint(str(tmp_path)).open()


def test_too_few_stamps_for_scenes_are_an_error(built):
    out, *_ = built
    with pytest.raises(UserError, match=r"pictures of \d things that can be used, too few"):
        Scenes(Tuxpaint(str(out))).open()


def test_stamps_that_share_a_caption_in_any_language_share_their_split():
    captions = {f"s{i}": {"en": f"thing {i}", "de": f"Ding {i // 2}"} for i in range(40)}
    captions["s41"] = {
        "en": "another",
        "fr": "ding 1",
    }  # the same text in another language does not count
    splits = stamps.assign_splits(captions)
    assert all(splits[f"s{i}"] == splits[f"s{i + 1}"] for i in range(0, 40, 2))
    assert set(splits.values()) == {"train", "validation", "test"}
    chain = {"a": {"en": "x"}, "b": {"en": "X!", "de": "y"}, "c": {"en": "z", "de": "Y"}}
    assert len(set(stamps.assign_splits(chain).values())) == 1


@needs_dpkg
def test_bad_input_is_named(built, tmp_path):
    _, _, argv = built
    for arguments, message in (
        (
            ["tuxpaint-stamp"],
            r"unknown data set 'tuxpaint-stamp'; did you mean 'tuxpaint-stamps'\?",
        ),
        ([*argv[:3], "--out", str(tmp_path)], "SHA-256 is .*, expected 6db6c1bf"),
        ([*argv[:2], f"{tmp_path}/no.deb", "--out", str(tmp_path)], "no.deb: no such file"),
        (["tuxpaint-stamps", "--sha256", "0"], "--sha256 goes with --deb"),
    ):
        with pytest.raises(UserError, match=message):
            build.run(arguments, "vljax data build", CONSOLE)
    empty = make_package(tmp_path, {"usr/a": b""})
    digest = hashlib.sha256(empty.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="no stamps below usr/share/tuxpaint/stamps"):
        build.run([*argv[:2], str(empty), "--sha256", digest], "vljax data build", CONSOLE)
