"""Parameter names of EfficientNet-Lite in PyTorch, as efficientnet_lite_pytorch saves it."""

from __future__ import annotations

from vljax.interop.mapping import CONVOLUTION, Rule, rule
from vljax.models.encoders import EfficientNetLite

IGNORED = (r".*\.num_batches_tracked", r"_fc\.(weight|bias)")
"""Step counters, and the classifier, which is not part of the tower."""

_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}


def rules(name: str, encoder: EfficientNetLite) -> list[Rule]:
    """The rules of an encoder. Statistics are included, by the path of their norm.

    Args:
      name: the encoder's name in the model.
      encoder: its configuration.
    """
    made = [*_convolution(f"{name}/stem", "_conv_stem", "_bn0")]
    number = 0
    for i, stage in enumerate(encoder.stages):
        for j in range(stage.repeats):
            ours, theirs = f"{name}/stage{i}/{j}", f"_blocks.{number}"
            if stage.expansion != 1:
                made += _convolution(f"{ours}/expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            depthwise = f"{theirs}._depthwise_conv"
            made += _convolution(f"{ours}/depthwise", depthwise, f"{theirs}._bn1")
            made += _convolution(f"{ours}/project", f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    return [*made, *_convolution(f"{name}/head", "_conv_head", "_bn1")]


def _convolution(own: str, convolution: str, norm: str) -> list[Rule]:
    """The rules of a convolution and the norm after it."""
    kernel = rule(f"{own}/kernel", f"{convolution}.weight", CONVOLUTION)
    return [kernel, *(rule(f"{own}_norm/{k}", f"{norm}.{v}") for k, v in _NORM.items())]
