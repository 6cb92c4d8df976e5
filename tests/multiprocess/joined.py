"""Processes that know of each other, without a model."""

_PROGRAM = """
import sys, time
import jax
from vljax import cli
from vljax.config import UserError
from vljax.parallel import distributed
place = dict(argument.removeprefix("--distributed.").split("=") for argument in sys.argv[1:])
place = {name: int(value) if value.isdecimal() else value for name, value in place.items()}
def work():
    distributed.start(distributed.DistributedConfig(**place, timeout_seconds=60), dict)
    try:
        LINES
    except BaseException as error:
        distributed.fail(error)
        raise
    return 0
sys.exit(cli._guarded(work))
"""


def joined(lines: str) -> tuple[str, str]:
    """Arguments of Python for processes that start together and then run some lines."""
    return "-c", _PROGRAM.replace("LINES", lines.strip().replace("\n", "\n        "))
