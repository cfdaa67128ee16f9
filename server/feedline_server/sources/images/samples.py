"""Samples that are images: one file each, decoded when it is gathered.

What cannot be read, decoded or brought into the form of the others is a bad sample with its name, and all of
a batch are named at once.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import ImageForm
from feedline_server.sources.arrays import content
from feedline_server.sources.arrays.stamp import Stamps
from feedline_server.sources.files.sample_files import Files
from feedline_server.sources.images.decoding import Decoder
from feedline_server.sources.images.header import ImageHeader, first_header
from feedline_wire.errors import BadSample, DataError
from feedline_wire.listing import listed
from feedline_wire.tensors import Array, Column

IMAGE = "x"
"""The column of the images."""

MAX_FILE = 1 << 30
"""Bytes of one image file that are read; what is larger is no image but a mistake, or takes the worker's memory."""

HEADERS = 20_000
"""Images whose headers are looked at, at the start, at most, evenly spread."""

HEADERS_S = 5.0
"""The same in seconds: on a cold disk a header costs as much as an image."""

HEAD_NBYTES = 64 << 10
"""Of a file, in which its size stands: EXIF data, with a thumbnail, comes before it and has at most so many."""


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
        """See Part; of the first image that is there, too, what becomes of it here."""
        is_shown = False
        for sample in self._files.looked_into:
            try:
                file, _ = self._files.opened(sample)
                with file:
                    yield from content.ID_FILE.read(file)
                    if not is_shown:
                        yield from self._decoder.identity(file.read(MAX_FILE))
                        is_shown = True
            except DataError as error:
                if error.elsewhere:  # it changed
                    raise
                yield b"missing"

    def files(self) -> Iterator[Stamps]:
        """See Part."""
        yield self._files

    def notes(self) -> Iterator[str]:
        """What headers say: of images that are not resized whether they are alike, of reduced ones by how much.

        DataError, with the line to write, if what is declared does not fit what is there.
        """
        form = self._decoder.form
        if form.size is None:
            yield from self._sizes()
        elif form.decode == "reduced":
            yield from self._reductions()

    def _sizes(self) -> Iterator[str]:
        """A note if sizes differ and bad samples may be; DataError if they may not."""
        form = self._decoder.form
        height, width, _ = self.columns[0].shape
        found: dict[tuple[int, int], list[int]] = {(width, height): []}  # the first image's first
        for sample, header in self._headers():
            found.setdefault(header.upright, []).append(sample)
        if len(found) == 1:
            return
        width, height = max(found, key=lambda size: len(found[size]))
        shown = listed(f"{size[0]} x {size[1]} ({self._files.path(min(of, default=0))})" for size, of in found.items())
        problem = (
            f"images are of {len(found)} sizes: {shown}; resize all, size = [{width}, {height}] "
            f"(--size {width}x{height}), or make them alike"
        )
        if form.on_bad_sample == "error":
            raise DataError(problem)
        yield f"{problem}: those that are not as the first are bad samples"

    def _reductions(self) -> Iterator[str]:
        """How many images are decoded how much smaller; DataError if none is of a format that can be."""
        counts: Counter[int] = Counter()
        others: dict[str, int] = {}
        for sample, header in self._headers():
            counts[self._decoder.reduction(header)] += 1
            if header.format != "JPEG":
                others[header.format] = min(sample, others.get(header.format, sample))
        looked_at = counts.total()
        examples = listed(f"{self._files.path(sample)} is a {kind}" for kind, sample in others.items())
        if not looked_at:
            return
        if others and not counts.keys() - {1}:
            raise DataError(
                f'decode = "reduced" makes none of {looked_at} images faster: only JPEG can be decoded smaller, and '
                f"{examples}; leave decode out"
            )
        how = ", ".join(
            f"{count} at 1/{times}" if times > 1 else f"{count} in full" for times, count in sorted(counts.items())
        )
        yield (
            f'pixels are approximate by decode = "reduced": of {looked_at} images that were looked at, {how} of their '
            f"width and height{f' ({examples})' if others else ''}"
        )

    def _headers(self) -> Iterator[tuple[int, ImageHeader]]:
        """Of images spread evenly, as many as there is time for, in a shuffled order; damaged ones are left out."""
        places = np.unique(np.linspace(0, self._files.count - 1, HEADERS).astype(np.int64))
        until = time.monotonic() + HEADERS_S
        for sample in np.random.default_rng(0).permutation(places).tolist():  # what there is time for is spread, too
            if (header := self._header(sample)) is not None:
                yield sample, header
            if time.monotonic() > until:
                return

    def _header(self, sample: int) -> ImageHeader | None:
        try:
            fd, _ = self._files.open(sample)
        except DataError:  # a bad sample, of which another says it
            return None
        try:
            return first_header(os.read(fd, HEAD_NBYTES))
        except OSError:
            return None
        finally:
            os.close(fd)

    def _shape(self) -> tuple[int, ...]:
        if self._decoder.form.size is not None:
            return self._decoder.shape(b"")
        try:
            return self._decoder.shape(self._read(0))
        except DataError as error:
            named = error if isinstance(error, BadSample) else f"{self._files.file(0)} {error}"
            raise DataError(
                f"{named}; or give size = [width, height], so that the first image need not show it"
            ) from error

    def _decode(self, sample: int, out: Array) -> None:
        try:
            self._decoder.decode(self._read(sample), out)
        except DataError as error:
            if error.samples:  # it is named already, and may be something else than a bad sample
                raise
            raise BadSample(f"{self._files.file(sample)} {error}", samples=[sample]) from error

    def _read(self, sample: int) -> bytes:
        """The file's bytes."""
        fd, status = self._files.open(sample)  # not cv2.imread, which cannot open names beyond ASCII everywhere
        try:
            if status.st_size > MAX_FILE:
                raise DataError(f"has {status.st_size} bytes; wanted an image of at most {MAX_FILE}")
            data = _whole(fd, status.st_size)
            self._files.has_read(sample, status, fd, data)
        except OSError as error:
            raise self._files.unreadable(sample, error) from error
        finally:
            os.close(fd)
        return data


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
