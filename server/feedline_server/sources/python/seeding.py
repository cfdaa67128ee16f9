"""Random numbers of the operator's code: seeded, so that what it draws is a function of seed, epoch and place.

Whatever the code did before, after `seed` it draws the same numbers, in every worker and replica. Seeded are
`random`, `numpy.random`, torch and TensorFlow where the code has imported them, and generators that are attributes of
the object or names in its module: `self.rng`, `rng = numpy.random.default_rng()`.
"""

import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

VERSION = 1
"""Raised when what is drawn changes: see batches/fingerprint."""

_INCREMENT = 0x5851F42D4C957F2D14057B7EF767814F
"""Of PCG's reference implementation; any odd number would do."""

Generator: TypeAlias = Any
"""Of numpy, of `random` or of torch, which need not be installed."""


def number(purpose: str, *places: int) -> int:
    """128 bits that belong to a purpose and a place, and have nothing to do with those of another."""
    name = f"feedline python {VERSION}: {purpose} {' '.join(map(str, places))}"
    return int.from_bytes(blake2b(name.encode(), digest_size=16).digest(), "little")


def seed(value: int, generators: Iterable[Generator] = ()) -> None:
    """Seed all there is by a number of 128 bits. 10 us (measured), and 6 us more for each `default_rng()`."""
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    for place, generator in enumerate(generators):
        _reseed(generator, number("generator", value, place))
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(value & 0x7FFFFFFFFFFFFFFF)
    if (tensorflow := sys.modules.get("tensorflow")) is not None and hasattr(tensorflow, "random"):
        tensorflow.random.set_seed(value & 0x7FFFFFFF)


def generators_in(*places: object) -> list[Generator]:
    """The generators that are attributes of these objects, or names in these modules, by name, each once."""
    found: dict[int, Generator] = {}
    for place in places:
        for value in _attributes(place):
            if _is_generator(value):
                found[id(value)] = value
    return list(found.values())


def _is_generator(value: object) -> bool:
    kind = type(value)
    of_torch = kind.__name__ == "Generator" and kind.__module__.startswith("torch")
    return of_torch or isinstance(value, np.random.Generator | np.random.RandomState | random.Random)


def _attributes(place: object) -> Iterator[Any]:
    names: Mapping[str, Any] = getattr(place, "__dict__", {})
    if isinstance(place, ModuleType):  # `from numpy.random import *` names numpy's own, which `seed` has seeded
        names = {name: value for name, value in names.items() if not name.startswith("__")}
    for name in sorted(names, key=str):
        yield names[name]


def _reseed(generator: Generator, value: int) -> None:
    if isinstance(generator, random.Random):
        generator.seed(value)
    elif isinstance(generator, np.random.RandomState):
        generator.seed(value & 0xFFFFFFFF)
    elif not isinstance(generator, np.random.Generator):
        generator.manual_seed(value & 0x7FFFFFFFFFFFFFFF)
    else:
        bits = generator.bit_generator
        if isinstance(bits, np.random.PCG64):  # what default_rng makes: its own seeding costs 20 us, this 3 us
            state: Any = {"state": value, "inc": _INCREMENT}
            bits.state = {"bit_generator": "PCG64", "state": state, "has_uint32": 0, "uinteger": 0}
        else:
            bits.state = type(bits)(value).state
