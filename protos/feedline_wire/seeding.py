"""Random numbers of the operator's code: seeded, so that what it draws is a function of seed, epoch and place.

Whatever the code did before, after `seed` it draws the same numbers, in every worker and replica. Seeded are `random`,
`numpy.random`, torch, TensorFlow and OpenCV where the code has imported them, and every generator that is reached from
its objects and modules, at any depth: `self.rng`, `self.augment.transforms[2].py_random`.
"""

import ctypes
import gc
import importlib.util
import random
import sys
import tempfile
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import chain, islice
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeAlias

import numpy as np

VERSION = 2
"""Raised when what is drawn changes: see batches/fingerprint."""

LOOKED_INTO = 1000
"""Elements of a container that are searched for generators. What has more is data, whose elements are alike."""

_INCREMENT = 0x5851F42D4C957F2D14057B7EF767814F
"""Of PCG's reference implementation; any odd number would do."""

_MT19937_NBYTES = 624 * 4 + 4
"""`mt19937_state` of numpy: the key, and the place in it."""

_LEAVES = (int, float, complex, str, bytes, bytearray, memoryview, range, slice, np.ndarray, np.generic, CodeType)

Generator: TypeAlias = Any
"""Of numpy, of `random`, torch, TensorFlow or Keras, which need not be installed."""

NUMPY: Generator = np.random.random_sample.__self__  # type: ignore[attr-defined]  # bound to it
"""What `numpy.random`'s functions draw from."""

_compiled: Any = random.Random.__base__  # what it is made of, whose `seed` looks at nothing first

PYTHON: Generator = random.random.__self__  # type: ignore[attr-defined]  # bound to it
"""What those of `random` draw from."""


def number(purpose: str, *places: int) -> int:
    """128 bits that belong to a purpose and a place, and have nothing to do with those of another."""
    name = f"feedline python {VERSION}: {purpose} {places}"
    return int.from_bytes(blake2b(name.encode(), digest_size=16).digest(), "little")


def seed(value: int, generators: Iterable[Generator] = ()) -> None:
    """Seed all there is by a number of 128 bits. 12 us (measured), and 5 us more for each of the generators."""
    global _latest  # noqa: PLW0603 - what is imported later is seeded as if it had been there
    _latest = value
    for generator in shared_generators():
        reseed(generator, value)
    for place, generator in enumerate(generators):
        reseed(generator, number("generator", value, place))
    seed_unreadable(value)


@contextmanager
def building(value: int) -> Iterator[None]:
    """Seed all there is, and what is made without a seed meanwhile: `default_rng()`, `RandomState()`, `Random()`.

    Not what names temporary files and the semaphores of `multiprocessing`: the same names in every worker of every
    loader would be taken.
    """
    entropy = random.Random(value)  # noqa: S311 - in place of the system's
    of_numpy: Any = np.random.bit_generator  # whose SeedSequence asks `randbits` where it is given none
    of_python: Any = random.Random
    randbits, seed_python = of_numpy.randbits, of_python.seed

    def seeded(generator: random.Random, a: Any = None, version: int = 2) -> None:  # noqa: ANN401 - as there
        seed_python(generator, entropy.getrandbits(128) if a is None else a, version)

    class OfNames(random.Random):
        seed = seed_python

    names: Any = tempfile
    of_names = names._Random
    seed(value)
    of_numpy.randbits, of_python.seed, names._Random = entropy.getrandbits, seeded, OfNames
    try:
        yield
    finally:
        of_numpy.randbits, of_python.seed, names._Random = randbits, seed_python, of_names


def shared_generators() -> list[Generator]:
    """Those that all code draws from, whose position can be read."""
    torch = sys.modules.get("torch")
    of_torch = [torch.default_generator] if torch is not None and hasattr(torch, "default_generator") else []
    return [PYTHON, NUMPY, *of_torch]


def seed_unreadable(value: int) -> None:
    """Seed those that all code draws from and that do not tell whether something was drawn."""
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value & 0x7FFFFFFFFFFFFFFF)
    if (tensorflow := sys.modules.get("tensorflow")) is not None and hasattr(tensorflow, "random"):
        tensorflow.random.set_seed(value & 0x7FFFFFFF)
    if (opencv := sys.modules.get("cv2")) is not None and hasattr(opencv, "setRNGSeed"):
        opencv.setRNGSeed(value & 0x7FFFFFFF)


def has_unreadable() -> bool:
    """Code may have drawn without a trace: it is seeded before each call."""
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized()
    return on_gpu or "tensorflow" in sys.modules or "cv2" in sys.modules


def reseed(generator: Generator, value: int) -> None:
    """Let a generator begin where a number of 128 bits says."""
    if type(generator) is random.Random:  # without what its `seed` looks at: 1 us of 5
        _compiled.seed(generator, value & 0xFFFFFFFFFFFFFFFF)
        vars(generator)["gauss_next"] = None
    elif isinstance(generator, random.Random):
        generator.seed(value & 0xFFFFFFFFFFFFFFFF)
    elif isinstance(generator, np.random.RandomState):
        generator.seed(value & 0xFFFFFFFF)
    elif type(generator).__name__ == "SeedGenerator":  # of Keras' layers: a seed, and how often it was drawn from
        generator.state.assign(np.array([value & 0x7FFFFFFF, 0]))
    elif not isinstance(generator, np.random.Generator | np.random.BitGenerator):
        begin = generator.manual_seed if hasattr(generator, "manual_seed") else generator.reset_from_seed
        begin(value & 0x7FFFFFFFFFFFFFFF)
    else:
        bits = _bits(generator)
        if isinstance(bits, np.random.PCG64):  # what default_rng makes: its own seeding costs 20 us, this 3 us
            state: Any = {"state": value, "inc": _INCREMENT}
            bits.state = {"bit_generator": "PCG64", "state": state, "has_uint32": 0, "uinteger": 0}
        else:
            bits.state = type(bits)(value).state


def position(generator: Generator) -> object:
    """Where a generator is: another object once something was drawn from it. 1 to 10 us."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if not isinstance(generator, np.random.RandomState | np.random.Generator | np.random.BitGenerator):
        if type(generator).__name__ == "SeedGenerator":
            return np.asarray(generator.state).tobytes()
        return generator.get_state().numpy().tobytes() if hasattr(generator, "get_state") else object()
    bits = _bits(generator)
    if not isinstance(bits, np.random.MT19937):
        return repr(bits.state)
    # Its `state` costs 35 us. What RandomState.randn keeps for the next call is there only after a draw.
    return ctypes.string_at(bits.ctypes.state_address, _MT19937_NBYTES)


def generators_in(*places: object) -> list[Generator]:
    """The generators that are reached from these objects and modules, each once, in an order of the objects alone."""
    shared = shared_generators()  # reached through `from random import random`
    return [value for value in reached(*places) if _is_generator(value) and not any(value is one for one in shared)]


def reached(*places: object) -> Iterator[Any]:
    """What these objects, modules and classes are made of, at any depth, nearest first.

    Modules that are not named and classes of others are not entered, generators neither; nor sets, which have no order.
    """
    names = {place.__name__ for place in places if isinstance(place, ModuleType)}
    known = [place for place in places if isinstance(place, ModuleType)]
    seen: set[int] = set()
    waiting: deque[Any] = deque(places)
    while waiting:
        value = waiting.popleft()
        if isinstance(value, _LEAVES) or value is None or id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if not _is_generator(value):
            waiting.extend(_parts(value, known, names))


def seed_imports() -> None:
    """Have what is imported from now on seeded as if it had been there: torch begins with a number of the system.

    Idempotent.
    """
    if _IMPORTS not in sys.meta_path:
        sys.meta_path.insert(0, _IMPORTS)


class _SeededImports(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in {"torch", "tensorflow", "cv2"}:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def executed(module: ModuleType) -> None:
                execute(module)
                seed(_latest)

            spec.loader.exec_module = executed  # type: ignore[method-assign]  # of this module's own loader
        return spec


_IMPORTS = _SeededImports()

_latest = number("build")
"""What everything was seeded by last."""


def _bits(generator: Generator) -> np.random.BitGenerator:
    if isinstance(generator, np.random.BitGenerator):
        return generator
    found: np.random.BitGenerator = (
        generator._bit_generator if isinstance(generator, np.random.RandomState) else generator.bit_generator
    )
    return found


def _is_generator(value: object) -> bool:
    kind = type(value)
    of_framework = (kind.__name__ == "Generator" and kind.__module__.startswith(("torch", "tensorflow"))) or (
        kind.__name__ == "SeedGenerator" and kind.__module__.startswith(("keras", "tf_keras"))
    )
    return of_framework or (
        isinstance(value, np.random.Generator | np.random.RandomState | np.random.BitGenerator | random.Random)
        and not isinstance(value, random.SystemRandom)
    )


def _parts(value: Any, modules: Collection[ModuleType], names: Collection[str]) -> Iterable[Any]:  # noqa: ANN401
    if isinstance(value, ModuleType):  # `from numpy.random import *` names numpy's own, which `seed` has seeded
        own = any(value is one for one in modules)
        return [part for name, part in vars(value).items() if not name.startswith("__")] if own else ()
    if isinstance(value, type):
        return vars(value).values() if value.__module__ in names else ()
    if isinstance(value, FunctionType):
        # Not its globals: those of the operator's modules are looked into as such.
        return [*(value.__closure__ or ()), *(value.__defaults__ or ()), value.__kwdefaults__, vars(value)]
    if isinstance(value, set | frozenset):
        return ()
    if isinstance(value, dict | list | tuple | deque):
        parts = islice(value.values() if isinstance(value, dict) else value, LOOKED_INTO)
        return (*parts, *vars(value).values()) if hasattr(value, "__dict__") else parts
    # Attributes in the order in which they were set: which order the collector has depends on the version of Python.
    attributes = getattr(value, "__dict__", None)
    of_attributes = attributes.values() if isinstance(attributes, dict) else ()
    return islice(chain(of_attributes, gc.get_referents(value)), LOOKED_INTO)
