"""The steps that are counted: a recipe, what is changed in it, and what it is compiled for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A step to compile."""

    recipe: str
    target: str
    """cpu: one device of this host; else a topology, as `vljax compile --topology` takes it."""
    overrides: str = ""

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"{Path(self.recipe).stem} on {self.target}"

    @property
    def needs_libtpu(self) -> bool:
        """Whether the compiler for TPUs has to be installed."""
        return self.target != "cpu"


FEW = "--model.encoders.image.depth {0} --model.encoders.text.depth {0} --global_batch {1}"
"""Full widths and few layers: what repeats is counted once or twice, and compiles in a minute."""
SAVE = "--model.encoders.image.remat save --model.encoders.text.remat save"

CASES = {
    "quickstart_cpu": Case("configs/quickstart.py", "cpu"),
    "clip_b16_cpu": Case("configs/clip_vit_b16.py", "cpu", FEW.format(2, 8)),
    # Unrolled, copies of the model with a shared update, the sigmoid's ring.
    "siglip_b16_v5e": Case("configs/siglip_vit_b16.py", "v5e:2x2", FEW.format(1, 16)),
    # Scanned and rematerialised, long sequences.
    "so400m_v5p": Case("configs/siglip_so400m14_384.py", "v5p:2x2x1", f"{FEW.format(2, 4)} {SAVE}"),
    # Parameters split over devices, a causal text tower, the softmax's ring.
    "g14_v5p": Case(
        "configs/clip_vit_g14.py",
        "v5p:2x2x1",
        f"{FEW.format(2, 8)} {SAVE} --mesh.data 1 --mesh.fsdp 4",
    ),
}
"""By the name that `--only` takes."""
