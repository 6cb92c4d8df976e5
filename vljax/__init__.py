"""vljax: a JAX-native stack for vision-language models.

>>> import vljax
>>> vljax.load("no/such/workdir")
Traceback (most recent call last):
vljax.config.UserError: no/such/workdir: no such file or folder
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vljax.inference import load as load

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # JAX takes a second to import; `import vljax` and `vljax --help` do not need it.
    if name == "load":
        from vljax.inference import load

        return load
    raise AttributeError(f"module 'vljax' has no attribute {name!r}")
