"""A folder of `ID.npy` files, one a sample, with a partition (view: ids) and labels (id: class).

The layout of the well-known Keras data generator tutorial: `x` is the array in a sample's file, `y` its label.

The law: every sample looks like the first one, or it is a BadSample naming both. Files are opened when they are
gathered, one at a time; only ids and labels are kept in memory.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedline_server.declaration import IdFilesConfig
from feedline_server.sources import content, npy
from feedline_server.sources.partition import addresses, classes_of, listed, read_labels, read_partition
from feedline_server.sources.selection import leaks
from feedline_server.sources.source import Opened, check_ids
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array, Column, wire_dtype


class IdFiles:
    """Samples that are a file each: their names and classes by sample id; `one_hot` is the number of classes."""

    def __init__(self, folder: Path, ids: Sequence[str], labels: NDArray[np.int64], one_hot: int | None) -> None:
        self._folder = str(folder)
        self._ids = ids
        self._labels = labels
        self._one_hot = one_hot
        self._header, self._prefix = self._first()
        self.samples = len(ids)
        x = Column("x", wire_dtype(self._header.dtype), self._header.shape)
        y = Column("y", np.dtype("<i8"), ()) if one_hot is None else Column("y", np.dtype("<f4"), (one_hot,))
        self.columns = (x, y)

    def __repr__(self) -> str:
        return f"<IdFiles {', '.join(map(str, self.columns))}: {self.samples} samples>"

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Source."""
        check_ids(ids, self.samples)
        if "x" in out:
            self._gather_files(ids, out["x"])
        if "y" in out:
            labels = self._labels[ids]
            if self._one_hot is None:
                out["y"][...] = labels
            else:
                out["y"][...] = 0
                out["y"][np.arange(len(ids)), labels] = 1

    def content(self) -> Iterator[bytes]:
        """See Source. Every id and label, and a sample of the files' bytes."""
        names = [name.encode() for name in self._ids]
        yield np.array([len(name) for name in names], "<i8").tobytes()  # or ("ab", "c") would be ("a", "bc")
        yield b"".join(names)
        yield self._labels.astype("<i8").tobytes()
        for sample in content.spread(self.samples):
            with npy.opened(Path(self._path(sample))) as file:
                yield from content.ID_FILE.read(file)

    def _first(self) -> tuple[npy.Header, bytes]:
        """The first sample's header and the bytes it is written in: what every sample is compared with."""
        path = Path(self._path(0))
        with npy.opened(path) as file:
            header = npy.read_header(file, path)
            if not header.nbytes:
                raise DataError(f"{path}: holds no values, its shape is {header.shape}; wanted no dimension of size 0")
            file.seek(0)
            return header, file.read(header.offset)

    def _gather_files(self, ids: NDArray[np.int64], x: Array) -> None:
        bodies = x.reshape(len(ids), self._header.nbytes // x.itemsize).view(np.uint8)
        for row, sample in enumerate(ids.tolist()):
            try:
                fd = os.open(self._path(sample), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if not self._read_alike(fd, bodies[row]):
                        self._read_unlike(fd, sample, x[row : row + 1].reshape(self._header.shape))
                finally:
                    os.close(fd)
            except OSError as error:
                raise BadSample(f"{self._named(sample)} cannot be read: {error.strerror}", samples=[sample]) from error

    def _read_alike(self, fd: int, body: NDArray[np.uint8]) -> bool:
        """Read a file whose header is the first file's, byte for byte: one call, the usual case. False if it is not."""
        if not self._header.is_wire_order:
            return False
        prefix = bytearray(len(self._prefix))
        return os.readv(fd, [prefix, body.data]) == len(prefix) + len(body) and prefix == self._prefix

    def _read_unlike(self, fd: int, sample: int, row: Array) -> None:
        """Read any other file that holds the same dtype and shape; BadSample if it does not."""
        path = Path(self._path(sample))
        with open(fd, "rb", closefd=False) as file:
            file.seek(0)
            try:
                header = npy.read_header(file, path)
                if header.shape == self._header.shape and wire_dtype(header.dtype) == wire_dtype(self._header.dtype):
                    row[...] = npy.read_array(file, path, header)
                    return
            except DataError as error:
                raise BadSample(f"{self._named(sample)}: {error}", samples=[sample]) from error
        raise BadSample(
            f"{self._named(sample)} holds {header}, {self._named(0)} holds {self._header}; "
            "give all samples one shape and dtype",
            samples=[sample],
        )

    def _path(self, sample: int) -> str:
        return f"{self._folder}/{self._ids[sample]}.npy"

    def _named(self, sample: int) -> str:
        return f"sample {sample} ({self._path(sample)})"


def open_id_files(config: IdFilesConfig, *, checked: bool = False) -> Opened:
    """The files that the partition names; DataError if one of them is missing or has no usable label.

    `checked` leaves out looking for the files, which lists whole folders.
    """
    folder = data_folder(config)
    ids, views = addresses(read_partition(config.path / config.partition))
    labels_path = config.path / config.labels
    labels = classes_of(ids, read_labels(labels_path), labels_path, config.classes)
    if not checked:
        _check_files(folder, ids)
    one_hot = None
    if config.one_hot:
        one_hot = config.classes if config.classes is not None else int(labels.max()) + 1
    source = IdFiles(folder, ids, labels, one_hot)
    return Opened(source, views, () if checked else tuple(leaks(views, ids.__getitem__)))


def data_folder(config: IdFilesConfig) -> Path:
    """Where the `ID.npy` files are."""
    if config.data is not None:
        return config.path / config.data
    inside = config.path / "data"
    return inside if inside.is_dir() else config.path


def _check_files(folder: Path, ids: Sequence[str]) -> None:
    """DataError naming the ids without a file. Folders are listed once; a million questions would take minutes."""
    there: set[str] = set()
    for parent in {name.rpartition("/")[0] for name in ids}:
        try:
            with os.scandir(folder / parent) as entries:
                there.update(f"{parent}/{entry.name}" if parent else entry.name for entry in entries)
        except OSError as error:
            raise DataError(
                f"{folder / parent}: cannot be read ({error.strerror}); wanted the folder of the ID.npy files"
            ) from error
    missing = [name for name in ids if f"{name}.npy" not in there]
    if missing:
        raise DataError(
            f"{folder}: no file for {listed(missing)} of the partition, wanted {missing[0]}.npy; "
            "add the files, take the ids out, or set `data` to the folder that has them"
        )
