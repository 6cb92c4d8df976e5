"""The steps that are counted: a recipe, overrides, and the hardware to compile for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A step to compile."""

    recipe: str
    target: str
    """cpu, for one device of this host; or a topology such as `v5e:2x2`."""
    overrides: str = ""

    @property
    def title(self) -> str:
        """The name in messages."""
        return f"{Path(self.recipe).stem} on {self.target}"

    @property
    def needs_libtpu(self) -> bool:
        """Whether the compiler for TPUs has to be installed."""
        return self.target != "cpu"


FEW = "--model.nodes.image.depth {0} --model.nodes.text.depth {0} --global_batch {1}"
"""Full widths and few layers, so that it compiles in a minute."""
VQA = "--model.nodes.image.depth 1 --model.nodes.question.depth 1 --model.nodes.fusion.depth 1"
SAVE = "--model.nodes.image.remat save --model.nodes.text.remat save"

CASES = {
    "quickstart_cpu": Case("configs/quickstart.py", "cpu"),
    "clip_b16_cpu": Case("configs/clip_vit_b16.py", "cpu", FEW.format(2, 8)),
    # Unrolled layers, replicas that share the update, the ring scan of the sigmoid loss.
    "siglip_b16_v5e": Case("configs/siglip_vit_b16.py", "v5e:2x2", FEW.format(1, 16)),
    # Scanned layers, rematerialisation, long sequences.
    "so400m_v5p": Case("configs/siglip_so400m14_384.py", "v5p:2x2x1", f"{FEW.format(2, 4)} {SAVE}"),
    # Parameters split by fsdp, a causal text tower, the ring scan of the softmax loss.
    "g14_v5p": Case(
        "configs/clip_vit_g14.py",
        "v5p:2x2x1",
        f"{FEW.format(2, 8)} {SAVE} --mesh.data 1 --mesh.fsdp 4",
    ),
    # Several questions attend to one image; cross-attention, classes of answers and of cells.
    "vqa_v5e": Case("configs/vqa_cross_attention.py", "v5e:2x2", f"{VQA} --global_batch 4"),
}
"""Name for `--only` -> case."""
