"""Samples that are images: one file each, decoded when it is gathered.

What cannot be read, decoded or brought into the form of the others is a bad sample with its name, and all of
a batch are named at once.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import ImageForm
from feedline_server.sources.arrays import content, npy
from feedline_server.sources.files.sample_files import Files
from feedline_server.sources.images.decoding import Decoder
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array, Column

IMAGE = "x"
"""The column of the images."""

MAX_FILE = 1 << 30
"""Bytes of one image file that are read; what is larger is no image but a mistake, or takes the worker's memory."""


class ImageFiles:
    """An image file of each sample, as one column of uint8 or uint16 (height, width, channels): a Part."""

    def __init__(self, files: Files, form: ImageForm) -> None:
        self._files = files
        self._decoder = Decoder(form)
        self.columns = (Column(IMAGE, self._decoder.dtype, self._shape()),)

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Part."""
        bad: list[BadSample] = []
        for row, sample in zip(out[IMAGE], ids.tolist(), strict=True):
            try:
                self._decode(sample, row)
            except BadSample as error:
                bad.append(error)
        if bad:
            raise _all_of(bad)

    def content(self) -> Iterator[bytes]:
        """See Part; of the first image, too, what becomes of it here."""
        for sample in self._files.looked_into:
            try:
                with npy.opened(Path(self._files.path(sample)), "an image") as file:
                    yield from content.ID_FILE.read(file)
                    if sample == 0:
                        file.seek(0)
                        yield from self._decoder.identity(file.read(MAX_FILE))
            except DataError:
                yield b"missing"

    def _shape(self) -> tuple[int, ...]:
        if self._decoder.form.size is not None:
            return self._decoder.shape(b"")
        try:
            return self._decoder.shape(self._read(0))
        except DataError as error:
            named = error if isinstance(error, BadSample) else f"{self._files.named(0)} {error}"
            raise DataError(
                f"{named}; or give size = [width, height], so that the first image need not show it"
            ) from error

    def _decode(self, sample: int, out: Array) -> None:
        try:
            self._decoder.decode(self._read(sample), out)
        except DataError as error:
            if error.samples:  # it is named already, and may be something else than a bad sample
                raise
            raise BadSample(f"{self._files.named(sample)} {error}", samples=[sample]) from error

    def _read(self, sample: int) -> bytes:
        """The file's bytes."""
        try:
            # Not Path.open and not cv2.imread, which cannot open names beyond ASCII everywhere.
            fd = os.open(self._files.path(sample), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait
            try:
                status = os.fstat(fd)
                self._files.check_unchanged(sample, status)
                if status.st_size > MAX_FILE:
                    raise DataError(f"has {status.st_size} bytes; wanted an image of at most {MAX_FILE}")
                return _whole(fd, status.st_size)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._files.unreadable(sample, error) from error


def _whole(fd: int, nbytes: int) -> bytes:
    data = os.read(fd, nbytes)
    while len(data) < nbytes and (more := os.read(fd, nbytes - len(data))):  # network file systems give parts
        data += more
    return data


def _all_of(bad: list[BadSample]) -> BadSample:
    """One error for all of a batch."""
    if len(bad) == 1:
        return bad[0]
    first, *others = bad
    samples = [sample for error in bad for sample in error.samples]
    text = f"{first}; and {len(others)} more of this batch: {'; '.join(map(str, others[:3]))}"
    return BadSample(text, samples=samples)
