"""The commands of docs/data.md, copied from there."""

import csv
import json
import re
import shlex

import pytest

from tests.commands.conftest import ROOT
from tests.data.samples import encoded, picture

COMMANDS = re.search(r"```bash\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.S)[
    1
].splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide")
    photos = folder / "photos"
    photos.mkdir()
    with open(photos / "captions.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for i in range(80):
            kind = ("JPEG", "PNG")[i % 2]
            (photos / f"{i}.{kind.lower()}").write_bytes(encoded(picture(70, 90, seed=i), kind))
            rows.writerow([f"{i}.{kind.lower()}", f"picture number {i} of a walk in the hills"])
    return folder


def test_five_commands_lead_from_a_folder_to_a_model(call, folder):
    assert len(COMMANDS) == 5
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert program == "vljax"
        words = [re.sub(r"^(photos|runs)/", f"{folder}/\\1/", word) for word in words]
        words = [re.sub(r"\.py$", ".py:tiny", word) for word in words]
        status, out, err = call("-m", "vljax.commands.main", *words)
        assert status == 0, (command, out, err)
    model = json.loads((folder / "runs/photos-npz/recipe.json").read_text())
    assert model["data"]["tokenizers"]["text"]["type"] == "huggingface"
