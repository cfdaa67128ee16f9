"""How a message lists names: the first few of them, and how many there are."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 8
"""Names that a message lists: enough to recognise what is meant, few enough to read."""

EXAMPLES = 5
"""The same where the names are examples of what was counted."""


def listed(names: Iterable[object], most: int = MOST) -> str:
    """`a, b, c`; of more than `most`: `a, b, … (12 in all)`; of none: `nothing`."""
    names = list(names)
    first = ", ".join(map(str, names[:most]))
    return f"{first}, … ({len(names)} in all)" if len(names) > most else first or "nothing"


def numbered(names: Sequence[str], most: int = MOST) -> str:
    """`0 = cat, 1 = dog`: what numbers stand for, the first of them and how many there are."""
    return listed((f"{number} = {name}" for number, name in enumerate(names)), most)


def counted(names: "Sequence[Any] | NDArray[Any]", what: str, show: Callable[[Any], str] = str) -> str:
    """`2 samples (3, 4)`; of many: `12 samples (3, 4, 5, 6, 7, …)`. Looks at no more of them than it shows."""
    first = ", ".join(map(show, names[:EXAMPLES]))
    more = ", …" if len(names) > EXAMPLES else ""
    return f"{len(names)} {what}{'s' if len(names) != 1 else ''} ({first}{more})"
