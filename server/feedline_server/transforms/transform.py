"""What a transform is to the rest of the loader.

A row's result depends on the row, and on what is drawn for its sample, never on the other rows of its batch; only a
function of the operator's own may look at a whole batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from feedline_server.sources.ragged import Ragged
from feedline_server.transforms.rows import Rows
from feedline_wire.errors import DataError
from feedline_wire.tensors import VARIES, Array, Column


@dataclass(frozen=True, slots=True)
class Spec:
    """A column on its way, and how long its samples are at most, as far as is known, where they vary."""

    column: Column
    longest: int = 0

    @property
    def varies(self) -> bool:
        """Its samples differ in their first dimension."""
        return self.column.shape[:1] == (VARIES,)


Specs: TypeAlias = Mapping[str, Spec]
Trial: TypeAlias = Callable[[], Rows]
"""A few samples as they come out of the transforms before this one; read when it is called."""


class Transform:
    """One step, on columns that are named: `spec` says what becomes of a column, and `applied` does it."""

    is_random = False
    """The same sample may come out otherwise in another epoch."""
    content: tuple[bytes, ...] = ()
    """What stands for its code and its tables in the dataset's identity."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """The columns that come out, all of them. DataError naming column and remedy if it does not fit."""
        return {**specs, **{name: self.spec(spec) for name, spec in chosen(specs, self._names).items()}}

    def apply(self, rows: Rows) -> None:
        """Put new values in the place of those in `rows.columns`. Raises BadSample (`rows.bad`), naming the samples."""
        for name in self._names:
            rows.columns[name] = self.applied(rows, name, rows.columns[name])

    def spec(self, spec: Spec) -> Spec:
        """What comes out of a column. DataError as `columns`."""
        raise NotImplementedError

    def applied(self, rows: Rows, name: str, column: Array | Ragged) -> Array | Ragged:
        """A column's new values."""
        raise NotImplementedError


def chosen(specs: Specs, names: tuple[str, ...]) -> dict[str, Spec]:
    """The columns of these names; DataError saying which there are."""
    for name in names:
        if name not in specs:
            raise DataError(f"there is no column {name!r}; the columns are {', '.join(specs)}")
    return {name: specs[name] for name in names}
