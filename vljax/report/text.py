"""Lines and numbers for people."""

from __future__ import annotations

from rich.console import Console


def say(console: Console, line: str) -> None:
    """Prints a line as it is, however long."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def in_bytes(count: int) -> str:
    """A number of bytes in three or four digits: 775 MiB."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if round(size) < 1024:
            break
        size, unit = size / 1024, larger
    digits = 0 if unit == "B" or size >= 100 else 1
    return f"{size:,.{digits}f} {unit}"
