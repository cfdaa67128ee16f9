"""An object of the operator's as it was when it was built, made anew as often as it is needed.

A copy knows nothing of what was done to another. What is large or cannot be copied is shared: arrays of files,
arrays larger than SHARED_NBYTES, open files, locks, modules, functions and classes. Large arrays in memory
become read-only, so that code which changes them in place is told of it, instead of being served to the next epoch.
"""

import io
import pickle
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np

from feedline_wire.seeding import reached

SHARED_NBYTES = 64 << 20
"""An index of eight million samples is copied, data is not."""

SHARED_IF_MANY_NBYTES = 64 << 10
"""The same where there are so many arrays that all copies together would be too large: a list of images."""

COPY_NBYTES = 256 << 20
"""What a copy may take at most. A worker keeps some of them (units.KEPT)."""

_ATOMS = (type, FunctionType, BuiltinFunctionType, ModuleType, io.IOBase)
_PLAIN = frozenset(
    {int, float, complex, bool, type(None), list, tuple, dict, set, frozenset, range, slice, pickle.PickleBuffer}
)


class TooLarge(Exception):
    """A copy takes more than COPY_NBYTES."""


class Copies:
    """Copies of an object as it is now. The object itself is not needed any more, and must not be used."""

    def __init__(self, value: object) -> None:
        try:
            self._state, self._shared = _taken(value, SHARED_NBYTES)
        except TooLarge:
            self._state, self._shared = _taken(value, SHARED_IF_MANY_NBYTES)
        for one in self._shared:
            if isinstance(one, np.ndarray) and one.flags.writeable:
                one.flags.writeable = False

    @property
    def nbytes(self) -> int:
        """What a copy takes, without what is shared."""
        return len(self._state)

    def another(self) -> Any:  # noqa: ANN401 - the operator's
        """A new copy."""
        return _Reader(self._state, self._shared).load()


def let_go(copy: object) -> None:
    """A copy is not needed any more: its finalizers must not close what it shares with others."""
    for part in reached(copy):
        kind = type(part)
        if "__del__" in {name for base in kind.__mro__ for name in vars(base)} and kind.__flags__ & _HEAP_TYPE:
            with suppress(TypeError):  # of compiled code, which counts references by itself
                part.__class__ = type(kind.__name__, (kind,), {"__slots__": (), "__del__": lambda _: None})


_HEAP_TYPE = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: a class that Python code has made."""


def _taken(value: object, shared_nbytes: int) -> tuple[bytes, list[Any]]:
    file = _Bounded()
    shared: list[Any] = []
    _Writer(file, shared, shared_nbytes).dump(value)
    return file.getvalue(), shared


class _Bounded(io.BytesIO):
    def write(self, data: Any, /) -> int:  # noqa: ANN401 - as its base
        if self.tell() + memoryview(data).nbytes > COPY_NBYTES:
            raise TooLarge(f"more than {COPY_NBYTES >> 20} MiB")
        return super().write(data)


class _Writer(pickle.Pickler):
    def __init__(self, file: _Bounded, shared: list[Any], shared_nbytes: int) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._shared = shared
        self._places: dict[int, int] = {}
        self._shared_nbytes = shared_nbytes

    def persistent_id(self, value: Any) -> int | None:  # noqa: ANN401 - whatever the object is made of
        place = self._places.get(id(value))
        if place is None and self._is_shared(value):
            place = self._places[id(value)] = len(self._shared)
            self._shared.append(value)
        return place

    def _is_shared(self, value: Any) -> bool:  # noqa: ANN401
        if type(value) in _PLAIN:
            return False
        if isinstance(value, str | bytes):
            return len(value) > self._shared_nbytes
        if isinstance(value, np.ndarray):
            return _is_of_a_file(value) or (value.nbytes > self._shared_nbytes and not value.dtype.hasobject)
        large = _nbytes(value) > self._shared_nbytes and not hasattr(value, "__dict__")
        return large or isinstance(value, _ATOMS) or not _can_be_taken_apart(value)


class _Reader(pickle.Unpickler):
    def __init__(self, state: bytes, shared: list[Any]) -> None:
        super().__init__(io.BytesIO(state))
        self._shared = shared

    def persistent_load(self, place: int) -> Any:  # noqa: ANN401
        return self._shared[place]


def _is_of_a_file(array: np.ndarray[Any, Any]) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


def _nbytes(value: Any) -> int:  # noqa: ANN401
    nbytes = getattr(value, "nbytes", 0)
    return nbytes if isinstance(nbytes, int) else 0


def _can_be_taken_apart(value: Any) -> bool:  # noqa: ANN401
    try:
        value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    except Exception:  # a lock, a socket, a generator, a file of HDF5: each says so in its own way
        return False
    return True
