"""What a thread read last: an example's label, captions and image are asked for one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class LastRead(threading.local):
    """One value a thread, by its key; not carried to other processes."""

    _key: Any = None
    _value: Any = None

    def get(self, key: Any, read: Callable[[], Any]) -> Any:
        """The value of a key, read anew unless it was the last."""
        if self._key != key:
            self._value = read()
            self._key = key
        return self._value

    def __reduce__(self) -> tuple[type[LastRead], tuple[()]]:
        return LastRead, ()
