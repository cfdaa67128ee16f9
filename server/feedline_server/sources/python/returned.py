"""What the operator's code returns, as named arrays: tuples, dicts and lists of anything that is numbers.

The first of the data fixes its form, and whatever differs from it is refused naming both; nothing is filled
in, cut, or read as another dtype that could lose a value. Arrays keep their dtype. Python's own numbers have none:
`float` becomes float32, which is what Keras and torch make of it, `int` int64, `bool` bool.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from feedline_server.declared.datasets import PythonConfig
from feedline_server.host.user_code import MASKED, masked_values
from feedline_wire import BAD, IDS
from feedline_wire.errors import DataError
from feedline_wire.structure import Structure
from feedline_wire.tensors import Array, Column, wire_dtype

Path: TypeAlias = tuple[int | str, ...]
"""How a leaf is reached: `(0, "image")` is `value[0]["image"]`."""

Found: TypeAlias = Any
"""What the operator's code returned."""

PARTS = ("x", "y", "sample_weight")
"""The parts of a tuple by their places, as Keras has them."""


class Unfit(Exception):
    """What was returned cannot be served; the message says what it is and what to change, not where it was."""


@dataclass(frozen=True, slots=True)
class Form:
    """How one thing that was returned is made up: its leaves in order, their columns, and what they make up."""

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    """The column of each leaf."""
    structure: Structure | None
    """None: the names decide, or the declaration."""
    keys: frozenset[str] | None
    """Those that are read, of a dict, where the declaration names them; None: all."""
    dropped: frozenset[Path] = frozenset()
    """What is left out."""

    def arrays(self, value: Found, like: Mapping[str, np.dtype[Any]] | None = None) -> dict[str, Array]:
        """The columns of something that must have this form. Unfit if it has another.

        `like` are the dtypes its numbers may take where Python leaves them open.
        """
        found = dict(leaves(value, self.keys, self.dropped))
        if tuple(found) != self.paths and found.keys() != set(self.paths):
            missing = [path for path in self.paths if path not in found]
            more = [path for path in found if path not in self.paths]
            what = f"has no {written(missing[0])}" if missing else f"has a {written(more[0])} too"
            raise Unfit(f"{what}; return the same parts every time")
        return {
            name: as_array(found[path], path, None if like is None else like[name])
            for path, name in zip(self.paths, self.names, strict=True)
        }

    def together(self, values: Sequence[Found], columns: Sequence[Column]) -> dict[str, Array] | None:
        """The columns of several things of this form, the quick way; None if they have to be looked at one by one."""
        left_out = frozenset(path[0] for path in self.dropped if len(path) == 1)
        parts = _parts(values, self._tree, self.keys, left_out) if values else None
        if parts is None:
            return None
        found = {column.name: _stacked(part, column) for part, column in zip(parts, columns, strict=True)}
        return None if any(array is None for array in found.values()) else found  # type: ignore[return-value]

    @property
    def _tree(self) -> "_Tree":
        tree: _Tree = {}
        for path in self.paths:
            inner = tree
            for step in path:
                inner = inner.setdefault(step, {})
        return tree


def form_of(value: Found, wanted: Sequence[str] | None, dropped: Iterable[str] = ()) -> Form:
    """The form of the first that was returned, without what is dropped by path, such as `0.name`. Unfit.

    Of a dict only the keys that are `wanted`, if any are.
    """
    keys = frozenset(name.split(".")[0] for name in wanted) if wanted else None
    without = frozenset(tuple(int(step) if step.isdecimal() else step for step in name.split(".")) for name in dropped)
    paths = tuple(path for path, _ in leaves(value, keys, without))
    if not paths:
        raise Unfit(f"is {_described(value)}, which holds nothing; return arrays, such as (x, y)")
    places = {path: place for place, path in enumerate(paths)}
    names = _names(paths, len(value) if _is_tuple(value) else 0)
    for name in (IDS, BAD):
        if name in names:
            raise Unfit(f"has a part {name!r}, which is the name of a column of feedline's own; rename it")
    return Form(paths, names, _structure(value, places, names, chosen=keys is not None), keys, without)


def wanted(config: PythonConfig) -> list[str] | None:
    """The parts of dicts that are read, where the declaration names all that it needs; None: all."""
    if config.inputs is None:
        return None
    wanted = [*config.inputs, *(config.targets or ()), *([config.sample_weight] if config.sample_weight else [])]
    for columns in (*(one.columns for one in config.transforms), *(one.columns for one in config.filters)):
        if columns is None:  # a function that has samples as mappings of all
            return None
        wanted += columns
    return wanted


def leaves(
    value: Found, wanted: frozenset[str] | None, dropped: frozenset[Path] = frozenset(), path: Path = ()
) -> Iterator[tuple[Path, Any]]:
    """Every leaf that is wanted and not dropped, and how it is reached."""
    if path in dropped:
        return
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise Unfit(f"has the key {key!r} in {written(path)}; keys of a dict must be text, they name columns")
            if path or wanted is None or key in wanted:
                yield from leaves(part, wanted, dropped, (*path, key))
    elif _is_tuple(value):
        parts = list(value)
        if not path and len(parts) > 1 and parts[-1] is None:  # Keras allows (x, y, None): no weights
            parts.pop()
        for place, part in enumerate(parts):
            yield from leaves(part, wanted, dropped, (*path, place))
    else:
        yield path, value


def as_array(value: Found, path: Path, like: np.dtype[Any] | None) -> Array:
    """A leaf as numbers. Unfit, saying what it is and what to return, if it is none."""
    if masked := masked_values(value):
        raise Unfit(f"holds a masked array in {written(path)}, {masked} of its values are masked; {MASKED}")
    if isinstance(value, np.ndarray | np.generic) and value.dtype == like:  # nearly always
        return np.asarray(value)
    if value is None:
        raise Unfit(f"holds None in {written(path)}; return a number or an array, or leave the part out{_drop(path)}")
    if isinstance(value, str | bytes):
        raise Unfit(f"holds text in {written(path)} ({value[:20]!r}); {_TEXT}{_drop(path)}")
    if isinstance(value, Mapping) or (_is_tuple(value) and not isinstance(value, list)):
        raise Unfit(f"holds {_described(value)} in {written(path)}, where the first holds an array")
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever the __array__ of a foreign class raises
        raise Unfit(f"holds {_described(value)} in {written(path)}, which is no array ({error}); {_REGULAR}") from error
    if array.dtype.kind in "USO" or array.dtype.hasobject:
        text = array.dtype.kind in "US" or (array.dtype.kind == "O" and array.size and isinstance(array.flat[0], str))
        raise Unfit(f"holds {_described(value)} in {written(path)}; {_TEXT if text else _REGULAR}")
    if _has_no_dtype(value):
        array = _weakly(array, like)
    try:
        return array.astype(wire_dtype(array.dtype), copy=False)
    except DataError as error:
        raise Unfit(f"holds {_described(value)} in {written(path)}: {error}") from error


_Tree: TypeAlias = dict[int | str, "_Tree"]
"""Paths by their steps; a leaf is empty."""


def _parts(
    values: Sequence[Found], tree: _Tree, chosen: frozenset[str] | None, left_out: frozenset[int | str] = frozenset()
) -> list[Sequence[Found]] | None:
    """The values of each leaf; None where not all are of one form."""
    if not tree:
        return [values]
    kinds = set(map(type, values))
    if kinds == {dict}:
        names = tree.keys() | left_out
        fit = all(chosen <= value.keys() if chosen else value.keys() == names for value in values)
    else:
        fit = kinds == {tuple} and all(len(value) == len(tree) for value in values)
    parts: list[Sequence[Found]] = []
    for step, inner in tree.items() if fit else ():
        found = _parts([value[step] for value in values], inner, None)
        if found is None:
            return None
        parts += found
    return parts if fit else None


def _stacked(values: Sequence[Found], column: Column) -> Array | None:
    """The values of a leaf in one array of the column; None if not all are plainly that."""
    kinds = set(map(type, values))
    kind, torch = kinds.pop(), sys.modules.get("torch")
    if kinds:
        return None
    if kind is np.ndarray:
        if any(value.dtype != column.dtype or value.shape != column.shape for value in values):
            return None
        out = np.empty((len(values), *column.shape), column.dtype)
        if not column.shape:
            out[...] = values
        elif out.size:
            np.concatenate(values, out=out.reshape((-1, *column.shape[1:])))
        return out
    if kind in {int, float, bool} or issubclass(kind, np.generic):
        array = np.array(values)
        if kind in {int, float} and column.dtype.kind in "fc" and array.dtype.kind in "iuf":
            array = array.astype(column.dtype)
    elif torch is not None and kind is torch.Tensor:
        try:
            array = torch.stack(list(values)).numpy()
        except (RuntimeError, TypeError):  # of several shapes, on another device, with gradients, of a dtype of torch's
            return None
    else:
        return None
    return array if array.dtype == column.dtype and array.shape[1:] == column.shape else None


def written(path: Path) -> str:
    """A leaf's place as one would write it."""
    return "".join(f"[{step!r}]" for step in path) or "itself"


def _drop(path: Path) -> str:
    """The line that leaves a part out."""
    return f': drop = ["{".".join(map(str, path))}"] in loader.toml' if path else ""


_TEXT = "text is not served: return numbers (token ids, a class number), or leave it out"
_REGULAR = "return an array of numbers of one shape"


def _is_tuple(value: Found) -> bool:
    """Several parts; a list of numbers is an array that is written as one."""
    return isinstance(value, tuple) or (isinstance(value, list) and not _is_numbers(value))


def _is_numbers(value: list[Any]) -> bool:
    first = value[0] if value else 0
    return _is_numbers(first) if isinstance(first, list) else isinstance(first, int | float | complex | np.generic)


def _has_no_dtype(value: Found) -> bool:
    return isinstance(value, list) or (
        isinstance(value, bool | int | float | complex) and not isinstance(value, np.generic)
    )


def _weakly(array: Array, like: np.dtype[Any] | None) -> Array:
    """Python's numbers: of the dtype that the others have if it can hold them, else of what Keras makes of them."""
    if like is not None and like.kind in "fc" and array.dtype.kind in "iuf":
        return array.astype(like)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _names(paths: Sequence[Path], parts: int) -> tuple[str, ...]:
    """A name for each leaf: short ones if they are different, else with the parts they are in before them."""

    def steps(path: Path) -> list[str]:
        if parts:
            first = PARTS[int(path[0])] if parts <= len(PARTS) else f"part{path[0]}"
            return [first, *map(str, path[1:])]
        return [str(step) for step in path] or ["x"]

    whole = tuple(".".join(steps(path)) for path in paths)
    # Dicts inside a tuple: ({"image": …}, y) has the columns `image` and `y`.
    short = tuple(
        ".".join(steps(path)[1:]) if parts and len(path) > 1 and isinstance(path[1], str) else name
        for path, name in zip(paths, whole, strict=True)
    )
    return short if len(set(short)) == len(short) else whole


def _structure(value: Found, places: Mapping[Path, int], names: Sequence[str], *, chosen: bool) -> Structure | None:
    """How the leaves make up a batch; None for a dict whose parts are `chosen`, or whose names show it."""
    if isinstance(value, Mapping):
        return None if chosen or _names_tell(names) else (_inner(value, (), places, names),)
    return _inner(value, (), places, names) if _is_tuple(value) else (names[0],)


def _inner(value: Found, path: Path, places: Mapping[Path, int], names: Sequence[str]) -> Structure:
    if path in places:
        return names[places[path]]
    if isinstance(value, Mapping):
        return {
            key: _inner(part, (*path, key), places, names)
            for key, part in value.items()
            if any(known[: len(path) + 1] == (*path, key) for known in places)
        }
    return tuple(
        _inner(part, (*path, place), places, names)
        for place, part in enumerate(value)
        if any(known[: len(path) + 1] == (*path, place) for known in places)
    )


def _names_tell(names: Sequence[str]) -> bool:
    """The names show inputs and targets, as those of columns do."""
    letters = {name[0].lower() for name in names if name}
    return {"x", "y"} <= set(names) or ("x" in letters and letters <= {"x", "y"})


def class_of(value: object) -> str:
    """The class of a value, for a message."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _described(value: Found) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return f"{class_of(value)} of {len(value)}" if isinstance(value, Sequence) else class_of(value)
