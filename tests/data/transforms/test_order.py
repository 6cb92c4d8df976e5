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
    Tokenize,
)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (
            (Decode(scaled=True), ChooseText(), Flip(), RandomCrop(16), Tokenize()),
            "train_transforms: flip needs all pixels, but decode is scaled; put one of "
            "random_crop, random_resized_crop, resize between them",
        ),
        (
            (Decode(scaled=True), RandAugment(), Resize(16), ChooseText(), Tokenize()),
            "train_transforms: rand_augment needs all pixels",
        ),
        (
            (Decode(), Resize(16), Prompt(), ChooseText(), Tokenize()),
            "train_transforms: prompt reads 'text', which is made after it; put choose_text before",
        ),
    ],
)
def test_transforms_in_an_impossible_order_are_named(transforms, message):
    with pytest.raises(UserError, match=message):
        validate(sample_data("pets.jsonl", train_transforms=transforms))


@pytest.mark.parametrize(
    "transforms",
    [
        (Decode(scaled=True), ChooseText(), Prompt(), RandomResizedCrop(16), Flip(), Tokenize()),
        (Decode(), Flip(), Resize(16), ChooseText(), Tokenize()),
    ],
)
def test_valid_orders_are_accepted(transforms, tmp_path):
    (tmp_path / "pets.jsonl").touch()
    validate(sample_data(str(tmp_path / "pets.jsonl"), train_transforms=transforms))
