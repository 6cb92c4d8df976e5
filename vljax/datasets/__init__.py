"""Data sets that vljax makes itself, each with its source or its builder.

- `builtin`: clip art that is part of vljax; its builder, data card and tokenizer.
- `easy_vqa`: what `vljax data build easy-vqa` makes; the source `JsonLines` reads it.
- `scenes`: scenes composed from the pictures of another data set, with boxes and questions.
- `tuxpaint`: stamps that `vljax data build tuxpaint-stamps` makes from a Debian package.
"""

from vljax.datasets.builtin.source import Builtin
from vljax.datasets.scenes.source import Scenes
from vljax.datasets.tuxpaint.source import Tuxpaint

__all__ = ["Builtin", "Scenes", "Tuxpaint"]
