"""Processes that are connected and run a few lines, without a model."""

_PROGRAM = """
import sys, time
import jax
from vljax.config import UserError
from vljax.parallel.processes.agreement import barrier, broadcast, gather
from vljax.parallel.processes.failure import report_failure
from vljax.parallel.processes.start import DistributedConfig, connect, is_first, process_index
place = dict(argument.removeprefix("--distributed.").split("=") for argument in sys.argv[1:])
place = {name: int(value) if value.isdecimal() else value for name, value in place.items()}
try:
    connect(DistributedConfig(**place, timeout_seconds=60), dict)
    try:
        LINES
    except BaseException as error:
        report_failure(error)
        raise
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
"""


def joined(lines: str) -> tuple[str, str]:
    """Arguments of Python for processes that connect and then run some lines."""
    return "-c", _PROGRAM.replace("LINES", lines.strip().replace("\n", "\n        "))
