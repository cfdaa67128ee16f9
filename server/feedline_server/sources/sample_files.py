"""Samples that are files: one or several a sample, each with one or several arrays in it, and perhaps a class of each.

The law: every sample looks like the first one, or it is a BadSample naming both. Files are opened when they are
gathered, one at a time; only names and labels are kept in memory.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources import content, npy
from feedline_server.sources.formats import opened
from feedline_server.sources.places import Place
from feedline_server.sources.source import check_ids
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array, Column, wire_dtype

LABEL = "y"
"""The column of a sample's class."""


class Labels:
    """The class of each sample, as a number or, of `one_hot` classes, as a vector."""

    def __init__(self, classes: NDArray[np.int64], one_hot: int | None) -> None:
        self.classes = classes
        self._one_hot = one_hot
        self.column = Column(
            LABEL, np.dtype("<i8" if one_hot is None else "<f4"), () if one_hot is None else (one_hot,)
        )

    def gather(self, ids: NDArray[np.int64], out: Array) -> None:
        """Write the labels of these samples into `out`."""
        if self._one_hot is None:
            out[...] = self.classes[ids]
        else:
            out[...] = 0
            out[np.arange(len(ids)), self.classes[ids]] = 1


class SampleFiles:
    """Samples that are files below `folder`, by their names; `labels` are one more column."""

    def __init__(self, folder: Path, names: Sequence[str], places: Sequence[Place], labels: Labels | None) -> None:
        self._folder = str(folder)
        self._names = names
        self._labels = labels
        self.samples = len(names)
        self._files = [_Files(self, place) for place in places]
        columns = [column for files in self._files for column in files.columns]
        if labels is not None:
            columns.append(labels.column)
        self.columns = tuple(columns)
        self._check_names(folder)

    def __repr__(self) -> str:
        return f"<SampleFiles {', '.join(map(str, self.columns))}: {self.samples} samples>"

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Source."""
        check_ids(ids, self.samples)
        for files in self._files:
            wanted = {column.name: out[column.name] for column in files.columns if column.name in out}
            if wanted:
                files.gather(ids, wanted)
        if self._labels is not None and LABEL in out:
            self._labels.gather(ids, out[LABEL])

    def content(self) -> Iterator[bytes]:
        """See Source. Every name and label, and a sample of the files' bytes."""
        names = [name.encode("utf-8", "surrogateescape") for name in self._names]
        yield np.array([len(name) for name in names], "<i8").tobytes()  # or ("ab", "c") would be ("a", "bc")
        yield b"".join(names)
        if self._labels is not None:
            yield self._labels.classes.astype("<i8").tobytes()
        for files in self._files:
            for sample in content.spread(self.samples):
                yield from files.content(sample)

    def path(self, place: Place, sample: int) -> str:
        """The file of a sample."""
        return f"{self._folder}/{place.of(self._names[sample])}"

    def _check_names(self, folder: Path) -> None:
        if sum(column.name == LABEL for column in self.columns) > 1:
            raise DataError(
                f"{folder}: the files of the samples have an array {LABEL!r}, and there are labels too; "
                "set labels = false, or choose the arrays that are meant with arrays"
            )


class _Files:
    """One file of each sample: what the first one holds, and what the others therefore must."""

    def __init__(self, samples: SampleFiles, place: Place) -> None:
        self._samples = samples
        self._place = place
        self._modified: NDArray[np.int64] = np.zeros(samples.samples, np.int64)  # no page of it is there until used
        path = Path(samples.path(place, 0))
        with opened(path) as file:
            self._names = place.columns(file, path)
            self._headers = {column: file.header(name) for column, name in self._names.items()}
        for column, header in self._headers.items():
            if not header.nbytes:
                of = f":{column}" if len(self._headers) > 1 else ""
                raise DataError(
                    f"{path}{of}: holds no values, its shape is {header.shape}; wanted no dimension of size 0"
                )
        self.columns = tuple(
            Column(column, wire_dtype(header.dtype), header.shape) for column, header in self._headers.items()
        )
        self._prefix = _prefix(path, *self._headers.values()) if len(self._headers) == 1 else b""

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """Write the columns of these samples into `out`."""
        bodies: NDArray[np.uint8] | None = None
        if self._prefix:
            (target,) = out.values()
            (header,) = self._headers.values()
            bodies = target.reshape(len(ids), header.nbytes // target.itemsize).view(np.uint8)
        for row, sample in enumerate(ids.tolist()):
            try:
                if bodies is None or not self._read_alike(sample, bodies[row]):
                    self._read(sample, {column: array[row : row + 1] for column, array in out.items()})
            except OSError as error:
                raise BadSample(f"{self._named(sample)} cannot be read: {error.strerror}", samples=[sample]) from error

    def content(self, sample: int) -> Iterator[bytes]:
        """What stands for one sample's arrays."""
        path = Path(self._path(sample))
        with opened(path) as file:
            arrays = [(column, file.stored(name)) for column, name in self._place.columns(file, path).items()]
        for column, array in arrays:
            yield column.encode()
            yield from array.content(content.ID_FILE)

    def _read_alike(self, sample: int, body: NDArray[np.uint8]) -> bool:
        """Read an `.npy` whose header is the first one's, byte for byte: the usual case. False if it is another."""
        path = self._path(sample)
        if not path.endswith(".npy"):
            return False
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._check_unchanged(sample, os.fstat(fd))
            prefix = bytearray(len(self._prefix))
            return os.readv(fd, [prefix, body.data]) == len(prefix) + len(body) and prefix == self._prefix
        finally:
            os.close(fd)

    def _read(self, sample: int, out: Mapping[str, Array]) -> None:
        """Read any file that holds the same dtypes and shapes; BadSample if it does not."""
        path = Path(self._path(sample))
        self._check_unchanged(sample, path.stat())
        try:
            with opened(path) as file:
                alike = all(name in file for name in self._names.values())
                names = self._names if alike else self._place.columns(file, path)
                for column, row in out.items():
                    if column not in names:
                        self._check_alike(sample, column, None)
                    accept = partial(self._check_alike, sample, column)
                    row.reshape(self._headers[column].shape)[...] = file.read(names[column], accept)
        except BadSample:
            raise
        except DataError as error:
            raise BadSample(f"{self._named(sample)}: {error}", samples=[sample]) from error

    def _check_alike(self, sample: int, column: str, header: npy.Header | None) -> None:
        first = self._headers[column]
        if header and header.shape == first.shape and wire_dtype(header.dtype) == wire_dtype(first.dtype):
            return
        of = f" in {column!r}" if len(self._headers) > 1 else ""
        raise BadSample(
            f"{self._named(sample)} holds {header or 'nothing'}{of}, {self._named(0)} holds {first}; "
            "give all samples one shape and dtype",
            samples=[sample],
        )

    def _check_unchanged(self, sample: int, status: os.stat_result) -> None:
        """DataError if the file was written to since this process first read it: one key must not mean two batches."""
        if not self._modified[sample]:
            self._modified[sample] = status.st_mtime_ns
        elif self._modified[sample] != status.st_mtime_ns:
            raise DataError(f"{self._named(sample)} changed while served; restart the loader", samples=[sample])

    def _path(self, sample: int) -> str:
        return self._samples.path(self._place, sample)

    def _named(self, sample: int) -> str:
        return f"sample {sample} ({self._path(sample)})"


def _prefix(path: Path, header: npy.Header) -> bytes:
    """The bytes before the data of the first sample's `.npy`; nothing if samples cannot be read by comparing them."""
    if path.suffix != ".npy" or not header.is_wire_order:
        return b""
    with npy.opened(path) as file:
        return file.read(header.offset)
