"""Writes tar shards as other software does."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import webdataset

from tests.data.samples import encoded, picture


def jpeg(seed: int = 0, height: int = 20, width: int = 24) -> bytes:
    """A JPEG file with another image for each seed."""
    return encoded(picture(height, width, seed=seed), "JPEG")


def sample(number: int, **changes: Any) -> dict[str, Any]:
    """An example with the members and JSON entries that img2dataset documents in its README.

    The caption is in .txt and in .json, which also has `url`, `key`, `status`, `width`, ...
    """
    key = f"{number // 10:05d}{number % 10:04d}"
    about = {
        "caption": f"picture {number}",
        "url": f"https://example.org/{number}.jpg",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 20 + number,
        "height": 20,
        "original_width": 200 + number,
        "original_height": 200,
        "exif": "{}",
        "sha256": "0" * 64,
        **changes.pop("json", {}),
    }
    members = {
        "__key__": key,
        "jpg": jpeg(number),
        "txt": f"picture {number}",
        "json": json.dumps(about).encode(),
        **changes,
    }
    return {name: value for name, value in members.items() if value is not None}


def write_shards(folder: Path, samples: list[dict[str, Any]], per_shard: int = 10) -> str:
    """Writes shards with the `webdataset` package, named as img2dataset names them."""
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxcount=per_shard, verbose=0) as writer:
        for example in samples:
            writer.write(example)
    return str(folder)


def write_tar(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> str:
    """Writes a tar file with Python's own module; members may be links, devices and the like."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member that is not a regular file."""
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info
