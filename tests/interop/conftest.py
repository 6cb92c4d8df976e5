"""Unzips the stored folders of other software, and registers their timm towers."""

import zipfile
from pathlib import Path

import pytest

from tests.parity.interop_cases import TRUNKS
from vljax.interop.open_clip import timm_trunks
from vljax.interop.open_clip.timm_trunks import Trunk
from vljax.models.presets import Size

DATA = Path(__file__).parents[1] / "parity" / "data" / "interop"


@pytest.fixture(autouse=True)
def trunks(monkeypatch):
    for name, of in TRUNKS.items():
        size = Size(of["width"], of["depth"], of["mlp_dim"], of["heads"])
        trunk = Trunk(size, of["patch"], of["image"], of["activation"])
        monkeypatch.setitem(timm_trunks.TRUNKS, name, trunk)


def unzip(name, folder):
    """Unzips a stored folder by its name."""
    with zipfile.ZipFile(DATA / f"{name}.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def foreign(tmp_path):
    """Unzips a stored folder by its name, for one test."""
    return lambda name: unzip(name, tmp_path / "foreign" / name)
