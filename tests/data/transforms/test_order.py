import pytest

from tests.data.samples import sample_data
from vljax.config import UserError, validate
from vljax.data.transforms import (
    ChooseText,
    Decode,
    Flip,
    Prompt,
    RandAugment,
    RandomCrop,
    RandomResizedCrop,
    Resize,
)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (
            (Decode(scaled=True), ChooseText(), Flip(), RandomCrop(16)),
            "train_transforms: flip needs all pixels, but decode is scaled; put one of "
            "random_crop, random_resized_crop, resize between them",
        ),
        (
            (Decode(scaled=True), RandAugment(), Resize(16), ChooseText()),
            "train_transforms: rand_augment needs all pixels",
        ),
        (
            (Decode(), Resize(16), Prompt(), ChooseText()),
            "train_transforms: prompt has no text to put into a template; put choose_text before",
        ),
    ],
)
def test_transforms_in_an_impossible_order_are_named(transforms, message):
    with pytest.raises(UserError, match=message):
        validate(sample_data("pets.jsonl", train_transforms=transforms))


@pytest.mark.parametrize(
    "transforms",
    [
        (Decode(scaled=True), ChooseText(), Prompt(), RandomResizedCrop(16), Flip()),
        (Decode(), Flip(), Resize(16), ChooseText()),
    ],
)
def test_valid_orders_are_accepted(transforms, tmp_path):
    (tmp_path / "pets.jsonl").touch()
    validate(sample_data(str(tmp_path / "pets.jsonl"), train_transforms=transforms))
