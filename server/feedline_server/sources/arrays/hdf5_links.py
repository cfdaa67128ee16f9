"""What names in an HDF5 file lead to: links inside it are followed, all others are refused by their names."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedline_wire.errors import DataError
from feedline_wire.listing import listed

if TYPE_CHECKING:
    import h5py

MAX_LINKS = 16
"""Soft links followed to one dataset; more is a circle."""

MATLAB_OWN = ("#refs#", "#subsystem#")
"""Groups in which MATLAB keeps what cells and objects refer to."""

NAME_THE_OTHERS = "name the arrays that are meant: arrays = {x = …}"
"""The way out where a file has something that is not served."""


def datasets_below(name: str, group: "h5py.Group", path: Path, above: "tuple[h5py.Group, ...]" = ()) -> Iterator[str]:
    """The names of the datasets in a group of this name, in no order; `above` are the groups that it is in.

    DataError naming a link that leads out of the file, to nothing, or to a group that it is in. `path` is for messages.
    """
    import h5py

    if group in above:
        raise DataError(f"{path}:{name}: is a link to a group that it is in; {NAME_THE_OTHERS}")
    if "MATLAB_sparse" in group.attrs:
        raise DataError(f"{path}:{name}: is a sparse matrix of MATLAB; save full(…) of it")
    for one in map(str, group):
        below = f"{name}/{one}" if name else one
        if below in MATLAB_OWN:
            continue
        found = followed(group.file, below, path)
        if isinstance(found, h5py.Dataset):
            yield below
        elif isinstance(found, h5py.Group):
            yield from datasets_below(below, found, path, (*above, group))


def followed(file: "h5py.File", name: str, path: Path) -> "h5py.Dataset | h5py.Group | h5py.Datatype":
    """What is at this place in this very file, behind links; DataError if nothing is. `path` is for messages."""
    import h5py

    found: Any = file  # Any: h5py has no types
    steps = _steps(name)
    leads_to = ""
    for _ in range(MAX_LINKS + len(steps)):
        if not steps:
            return found
        link = found.get(steps[0], getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            if leads_to:
                raise DataError(f"{path}:{name}: is a link to {leads_to!r}, which is not there; {NAME_THE_OTHERS}")
            raise DataError(f"{path}: has no dataset {name!r}; it has {listed(sorted(file))}")
        if isinstance(link, h5py.ExternalLink):
            raise DataError(
                f"{path}:{name}: is a link into another file ({link.filename}), which is never followed; copy the "
                f"data into this file, serve that one, or {NAME_THE_OTHERS}"
            )
        if isinstance(link, h5py.SoftLink):
            leads_to = link.path
            found = file if link.path.startswith("/") else found
            steps = [*_steps(link.path), *steps[1:]]
            continue
        found = found[steps.pop(0)]
    raise DataError(f"{path}:{name}: is a link that leads to itself ({leads_to!r}); {NAME_THE_OTHERS}")


def _steps(path: str) -> list[str]:
    return [step for step in path.split("/") if step not in {"", "."}]
