"""The list of released models agrees with other published facts."""

import pytest

from vljax.verify.released import RELEASED, TASKS


def test_figures_are_percentages_with_a_source():
    for name, model in RELEASED.items():
        assert len(model.figures) == 5, name
        for figure in model.figures:
            assert 20 < figure.percent < 95, (name, figure)
            assert figure.task in TASKS
            assert "csv" in figure.source


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [
        # Table 1 of open_clip's README; the first is also within 0.2 of Radford et al. 2021.
        ("ViT-L-14/openai", 75.5),
        ("ViT-L-14/laion2b_s32b_b82k", 75.3),
        ("ViT-H-14/laion2b_s32b_b79k", 78.0),
        ("ViT-L-14/datacomp_xl_s13b_b90k", 79.2),
        ("ViT-bigG-14/laion2b_s39b_b160k", 80.1),
        ("ViT-SO400M-14-SigLIP/webli", 82.0),
        ("ViT-SO400M-14-SigLIP-384/webli", 83.1),
    ],
)
def test_imagenet_accuracy_agrees_with_the_readme_of_open_clip(name, accuracy):
    assert RELEASED[name].figures[0].percent == pytest.approx(accuracy, abs=0.051)


def test_recall_is_higher_from_image_to_text():
    # An image has five right captions, a caption has one right image.
    for model in RELEASED.values():
        by_metric = {(f.task, f.metric): f.percent for f in model.figures}
        for task in ("coco", "flickr30k"):
            found = by_metric[task, "image_to_text/recall@1"]
            assert found > by_metric[task, "text_to_image/recall@1"]
