"""Parameter names of ResNet and BiT in transformers, for `Run.pretrained`.

The models are `ResNetModel` (He et al. 2016, version 1.5) and `BitModel` (Kolesnikov et al. 2020).
"""

from __future__ import annotations

from vljax.config import UserError
from vljax.interop.mapping import CONVOLUTION, Rule, rule
from vljax.models.encoders import ResNet

PREFIXES = ("resnet.", "bit.")
HEADS = r"classifier\..*"
IGNORED = (r".*\.num_batches_tracked", HEADS)
"""Step counters, and the classifier, which is not part of the tower."""

_FORMS = {
    "resnet": {"version": "v1.5", "norm": "batch", "standardized_weights": False},
    "bit": {"version": "v2", "block": "bottleneck", "norm": "group", "standardized_weights": True},
}
_NORM = {"scale": "weight", "bias": "bias"}
_STATISTICS = {"mean": "running_mean", "variance": "running_var"}


def check(name: str, encoder: ResNet, layout: str) -> None:
    """Raises UserError if an encoder does not fit a layout, "resnet" or "bit"."""
    for field, wanted in _FORMS[layout].items():
        if getattr(encoder, field) != wanted:
            path = f"model.nodes.{name}.{field}"
            raise UserError(f"{path}: must be {wanted} for weights of {layout}")


def rules(name: str, encoder: ResNet, layout: str) -> list[Rule]:
    """The rules of an encoder. Statistics are included, by the path of their norm.

    Args:
      name: the encoder's name in the model.
      encoder: its configuration.
      layout: "resnet" or "bit".
    """
    bit = layout == "bit"
    stem = "embedder.convolution" if bit else "embedder.embedder.convolution"
    made = [rule(f"{name}/stem/kernel", f"{stem}.weight", CONVOLUTION)]
    made += _norm(f"{name}/norm", "norm") if bit else []
    made += [] if bit else _norm(f"{name}/stem_norm", "embedder.embedder.normalization", True)
    convolutions = 3 if encoder.block == "bottleneck" else 2
    for stage, repeats in enumerate(encoder.repeats):
        for i in range(repeats):
            ours, theirs = f"{name}/stage{stage}_{i}", f"encoder.stages.{stage}.layers.{i}"
            parts = {f"convolution{k}": k for k in range(convolutions)}
            for part, k in parts.items():
                there = f"{theirs}.conv{k + 1}" if bit else f"{theirs}.layer.{k}.convolution"
                made.append(rule(f"{ours}/{part}/kernel", f"{there}.weight", CONVOLUTION))
                there = f"{theirs}.norm{k + 1}" if bit else f"{theirs}.layer.{k}.normalization"
                made += _norm(f"{ours}/{part}_norm", there, not bit)
            if i == 0 and (stage > 0 or encoder.block == "bottleneck"):
                there = f"{theirs}.downsample.conv" if bit else f"{theirs}.shortcut.convolution"
                made.append(rule(f"{ours}/shortcut/kernel", f"{there}.weight", CONVOLUTION))
                if not bit:
                    made += _norm(f"{ours}/shortcut_norm", f"{theirs}.shortcut.normalization", True)
    return made


def _norm(ours: str, theirs: str, statistics: bool = False) -> list[Rule]:
    names = {**_NORM, **(_STATISTICS if statistics else {})}
    return [rule(f"{ours}/{own}", f"{theirs}.{foreign}") for own, foreign in names.items()]
