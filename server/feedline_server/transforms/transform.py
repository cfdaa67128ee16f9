"""What a transform is to the rest of the loader.

The law: a row's result depends on the row, and on what is drawn for its sample, never on the other rows of its batch;
only a function of the operator's own may look at a whole batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from feedline_server.transforms.rows import Rows
from feedline_wire.errors import DataError
from feedline_wire.tensors import VARIES, Column


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


class Transform(Protocol):
    """One step."""

    @property
    def is_random(self) -> bool:
        """The same sample may come out otherwise in another epoch."""
        ...

    @property
    def is_of_batches(self) -> bool:
        """It looks at whole batches: what is wrong with one is no sample's fault."""
        ...

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """The columns that come out, all of them. DataError naming column and remedy if it does not fit."""
        ...

    def apply(self, rows: Rows) -> None:
        """Do it: put new values in the place of those in `rows.columns`. BadSample (`rows.bad`) for who is at fault."""
        ...


def chosen(specs: Specs, names: tuple[str, ...]) -> dict[str, Spec]:
    """The columns of these names; DataError saying which there are."""
    for name in names:
        if name not in specs:
            raise DataError(f"there is no column {name!r}; the columns are {', '.join(specs)}")
    return {name: specs[name] for name in names}


def changed(specs: Specs, new: Mapping[str, Spec]) -> dict[str, Spec]:
    """The columns with some of them replaced."""
    return {**specs, **new}
