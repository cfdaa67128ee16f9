"""Bytes of an image file to pixels of the declared size, colours and depth, by OpenCV.

What comes out is byte for byte what cv2.imread, cv2.cvtColor and cv2.resize make of the file, or it is an
error. Nothing is cut to fewer bits, and nothing is decoded that is larger than declared. Where `decode = "reduced"` is
declared, cv2.imread is that of IMREAD_REDUCED_*: how much smaller follows from the file's header and `size` alone.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import ColorMode, ImageForm
from feedline_server.sources.images.captured_stderr import captured
from feedline_server.sources.images.header import ImageHeader, read_image_header
from feedline_server.sources.images.opencv import interpolation, opencv
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array

CHANNELS: dict[ColorMode, int] = {"rgb": 3, "bgr": 3, "grayscale": 1, "rgba": 4}

DAMAGE = ("premature end", "bad huffman code")
"""What libjpeg says of pixels that it made up. "Extraneous bytes" are not among it: many cameras write some."""

REDUCTIONS = (8, 4, 2)
"""How many times smaller libjpeg can decode by OpenCV: it computes fewer pixels of each block of 8 x 8."""


def reduction(header: ImageHeader, size: tuple[int, int]) -> int:
    """How many times smaller the image can be decoded so that it is not smaller than `size`; 1: it is decoded in full.

    Only JPEG can be: OpenCV decodes other formats in full and then makes them smaller.
    """
    if header.format != "JPEG":
        return 1
    (width, height), (least_width, least_height) = header.upright, size
    fits = (times for times in REDUCTIONS if width >= least_width * times and height >= least_height * times)
    return next(fits, 1)


class Decoder:
    """Makes images of one kind."""

    def __init__(self, form: ImageForm) -> None:
        self.form = form
        self.dtype: np.dtype[Any] = np.dtype("uint8" if form.bits == 8 else "<u2")
        """Of the values that come out."""
        self._cv2 = cv2 = opencv("reading images")
        self._how = interpolation(cv2, form.interpolation)
        # Red first as it is decoded costs nothing, and a pass over the image afterwards; OpenCV can since 4.11.
        red_first = getattr(cv2, "IMREAD_COLOR_RGB", None) if form.color_mode == "rgb" else None
        colours = cv2.IMREAD_GRAYSCALE if form.color_mode == "grayscale" else cv2.IMREAD_COLOR
        colours = colours if red_first is None else red_first
        self._colours = colours | (cv2.IMREAD_ANYDEPTH if form.bits == 16 else 0)
        self._reduced = {times: colours | getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{times}") for times in REDUCTIONS}
        # By (channels decoded, what is wanted); what is not here is right as it is decoded.
        self._conversions = {(3, "rgba"): cv2.COLOR_BGR2RGBA, (4, "rgba"): cv2.COLOR_BGRA2RGBA}
        if red_first is None:
            self._conversions[3, "rgb"] = cv2.COLOR_BGR2RGB

    def reduction(self, header: ImageHeader) -> int:
        """How many times smaller this image is decoded."""
        form = self.form
        return 1 if form.decode == "full" or form.size is None else reduction(header, form.size)

    def shape(self, data: bytes) -> tuple[int, int, int]:
        """The shape that this image comes out in. DataError, which does not name the file."""
        channels = CHANNELS[self.form.color_mode]
        if self.form.size is not None:
            width, height = self.form.size
            return height, width, channels
        height, width = self._decoded(data).shape[:2]  # not the header's: the camera may have been turned
        return height, width, channels

    def decode(self, data: bytes, out: Array) -> None:
        """Write the image into `out`, of shape (height, width, channels). DataError, which does not name the file."""
        image = self._decoded(data)
        height, width, _ = out.shape
        flat = out[..., 0] if out.shape[2] == 1 else out  # OpenCV has no axis for one channel
        if image.shape[:2] != (height, width):
            if self.form.size is None:
                raise DataError(
                    f"is an image of {image.shape[1]} x {image.shape[0]} pixels, and the first of {width} x {height}; "
                    f"give size = [{width}, {height}] to resize all, or make them alike"
                )
            image = self._resized(image, flat)
        self._finish(image, flat)

    def identity(self, data: bytes) -> Iterator[bytes]:
        """What stands for how this image comes out: OpenCV versions that make other pixels serve another dataset."""
        form = self.form
        yield json.dumps([form.size, form.color_mode, form.interpolation, form.bits]).encode()
        try:
            out = np.empty(self.shape(data), self.dtype)
            self.decode(data, out)
        except DataError:
            yield b"damaged"
        else:
            yield out.tobytes()

    def _decoded(self, data: bytes) -> NDArray[Any]:
        header = read_image_header(data)
        self._check(header)
        times = self.reduction(header)
        flags = self._reduced.get(times, self._colours)
        if self.form.color_mode == "rgba" and header.has_alpha:
            flags = self._cv2.IMREAD_UNCHANGED
        image, printed = captured(lambda: self._imdecode(data, flags))
        damage = [line for line in printed.splitlines() if any(sign in line.lower() for sign in DAMAGE)]
        if image is None or damage:
            reason = (damage or printed.splitlines() or [f"OpenCV cannot decode this {header.format}"])[0]
            raise DataError(f"is damaged ({reason}); copy it again")
        pixels = -(-header.width // times) * -(-header.height // times)
        if image.shape[0] * image.shape[1] != pixels:
            raise DataError(f"is damaged: its header has {pixels} pixels, decoded it is {image.shape}")
        if image.ndim == 2 and self.form.color_mode == "rgba":  # what said it has alpha has none
            image = self._cv2.cvtColor(image, self._cv2.COLOR_GRAY2BGR)
        return image

    def _imdecode(self, data: bytes, flags: int) -> NDArray[Any] | None:
        try:
            found: NDArray[Any] | None = self._cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except self._cv2.error as error:
            raise DataError(f"cannot be decoded by OpenCV ({str(error).strip().splitlines()[0]})") from error
        return found

    def _check(self, header: ImageHeader) -> None:
        if header.pixels > self.form.max_pixels:
            raise DataError(
                f"is a {header.format} of {header.width} x {header.height} pixels, and at most "
                f"max_pixels = {self.form.max_pixels} are decoded; set max_pixels if that is meant"
            )
        if header.bits != self.form.bits:
            raise DataError(
                f"is a {header.format} of {header.bits} bits a value, and {self.form.bits} are served; "
                "nothing is cut or filled up: declare bits = 16 for images of 16, and write the others anew"
            )

    def _resized(self, image: NDArray[Any], out: Array) -> NDArray[Any]:
        """In the wanted size; straight in `out` if that is all there is to do."""
        height, width = out.shape[:2]
        target = out if self._conversion(image) is None else None
        done: NDArray[Any] = self._cv2.resize(image, (width, height), target, interpolation=self._how)
        return done

    def _finish(self, image: NDArray[Any], out: Array) -> None:
        """Colours in their order, into `out`."""
        conversion = self._conversion(image)
        done = image if conversion is None else self._cv2.cvtColor(image, conversion, out)
        if done is not out:
            out[...] = done

    def _conversion(self, image: NDArray[Any]) -> int | None:
        channels = image.shape[2] if image.ndim == 3 else 1
        return self._conversions.get((channels, self.form.color_mode))
