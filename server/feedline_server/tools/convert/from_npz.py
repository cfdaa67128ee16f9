"""One `.npz` as columns: its members are `.npy` files already, and are only unpacked.

Nothing is held in memory but the piece that is being copied. An array of Python objects is refused by its header.
"""

import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from feedline_server.sources.arrays import npy
from feedline_server.sources.tables.names import by_view
from feedline_server.tools.convert.destination import Converted, unfinished
from feedline_wire import IDS
from feedline_wire.errors import DataError

PIECE_NBYTES = 4 << 20
"""That are copied between two lines of progress."""


def convert_npz(source: Path, folder: Path, show: Callable[[int, int], None]) -> Converted:
    """Unpack an archive to `folder`, which must not be there; arrays of parts, such as `x_train`, to a folder a view.

    `show` gets how many bytes of how many are written. Raises DataError for what is no array of numbers.
    """
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{source}: cannot be read as an .npz ({error}); save it again with numpy.savez") from error
    with archive, unfinished(folder, anew=True) as place:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        places = file_names(members, source)
        size, written = sum(info.file_size for info in members.values()), 0
        rows: dict[Path, int] = {}
        for name, info in members.items():
            target = place / places[name]
            target.parent.mkdir(exist_ok=True)
            with archive.open(info) as member, target.open("wb") as file:
                while piece := _piece(member, f"{source}:{info.filename}"):
                    file.write(piece)
                    written += len(piece)
                    show(written, size)
                file.flush()
                os.fsync(file.fileno())
            with target.open("rb") as file:
                header = npy.read_header(file, f"{source}:{info.filename}")
            rows[target.parent] = header.shape[0] if header.shape else 0
    return Converted(sum(rows.values()), written)


def file_names(names: Iterable[str], source: Path) -> dict[str, str]:
    """The file below the folder for each array: `x_train` is `train/x.npy` if all names have such a part."""
    names = list(names)
    if not names:
        raise DataError(f"{source}: has no arrays in it")
    if strange := [name for name in names if name == IDS or "/" in name or "\\" in name or name.startswith(".")]:
        raise DataError(f"{source}: an array cannot be called {strange[0]!r}, arrays become files; save it again")
    if views := by_view(names, source):
        return {name: f"{view}/{column}.npy" for view, of in views.items() for column, name in of.items()}
    return {name: f"{name}.npy" for name in names}


def _piece(member: IO[bytes], named: str) -> bytes:
    try:
        return member.read(PIECE_NBYTES)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{named}: is damaged ({error}); save the archive again") from error
