"""What names of columns, files and folders say: that a column is an input or a target, and of which view it is."""

import re
from collections.abc import Iterable, Sequence

from feedline_wire.errors import DataError
from feedline_wire.listing import listed

MEANINGS = {
    "x": ("image", "images", "feature", "features", "input", "inputs", "data"),
    "y": ("label", "labels", "target", "targets", "class", "classes"),
}
"""Names that say the same as a name that begins with the letter: what is given, and what is to be found."""

VIEWS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")
"""What folders are called that hold a view each, and what names of files and arrays begin or end with: `x_train`."""


SHORT_FOR_VALIDATION = frozenset({"val", "valid"})
"""Views that are the view `validation`, unless they are declared."""


def called(letter: str, names: Sequence[str]) -> list[str]:
    """The column of just that name, or else all whose names begin with it."""
    return [letter] if letter in names else [name for name in names if name.lower().startswith(letter)]


def inputs_and_targets(names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The columns that are inputs and those that are targets; no inputs: the names do not show them."""
    if len(names) == 1:
        return names, ()
    for say in (called, _called_or_meant):
        inputs, targets = say("x", names), say("y", names)
        # Names beside a plain x and y are left out with a note; without them, a guess that leaves some out is none.
        if inputs and (len(inputs) + len(targets) == len(names) or {"x", "y"} <= set(names)):
            return inputs, targets
    return (), ()


def _called_or_meant(letter: str, names: Sequence[str]) -> list[str]:
    return called(letter, names) or [name for name in names if name.lower() in MEANINGS[letter]]


def is_view(folder: str) -> bool:
    """Whether a folder of this name is a view, and no class."""
    return folder.lower() in VIEWS


def view_and_column(name: str) -> tuple[str, str] | None:
    """View and column of a name that says both, such as `x_train` or `test-images`."""
    for view in VIEWS:
        for form in (rf"(.+)[_-]{view}", rf"{view}[_-](.+)"):
            if found := re.fullmatch(form, name, re.IGNORECASE):
                return ("validation" if view in SHORT_FOR_VALIDATION else view), found[1]
    return None


def by_view(names: Iterable[str], place: object) -> dict[str, dict[str, str]]:
    """The name of each column of each view, if names say at least two views; empty if they do not.

    DataError if some names say a view and others none: they would be columns of another length.
    """
    parted = {name: view_and_column(name) for name in names}
    views: dict[str, dict[str, str]] = {}
    for name, part in parted.items():
        if part is not None:
            view, column = part
            if (twin := views.setdefault(view, {}).setdefault(column, name)) != name:
                raise DataError(f"{place}: {twin} and {name} are both {column!r} of the view {view!r}; rename one")
    if len(views) < 2:
        return {}
    if others := [name for name, part in parted.items() if part is None]:
        raise DataError(
            f"{place}: the names {listed(name for name, part in parted.items() if part)} say views, and "
            f"{listed(others)} says none; move it away, or put the columns of each view into a folder of its name"
        )
    return views
