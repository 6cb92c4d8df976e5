"""A safe reader for the pickles of PyTorch state dicts.

A pickle is a program that may call any function. This interpreter knows the opcodes for literals
and containers, and only the functions in a table; it refuses anything else by name. PyTorch's own
`weights_only` loader works the same way, but needs PyTorch.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple, cast

from vljax.config import UserError


class Global(NamedTuple):
    """A name that a pickle refers to. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


Call = Callable[..., Any]
Persistent = Callable[[Any], Any]

_MARK = object()
_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = ("PROTO", "FRAME")


def load(
    file: io.BufferedIOBase, calls: Mapping[str, Call | None], persistent: Persistent, source: str
) -> Any:
    """The value of one pickle. Leaves the file position after its end.

    Args:
      file: a file positioned at the start of the pickle.
      calls: a replacement for each function that may be called; None for names that may only be
        used as values, which stay `Global`.
      persistent: maps a persistent id to a value.
      source: the file name, for messages.

    Raises:
      UserError: for a name that is not in `calls`, an opcode that state dicts do not need, or
        damage.
    """
    machine = _Machine(calls, persistent, source)
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except UserError:
        raise
    except Exception as error:  # the bytes may be anything, so any exception is possible
        raise UserError(f"{source}: damaged: not the pickle of a state dict ({error})") from error
    raise UserError(f"{source}: damaged: its pickle ends early")


class _Machine:
    """The stack and the memo of a pickle. Method names are opcodes of `pickletools`."""

    def __init__(
        self, calls: Mapping[str, Call | None], persistent: Persistent, source: str
    ) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._calls, self._persistent, self._source = calls, persistent, source

    def step(self, name: str, argument: Any) -> None:
        """Executes one opcode."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            count = _TUPLES[name]
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[int(argument)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self._memo[int(argument)])
        elif name not in _NO_EFFECT:
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise UserError(f"{self._source}: opcode {name}, which a state dict does not need")
            method(argument)

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _since_mark(self) -> list[Any]:
        mark = max(i for i, item in enumerate(self.stack) if item is _MARK)
        items = self.stack[mark + 1 :]
        del self.stack[mark:]
        return items

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def _dict(self, _: Any) -> None:
        self.stack.append(_paired(self._since_mark()))

    def _append(self, _: Any) -> None:
        self.stack[-2].append(self.stack[-1])
        self.stack.pop()

    def _appends(self, _: Any) -> None:
        items = self._since_mark()
        self.stack[-1].extend(items)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][key] = value

    def _setitems(self, _: Any) -> None:
        items = self._since_mark()
        self.stack[-1].update(_paired(items))

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push_global(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        named = Global(module, name)
        if str(named) not in self._calls:
            raise UserError(
                f"{self._source}: refers to {named}, which a plain state dict does not need;"
                " vljax never runs pickled code: save only the model's state_dict()"
            )
        self.stack.append(named)

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        call = self._calls[str(function)] if isinstance(function, Global) else None
        if call is None:
            raise UserError(f"{self._source}: calls {function!s}, which a state dict does not need")
        self.stack.append(call(*arguments))

    def _build(self, _: Any) -> None:
        """Drops the attributes of an object, such as the versions stored with a state dict."""
        self.stack.pop()

    def _binpersid(self, _: Any) -> None:
        self.stack.append(self._persistent(self.stack.pop()))


def _paired(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))
