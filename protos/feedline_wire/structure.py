"""How columns make up a batch as its user sees it: `(x, y)`, `({"a": …, "b": …}, y)`.

A structure is a column's name, or a tuple or mapping of structures. Lists are left out: TensorFlow refuses them inside
a batch.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from feedline_wire.errors import ProtocolMismatch

if TYPE_CHECKING:
    from feedline_wire import loader_pb2 as pb

Structure: TypeAlias = str | tuple["Structure", ...] | dict[str, "Structure"]

MAX_DEPTH = 16
"""Nesting that arrives is refused beyond this; real batches have two or three levels."""


def column_names(structure: Structure) -> Iterator[str]:
    """The columns a structure uses, left to right."""
    if isinstance(structure, str):
        yield structure
        return
    for part in structure.values() if isinstance(structure, dict) else structure:
        yield from column_names(part)


def build(structure: Structure, arrays: Mapping[str, Any]) -> Any:  # noqa: ANN401 as nested as the structure says
    """The batch: every column's name replaced by its array."""
    if isinstance(structure, str):
        return arrays[structure]
    if isinstance(structure, dict):
        return {name: build(part, arrays) for name, part in structure.items()}
    return tuple(build(part, arrays) for part in structure)


def builder(structure: Structure) -> Callable[[Mapping[str, Any]], Any]:
    """`build` of this structure, for many batches."""
    match structure:
        case str():
            return itemgetter(structure)
        case (str(), str(), *more) if all(isinstance(one, str) for one in more):
            return itemgetter(*structure)
    return partial(build, structure)


def to_message(structure: Structure) -> "pb.Structure":
    """The structure as it travels."""
    from feedline_wire import loader_pb2 as pb

    if isinstance(structure, str):
        return pb.Structure(kind=pb.Structure.COLUMN, column=structure)
    if isinstance(structure, dict):
        return pb.Structure(
            kind=pb.Structure.MAPPING, names=list(structure), parts=[to_message(part) for part in structure.values()]
        )
    return pb.Structure(kind=pb.Structure.TUPLE, parts=[to_message(part) for part in structure])


def from_message(message: "pb.Structure", depth: int = 0) -> Structure:
    """The structure that arrived."""
    from feedline_wire import loader_pb2 as pb

    if depth > MAX_DEPTH:
        raise ProtocolMismatch(f"a batch structure is nested more than {MAX_DEPTH} levels deep")
    if message.kind == pb.Structure.COLUMN:
        return message.column
    parts = [from_message(part, depth + 1) for part in message.parts]
    if message.kind == pb.Structure.TUPLE:
        return tuple(parts)
    if message.kind != pb.Structure.MAPPING:
        raise ProtocolMismatch(f"a batch structure is of kind {message.kind}, which this side does not know")
    if len(parts) != len(message.names):
        raise ProtocolMismatch(f"a batch mapping has {len(message.names)} names for {len(parts)} parts")
    return dict(zip(message.names, parts, strict=True))
