"""Read the RDF metadata of an Open Clip Art SVG file."""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ENTITY = re.compile(rb"<!ENTITY\s+%?\s*[\w.:-]+\s+(\"[^\"]*\"|'[^']*'|\w+)")


class MetadataError(ValueError):
    """The metadata of an SVG file is missing or cannot be read."""


@dataclass(frozen=True)
class Metadata:
    """The metadata of an SVG file, as written there."""

    title: str
    """The title; empty if there is none."""
    creators: tuple[str, ...]
    """Names of the authors."""
    keywords: tuple[str, ...]
    """The keywords, in order."""
    licence_url: str
    """Address of the licence; empty if there is none."""


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of an SVG file; the drawing after it is not parsed.

    Args:
      path: the SVG file.

    Returns:
      The first work described in the file's metadata.

    Raises:
      MetadataError: the file is not XML up to the end of its metadata, describes no work, or
        declares entities that refer to other entities or files.
    """
    data = path.read_bytes()
    _check_entities(data)
    try:
        for _, element in ElementTree.iterparse(io.BytesIO(data)):
            if _local_name(element) == "metadata":
                return _parse_metadata(element)
    except ElementTree.ParseError as error:
        raise MetadataError(f"{path.name}: {error}") from error
    raise MetadataError(f"{path.name}: no metadata element")


def _check_entities(data: bytes) -> None:
    # Drawing programs declare flat entities for their namespaces; an entity that refers to
    # another one can grow without bound when it is expanded.
    for match in _ENTITY.finditer(data):
        value = match.group(1)
        if value[:1] not in b"\"'" or b"&" in value:
            raise MetadataError("an entity refers to another entity or file")


def _parse_metadata(metadata: ElementTree.Element) -> Metadata:
    work = next(_descendants(metadata, "Work"), None)
    if work is None:
        raise MetadataError("the metadata describes no work")
    titles = [_text(child) for child in work if _local_name(child) == "title"]
    licences = [
        value
        for licence in _descendants(work, "license")
        for name, value in licence.attrib.items()
        if name.endswith("resource")
    ]
    creators = [
        _text(title)
        for creator in _descendants(work, "creator")
        for title in _descendants(creator, "title")
    ]
    keywords = [
        _text(item)
        for subject in _descendants(work, "subject")
        for item in _descendants(subject, "li")
    ]
    return Metadata(
        title=titles[0] if titles else "",
        creators=tuple(filter(None, creators)),
        keywords=tuple(filter(None, keywords)),
        licence_url=licences[0] if licences else "",
    )


def _descendants(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in element.iter() if _local_name(child) == name)


def _local_name(element: ElementTree.Element) -> str:
    # The files use several namespaces for the same vocabulary, so the namespace is ignored.
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element) -> str:
    return (element.text or "").strip()
