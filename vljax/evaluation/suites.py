"""Published evaluation sets by name, read from the files that the user has.

`SUITES` is the registry: what each set measures, how many examples it has, and where its files are
obtained. `find` looks for the files in a folder, in the layouts in which they are published, and
gives the evaluator with the published prompts and class names (`class_names.json`, which names its
sources). `check` compares what was opened with the published set.

To add a suite, write a function `(Suite, folder) -> Found` and an entry of `SUITES`.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vljax.config import UserError, suggest
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.records import ExampleError, Source
from vljax.data.sources import (
    Clevr,
    Expand,
    Folder,
    Gqa,
    Karpathy,
    Nlvr2,
    SugarCrepe,
    Tfds,
    VqaV2,
    WebDataset,
    Winoground,
    Xm3600,
)
from vljax.data.sources.filters import Equals
from vljax.evaluation.compositional import CaptionChoice, WinogroundAccuracy
from vljax.evaluation.evaluator import Evaluator
from vljax.evaluation.questions import Questions
from vljax.evaluation.retrieval import MultilingualRetrieval, Retrieval
from vljax.evaluation.zero_shot import ZeroShot
from vljax.files import is_remote, parse_json, read_names, read_user_file

CLASS_NAMES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
"""The files with class names and prompts in the folders that CLIP_benchmark publishes."""

ClassNames = Sequence[str] | Mapping[str, str]
"""Names in the order of the classes, or by the names that the classes have in the files."""


class Found(NamedTuple):
    """The files of a suite, and how they are measured."""

    evaluator: Evaluator
    """With its source; the caller sets the batch size, and the similarity of the model."""
    class_names: ClassNames | None = None
    """For zero-shot classification, unless the source has them."""


@dataclass(frozen=True)
class Suite:
    """A published evaluation set."""

    title: str
    """The data set, its split and what is measured."""
    examples: int | None
    """The number of examples; None if it is not checked."""
    files: str
    """What the folder must hold."""
    obtain: str
    """Where the files are obtained."""
    find: Callable[[Suite, str], Found]
    """Looks for the files in a folder, see `find` below."""
    classes: Mapping[str, str] | None = None
    """For zero-shot classification: the class names by the names of their folders, in the order of
    the published labels; None if the files tell."""
    numbered: bool = False
    """Whether the folders may be named by label, from 0."""
    prompts: str = "imagenet"
    """Which prompts of `class_names.json` are used."""
    inside: tuple[str, ...] = ()
    """Folders that the class folders may be in."""
    tfds: str | None = None
    """The split of the data set in TFDS; None if TFDS does not have these classes."""


def find(name: str, path: str) -> Found:
    """The files of a suite in a folder.

    >>> find("winoground", "winoground")
    Traceback (most recent call last):
    vljax.config.UserError: winoground: no folder winoground; it must hold examples.jsonl and \
images/NAME.png (unpack images.zip); obtain it from https://huggingface.co/datasets/facebook/winoground

    Args:
      name: a key of `SUITES`.
      path: the folder, or the annotation file in it.

    Raises:
      UserError: if the suite is unknown, or files are missing; it says where they are obtained.
    """
    if name not in SUITES:
        raise UserError(f"unknown suite {name!r}{suggest(name, SUITES)}")
    suite = SUITES[name]
    if is_remote(path):
        raise UserError(f"{name}: {path} must be a local folder")
    folder = os.path.expanduser(path)
    if not os.path.exists(folder):
        raise UserError(f"{name}: no folder {path}; {_missing(suite)}")
    try:
        return suite.find(suite, folder)
    except UserError as error:
        raise UserError(f"{name}: {error}; {_missing(suite)}") from error


def check(name: str, found: Found, data: EvaluationSet) -> None:
    """Opens the files, and checks that they are the published set.

    Raises:
      UserError: if a file is missing or malformed, or the number of examples or the classes differ.
    """
    suite = SUITES[name]
    where = f"{name}: {data.source.full_name}"
    known = found.class_names
    try:
        records = data.records
        if len(records):
            records.image(0)
    except (UserError, ExampleError) as error:
        message = str(error).removeprefix("data.source.path: ")
        message = message.removeprefix("data.source.source.path: ")
        raise UserError(f"{name}: {message}; {_missing(suite)}") from error
    if isinstance(known, Mapping):
        classes = data.records.class_names
        if unknown := [each for each in classes if each not in known]:
            raise UserError(f"{where} has the class {unknown[0]!r}, which {name} does not have")
        if len(classes) != (count := len(suite.classes or known)):
            raise UserError(
                f"{where} has {len(classes):,} classes; {name} has {count:,}: {_missing(suite)}"
            )
    elif known is not None:
        if len(known) != (count := len(suite.classes or known)):
            raise UserError(f"{where}: {len(known):,} class names; {name} has {count:,}")
        if len(data.labels) and data.labels.max() >= len(known):
            raise UserError(f"{where} has the class {data.labels.max()}; {name} has {count:,}")
    if suite.examples is not None and len(data) != suite.examples:
        raise UserError(
            f"{where} has {len(data):,} examples; {name} has {suite.examples:,}: {_missing(suite)}"
        )
    if isinstance(found.evaluator, Retrieval) and found.evaluator.captions is not None:
        few = [i for i, own in enumerate(data.captions) if len(own) < found.evaluator.captions]
        if few:
            raise UserError(
                f"{where}: example {few[0]} has {len(data.captions[few[0]])} captions; {name} has"
                f" {found.evaluator.captions} for each"
            )


def listing() -> str:
    """A table of all suites, for `vljax eval --suites`."""
    lines = []
    for name, suite in SUITES.items():
        count = "" if suite.examples is None else f" ({suite.examples:,} examples)"
        lines.append(f"{name}\n  {suite.title}{count}")
        lines += [f"  files: {suite.files}", f"  from:  {suite.obtain}"]
    return "\n".join(lines)


def _missing(suite: Suite) -> str:
    return f"it must hold {suite.files}; obtain it from {suite.obtain}"


# --- Zero-shot classification ---------------------------------------------------------------------


@functools.cache
def _lists() -> dict[str, Any]:
    lists: dict[str, Any] = json.loads(
        Path(__file__).with_name("class_names.json").read_text("utf-8")
    )
    return lists


def prompts(name: str) -> tuple[str, ...]:
    """Published prompts, "imagenet" or "cifar", each with `{}` for the class name.

    >>> len(prompts("imagenet")), prompts("cifar")[0]
    (80, 'a photo of a {}.')
    """
    return tuple(_lists()["prompts"][name])


def imagenet_names() -> dict[str, str]:
    """CLIP's names of the classes of ImageNet by WordNet id, in the order of ILSVRC 2012.

    >>> names = imagenet_names()
    >>> len(names), names["n01440764"]
    (1000, 'tench')
    """
    return dict(_lists()["imagenet"])


def _spellings(suite: Suite) -> dict[str, str]:
    """The class names by all names that the classes may have in files."""
    found = dict(suite.classes or {})
    found |= {key.replace("_", " "): name for key, name in found.items()}
    if suite.numbered:
        found |= {str(i): name for i, name in enumerate((suite.classes or {}).values())}
    return found


def _zero_shot(suite: Suite, folder: str) -> Found:
    """A folder for each class, the tars that CLIP_benchmark publishes, or a data set of TFDS."""
    templates, names = prompts(suite.prompts), _spellings(suite)
    if (tfds := _tfds_folder(folder)) is not None:
        if suite.tfds is None:
            raise UserError(f"{tfds} is a data set of TFDS, which has other classes")
        source: Source = Tfds(tfds, label="label", split=suite.tfds)
        return Found(_evaluator(source, templates), names)
    tars = os.path.join(folder, "test")
    if os.path.isdir(tars) and any(name.endswith(".tar") for name in os.listdir(tars)):
        return _webdataset(suite, folder, tars, templates)
    for inside in ("", *suite.inside):
        below = os.path.join(folder, inside) if inside else folder
        if names.keys() & {*_folders(below)}:
            source = Folder(below, captions=(), tags=None)
            return Found(_evaluator(source, templates), names)
    first = next(iter(names))
    raise UserError(
        f"{folder} has no folder for each class ({first}, ...), no test/*.tar and no"
        " dataset_info.json of TFDS"
    )


def _evaluator(source: Source, templates: tuple[str, ...]) -> ZeroShot:
    return ZeroShot(source, templates=templates, same_name="first")


def _webdataset(suite: Suite, folder: str, tars: str, templates: tuple[str, ...]) -> Found:
    """The folder's own class names and prompts, if it has them, are those of its publisher."""
    names: tuple[str, ...] | None = None
    if os.path.exists(file := os.path.join(folder, CLASS_NAMES)):
        names = read_names(file)
    elif suite.classes is not None:
        names = tuple(suite.classes.values())
    if os.path.exists(file := os.path.join(folder, TEMPLATES)):
        templates = tuple(line.replace("{c}", "{}") for line in read_names(file))
    source = WebDataset(tars, captions=(), label="cls")
    return Found(_evaluator(source, templates), names)


def _vtab(suite: Suite, folder: str) -> Found:
    """A set of VTAB: class names and prompts are those of the folder, as it is published."""
    tars = os.path.join(folder, "test")
    if not (os.path.isdir(tars) and any(name.endswith(".tar") for name in os.listdir(tars))):
        raise UserError(f"{folder} has no test/*.tar")
    for file in (CLASS_NAMES, TEMPLATES):
        if not os.path.exists(os.path.join(folder, file)):
            raise UserError(f"{folder} has no {file}")
    return _webdataset(suite, folder, tars, ())


def _tfds_folder(folder: str) -> str | None:
    """The folder itself or its newest version, if TFDS prepared it."""
    versions = (os.path.join(folder, name) for name in reversed(_folders(folder)))
    for each in (folder, *versions):
        if os.path.exists(os.path.join(each, "dataset_info.json")):
            return each
    return None


def _folders(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def _objectnet(suite: Suite, folder: str) -> Found:
    """The classes that ObjectNet shares with ImageNet, by the mappings that it is published with.

    The names are ObjectNet's own in lower case, as in CLIP_benchmark.
    """
    tars = os.path.join(folder, "test")
    if os.path.isdir(tars):
        return _webdataset(suite, folder, tars, prompts(suite.prompts))
    inner = os.path.join(folder, "objectnet-1.0")
    folder = inner if os.path.isdir(inner) else folder
    labels, shared = (
        _json_object(os.path.join(folder, "mappings", name))
        for name in ("folder_to_objectnet_label.json", "objectnet_to_imagenet_1k.json")
    )
    names = {each: str(label).lower() for each, label in labels.items() if label in shared}
    if not names:
        raise UserError(f"{folder}/mappings: no class of ObjectNet is one of ImageNet")
    source = Folder(
        os.path.join(folder, "images"),
        captions=(),
        tags=None,
        filters=(Equals("class", values=tuple(names)),),
    )
    return Found(_evaluator(source, prompts(suite.prompts)), names)


def _json_object(file: str) -> dict[str, Any]:
    try:
        found = parse_json(read_user_file(file))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: must be an object")
    return found


# --- Retrieval, pairs and questions ---------------------------------------------------------------


def _karpathy(file: str) -> Callable[[Suite, str], Found]:
    """The first five captions of each image of the test split."""

    def find(suite: Suite, folder: str) -> Found:
        path = folder if os.path.isfile(folder) else os.path.join(folder, file)
        if not os.path.exists(path):
            raise UserError(f"{folder} has no {file}")
        beside = os.path.dirname(path) or "."
        images = next(
            (os.path.join(beside, n) for n in suite.inside if os.path.isdir(f"{beside}/{n}")), None
        )
        return Found(Retrieval(Karpathy(path, images, split="test"), captions=5))

    return find


def _source_at(evaluator: Callable[[str], Evaluator]) -> Callable[[Suite, str], Found]:
    return lambda suite, folder: Found(evaluator(folder))


# --- The registry ---------------------------------------------------------------------------------


def _cifar(name: str) -> dict[str, str]:
    names: list[str] = _lists()[name]
    return {each.replace(" ", "_"): each for each in names}


def _imagenet(subset: str | None = None) -> dict[str, str]:
    names = imagenet_names()
    if subset is None:
        return names
    return {wnid: names[wnid] for wnid in _lists()[subset]}


_BY_CLASS = (
    "a folder for each class ({}), or test/*.tar of CLIP_benchmark, or a data set that TFDS"
    " prepared as array_record"
)
# The sets of VTAB (Zhai et al. 2019) but CIFAR-100, which is `cifar100`: what each measures, and
# its name in CLIP_benchmark (`benchmark/webdatasets.txt`).
_VTAB = {
    "caltech101": ("Caltech101", "vtab-caltech101"),
    "clevr-count": ("CLEVR, number of objects", "vtab-clevr_count_all"),
    "clevr-distance": (
        "CLEVR, distance of the closest object",
        "vtab-clevr_closest_object_distance",
    ),
    "diabetic-retinopathy": ("Diabetic Retinopathy", "vtab-diabetic_retinopathy"),
    "dmlab": ("DMLab", "vtab-dmlab"),
    "dsprites-orientation": ("dSprites, orientation", "vtab-dsprites_label_orientation"),
    "dsprites-x-position": ("dSprites, x position", "vtab-dsprites_label_x_position"),
    "dtd": ("Describable Textures", "vtab-dtd"),
    "eurosat": ("EuroSAT", "vtab-eurosat"),
    "flowers": ("Oxford Flowers102", "vtab-flowers"),
    "kitti-distance": (
        "KITTI, distance of the closest vehicle",
        "vtab-kitti_closest_vehicle_distance",
    ),
    "pcam": ("PatchCamelyon", "vtab-pcam"),
    "pets": ("Oxford-IIIT Pets", "vtab-pets"),
    "resisc45": ("RESISC45", "vtab-resisc45"),
    "smallnorb-azimuth": ("SmallNORB, azimuth", "vtab-smallnorb_label_azimuth"),
    "smallnorb-elevation": ("SmallNORB, elevation", "vtab-smallnorb_label_elevation"),
    "sun397": ("SUN397", "sun397"),
    "svhn": ("SVHN", "vtab-svhn"),
}
_CLIP_BENCHMARK = "https://huggingface.co/clip-benchmark (tars)"


def _suites() -> Iterator[tuple[str, Suite]]:
    by_wnid = _BY_CLASS.format("n01440764, ...")
    yield (
        "cifar10",
        Suite(
            "CIFAR-10, test: zero-shot classification",
            10_000,
            _BY_CLASS.format("airplane, ..."),
            f"https://www.cs.toronto.edu/~kriz/cifar.html, {_CLIP_BENCHMARK}, TFDS cifar10",
            _zero_shot,
            _cifar("cifar10"),
            prompts="cifar",
            inside=("test",),
            tfds="test",
        ),
    )
    yield (
        "cifar100",
        Suite(
            "CIFAR-100, test: zero-shot classification",
            10_000,
            _BY_CLASS.format("apple, ..."),
            f"https://www.cs.toronto.edu/~kriz/cifar.html, {_CLIP_BENCHMARK}, TFDS cifar100",
            _zero_shot,
            _cifar("cifar100"),
            prompts="cifar",
            inside=("test",),
            tfds="test",
        ),
    )
    yield (
        "imagenet",
        Suite(
            "ImageNet (ILSVRC 2012), validation: zero-shot classification",
            50_000,
            by_wnid,
            f"https://image-net.org, {_CLIP_BENCHMARK}, TFDS imagenet2012",
            _zero_shot,
            _imagenet(),
            inside=("val", "validation"),
            tfds="validation",
        ),
    )
    yield (
        "imagenet-v2",
        Suite(
            "ImageNetV2, matched frequency: zero-shot classification",
            10_000,
            _BY_CLASS.format("0, 1, ..., 999, or n01440764, ..."),
            f"https://github.com/modestyachts/ImageNetV2, {_CLIP_BENCHMARK}, TFDS imagenet_v2",
            _zero_shot,
            _imagenet(),
            numbered=True,
            inside=("imagenetv2-matched-frequency-format-val", "ImageNetV2-matched-frequency"),
            tfds="test",
        ),
    )
    for letter, count, inside, address in (
        ("a", 7_500, "imagenet-a", "https://github.com/hendrycks/natural-adv-examples"),
        ("r", 30_000, "imagenet-r", "https://github.com/hendrycks/imagenet-r"),
    ):
        name = f"imagenet-{letter}"
        classes = _imagenet(name)
        yield (
            name,
            Suite(
                f"ImageNet-{letter.upper()}, 200 classes: zero-shot classification",
                count,
                f"a folder for each class ({next(iter(classes))}, ...), or test/*.tar of"
                " CLIP_benchmark",
                f"{address}, {_CLIP_BENCHMARK}",
                _zero_shot,
                classes,
                inside=(inside,),
            ),
        )
    yield (
        "imagenet-sketch",
        Suite(
            "ImageNet-Sketch: zero-shot classification",
            50_889,
            by_wnid,
            f"https://github.com/HaohanWang/ImageNet-Sketch, {_CLIP_BENCHMARK}, TFDS"
            " imagenet_sketch",
            _zero_shot,
            _imagenet(),
            inside=("sketch",),
            tfds="test",
        ),
    )
    yield (
        "objectnet",
        Suite(
            "ObjectNet, the 113 classes of ImageNet: zero-shot classification",
            18_574,
            "images/ with a folder for each class and mappings/ with"
            " folder_to_objectnet_label.json and objectnet_to_imagenet_1k.json, or test/*.tar and"
            f" {CLASS_NAMES} of CLIP_benchmark",
            f"https://objectnet.dev, {_CLIP_BENCHMARK}",
            _objectnet,
        ),
    )
    for name, (title, published) in _VTAB.items():
        yield (
            f"vtab-{name}",
            Suite(
                f"VTAB, {title}: zero-shot classification",
                None,
                f"test/*.tar, {CLASS_NAMES} and {TEMPLATES} of CLIP_benchmark",
                f"https://huggingface.co/datasets/clip-benchmark/wds_{published}",
                _vtab,
            ),
        )
    karpathy = "https://cs.stanford.edu/people/karpathy/deepimagesent"
    yield (
        "coco",
        Suite(
            "COCO, Karpathy's test split, five captions an image: retrieval",
            5_000,
            "dataset_coco.json and val2014/",
            f"{karpathy} (splits), https://cocodataset.org (images of 2014)",
            _karpathy("dataset_coco.json"),
        ),
    )
    yield (
        "flickr30k",
        Suite(
            "Flickr30k, Karpathy's test split, five captions an image: retrieval",
            1_000,
            "dataset_flickr30k.json and the images beside it or in flickr30k-images/",
            f"{karpathy} (splits), https://shannon.cs.illinois.edu/DenotationGraph (images)",
            _karpathy("dataset_flickr30k.json"),
            inside=("flickr30k-images", "images"),
        ),
    )
    yield (
        "xm3600",
        Suite(
            "Crossmodal-3600, 36 languages and their mean, all captions: retrieval",
            3_600,
            "captions.jsonl and images/KEY.jpg",
            "https://google.github.io/crossmodal-3600",
            _source_at(lambda path: MultilingualRetrieval(Xm3600(path, language="all"))),
        ),
    )
    yield (
        "winoground",
        Suite(
            "Winoground, 400 pairs: text, image and group score",
            800,
            "examples.jsonl and images/NAME.png (unpack images.zip)",
            "https://huggingface.co/datasets/facebook/winoground",
            _source_at(lambda path: WinogroundAccuracy(Winoground(path))),
        ),
    )
    yield (
        "sugarcrepe",
        Suite(
            "SugarCrepe, accuracy in seven categories and their mean",
            None,
            "add_att.json, ..., swap_obj.json and val2017/",
            "https://github.com/RAIVNLab/sugar-crepe (data/), https://cocodataset.org (val2017)",
            _source_at(lambda path: CaptionChoice(SugarCrepe(path))),
        ),
    )
    yield (
        "vqav2",
        Suite(
            "VQA v2, validation: accuracy of answers; needs a model that answers",
            214_354,
            "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and"
            " val2014/",
            "https://visualqa.org/download.html, https://cocodataset.org (images of 2014)",
            _source_at(lambda path: Questions(source=Expand(VqaV2(path), by="question"))),
        ),
    )
    yield (
        "gqa",
        Suite(
            "GQA, balanced test-dev: accuracy of answers; needs a model that answers",
            12_578,
            "testdev_balanced_questions.json (unpack questions1.2.zip) and images/",
            "https://cs.stanford.edu/people/dorarad/gqa/download.html",
            _source_at(lambda path: Questions(source=Expand(Gqa(path), by="question"))),
        ),
    )
    yield (
        "clevr",
        Suite(
            "CLEVR v1.0, validation: accuracy of answers; needs a model that answers",
            149_991,
            "questions/CLEVR_val_questions.json and images/val/",
            "https://cs.stanford.edu/people/jcjohns/clevr",
            _source_at(lambda path: Questions(source=Expand(Clevr(path), by="question"))),
        ),
    )
    yield (
        "nlvr2",
        Suite(
            "NLVR2, development: accuracy of true and false; needs a model of two images",
            6_982,
            "dev.json and dev/ with the images",
            "https://lil.nlp.cornell.edu/nlvr",
            _source_at(lambda path: Questions(source=Expand(Nlvr2(path), by="question"))),
        ),
    )


SUITES: dict[str, Suite] = dict(_suites())
"""By name."""
