"""Data sets that vljax makes itself: built-in clip art, composed scenes, stamps from a package."""

from vljax.datasets.builtin.source import Builtin
from vljax.datasets.scenes.source import Scenes
from vljax.datasets.tuxpaint.source import Tuxpaint

__all__ = ["Builtin", "Scenes", "Tuxpaint"]
