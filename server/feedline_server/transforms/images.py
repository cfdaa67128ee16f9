"""What is done to images of shape (height, width) or (height, width, channels): other sizes, parts, mirror images.

What is random is drawn once for a sample, and all columns named together get the same: an image and its mask.
"""

from typing import ClassVar

import numpy as np

from feedline_server.declared.datasets import Declaration
from feedline_server.declared.transforms import (
    CropTransform,
    RandomCropTransform,
    RandomFlipTransform,
    RandomResizedCropTransform,
    ResizeTransform,
)
from feedline_server.sources.images.opencv import interpolation, opencv
from feedline_server.sources.ragged import Ragged
from feedline_server.transforms.randomness import below
from feedline_server.transforms.regions import WORDS, regions
from feedline_server.transforms.rows import Rows
from feedline_server.transforms.transform import Spec, Specs, Transform, Trial, chosen
from feedline_wire.errors import DataError
from feedline_wire.tensors import VARIES, Array, Column

RESIZED = ("uint8", "uint16", "int16", "float32", "float64")
"""Dtypes that OpenCV resizes."""

MOST_CHANNELS = 512
"""Of one image in OpenCV (CV_CN_MAX)."""


class _Sized(Transform):
    """Images that come out in another size."""

    done: ClassVar[str] = "cropped"

    def __init__(
        self,
        config: ResizeTransform | CropTransform | RandomCropTransform | RandomResizedCropTransform,
        _declaration: Declaration | None = None,
    ) -> None:
        super().__init__(config.columns)
        self._width, self._height = config.size

    def spec(self, spec: Spec) -> Spec:
        """See Transform."""
        column = spec.column
        _check_image(column, self.done)
        self._check(column)
        return Spec(Column(column.name, column.dtype, (self._height, self._width, *column.shape[2:])))

    def _check(self, column: Column) -> None:
        _check_inside(column, self._width, self._height, 0)

    def _out(self, rows: Rows, name: str, images: Array) -> Array:
        return rows.space(name, images.dtype, (len(images), self._height, self._width, *images.shape[3:]))


class Resize(_Sized):
    """OpenCV's resize, image by image."""

    done = "resized"

    def __init__(self, config: ResizeTransform, _declaration: Declaration) -> None:
        super().__init__(config)
        self._cv2 = opencv("resize")
        self._how = interpolation(self._cv2, config.interpolation)

    def applied(self, rows: Rows, name: str, column: Array | Ragged) -> Array:
        """See Transform."""
        images = _array(column)
        out = self._out(rows, name, images)
        for image, target in zip(_planes(images), _planes(out), strict=True):
            self._cv2.resize(image, (self._width, self._height), target, interpolation=self._how)
        return out

    def _check(self, column: Column) -> None:
        _check_resizable(column)


class Crop(_Sized):
    """The middle of each image."""

    def applied(self, rows: Rows, name: str, column: Array | Ragged) -> Array:
        """See Transform."""
        images = _array(column)
        top, left = (images.shape[1] - self._height) // 2, (images.shape[2] - self._width) // 2
        out = self._out(rows, name, images)
        out[...] = images[:, top : top + self._height, left : left + self._width]
        return out


class RandomCrop(_Sized):
    """A part of each image, at a place of its own."""

    is_random = True

    def __init__(self, config: RandomCropTransform, _declaration: Declaration) -> None:
        super().__init__(config)
        self._padding = config.padding

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        found = super().columns(specs, trial)
        _check_alike(specs, self._names)
        return found

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        height, width = _array(rows.columns[self._names[0]]).shape[1:3]
        drawn = rows.words(2)
        # Places of the padded image: from -padding on.
        tops = below(drawn[:, 0], height + 2 * self._padding - self._height + 1) - self._padding
        lefts = below(drawn[:, 1], width + 2 * self._padding - self._width + 1) - self._padding
        for name in self._names:
            images = _array(rows.columns[name])
            out = self._out(rows, name, images)
            if self._padding:
                out[...] = 0
            for target, image, top, left in zip(out, images, tops.tolist(), lefts.tolist(), strict=True):
                above, before = max(0, -top), max(0, -left)
                part = image[top + above : top + self._height, left + before : left + self._width]
                target[above : above + part.shape[0], before : before + part.shape[1]] = part
            rows.columns[name] = out

    def _check(self, column: Column) -> None:
        _check_inside(column, self._width, self._height, self._padding)


class RandomResizedCrop(_Sized):
    """A part of each image, of its own size, shape and place, by OpenCV's resize."""

    is_random = True

    def __init__(self, config: RandomResizedCropTransform, _declaration: Declaration) -> None:
        super().__init__(config)
        self._scale, self._ratio = config.scale, config.ratio
        self._cv2 = opencv("random_resized_crop")
        self._how = interpolation(self._cv2, config.interpolation)

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        found = super().columns(specs, trial)
        _check_alike(specs, self._names)
        return found

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        height, width = _array(rows.columns[self._names[0]]).shape[1:3]
        parts = regions(rows.words(WORDS), height, width, self._scale, self._ratio).tolist()
        for name in self._names:
            images = _array(rows.columns[name])
            out = self._out(rows, name, images)
            for image, target, (top, left, tall, wide) in zip(_planes(images), _planes(out), parts, strict=True):
                part = image[top : top + tall, left : left + wide]
                self._cv2.resize(part, (self._width, self._height), target, interpolation=self._how)
            rows.columns[name] = out

    def _check(self, column: Column) -> None:
        _check_resizable(column)


class RandomFlip(Transform):
    """Each image mirrored or not."""

    is_random = True

    def __init__(self, config: RandomFlipTransform, _declaration: Declaration) -> None:
        super().__init__(config.columns)
        self._horizontal = config.horizontal
        self._vertical = config.vertical

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        for spec in chosen(specs, self._names).values():
            _check_image(spec.column, "flipped")
        return dict(specs)

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        drawn = (rows.words(2) >> np.uint64(63)).astype(bool)
        vertically, horizontally = drawn[:, 0] & self._vertical, drawn[:, 1] & self._horizontal
        for name in self._names:
            images = _array(rows.columns[name])
            out = rows.space(name, images.dtype, images.shape)
            targets, pixels = _whole_pixels(out), _whole_pixels(images)
            for up, left in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                these = np.flatnonzero((vertically == (up < 0)) & (horizontally == (left < 0)))
                targets[these] = pixels[these][:, ::up, ::left]
            rows.columns[name] = out


def _check_image(column: Column, done: str) -> None:
    if len(column.shape) not in {2, 3} or VARIES in column.shape:
        raise DataError(
            f"column {column} cannot be {done}: wanted images of one size, (height, width) or (height, width, channels)"
        )


def _check_alike(specs: Specs, names: tuple[str, ...]) -> None:
    first, *others = (specs[name].column for name in names)
    for column in others:
        if column.shape[:2] != first.shape[:2]:
            raise DataError(f"columns {first} and {column} differ in size, so they cannot lose the same part")


def _check_resizable(column: Column) -> None:
    if column.dtype.name not in RESIZED:
        raise DataError(f"column {column} cannot be resized: wanted {', '.join(RESIZED)}; cast it before")
    if column.shape[2:] > (MOST_CHANNELS,):
        raise DataError(f"column {column} cannot be resized: an image has at most {MOST_CHANNELS} channels")


def _check_inside(column: Column, width: int, height: int, padding: int) -> None:
    if height > column.shape[0] + 2 * padding or width > column.shape[1] + 2 * padding:
        raise DataError(
            f"column {column} cannot be cropped to [{width}, {height}]: its images have width {column.shape[1]} and "
            f"height {column.shape[0]}; give a smaller size, or padding to random_crop"
        )


def _array(column: Array | Ragged) -> Array:
    assert isinstance(column, np.ndarray), "images are of one size, `_check_image` has seen to it"
    return column


def _whole_pixels(images: Array) -> Array:
    """One element a pixel: mirroring is then a copy of pixels and not of channels, in a third of the time."""
    if images.ndim != 4 or not images.flags.c_contiguous:
        return images
    return images.view(np.dtype((np.void, images.shape[3] * images.itemsize)))[..., 0]


def _planes(images: Array) -> Array:
    """OpenCV drops the channel of images that have one."""
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
