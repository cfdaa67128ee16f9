"""resize, crop, random_crop, random_flip: images of shape (height, width) or (height, width, channels).

The law: what is random is drawn once for a sample, and all columns named together get the same: an image and its mask.
"""

import numpy as np

from feedline_server.declared.transforms import (
    CropTransform,
    RandomCropTransform,
    RandomFlipTransform,
    ResizeTransform,
    TransformConfig,
)
from feedline_server.sources.images.opencv import opencv
from feedline_server.transforms.randomness import below
from feedline_server.transforms.rows import Rows
from feedline_server.transforms.transform import Spec, Specs, Trial, changed, chosen
from feedline_wire.errors import DataError
from feedline_wire.tensors import VARIES, Array, Column

RESIZED = ("uint8", "uint16", "int16", "float32", "float64")
"""Dtypes that OpenCV resizes."""

MOST_CHANNELS = 512
"""Of one image in OpenCV (CV_CN_MAX)."""


class Resize:
    """OpenCV's resize, image by image."""

    is_random = False
    is_of_batches = False

    def __init__(self, config: ResizeTransform) -> None:
        self._names = config.columns
        self._width, self._height = config.size
        self._cv2 = opencv("resize")
        self._how = {
            "nearest": self._cv2.INTER_NEAREST,
            "linear": self._cv2.INTER_LINEAR,
            "area": self._cv2.INTER_AREA,
            "cubic": self._cv2.INTER_CUBIC,
        }[config.interpolation]

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        return changed(specs, {name: self._spec(spec) for name, spec in chosen(specs, self._names).items()})

    def _spec(self, spec: Spec) -> Spec:
        column = spec.column
        _check_image(column, "resized")
        if column.dtype.name not in RESIZED:
            raise DataError(f"column {column} cannot be resized: wanted {', '.join(RESIZED)}; cast it before")
        if column.shape[2:] > (MOST_CHANNELS,):
            raise DataError(f"column {column} cannot be resized: an image has at most {MOST_CHANNELS} channels")
        return _sized(column, self._height, self._width)

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        for name in self._names:
            images = _array(rows, name)
            out = rows.space(name, images.dtype, (len(images), self._height, self._width, *images.shape[3:]))
            for image, target in zip(_planes(images), _planes(out), strict=True):
                self._cv2.resize(image, (self._width, self._height), target, interpolation=self._how)
            rows.columns[name] = out


class Crop:
    """The middle of each image."""

    is_random = False
    is_of_batches = False

    def __init__(self, config: CropTransform) -> None:
        self._names = config.columns
        self._width, self._height = config.size

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        return changed(specs, {name: self._spec(spec) for name, spec in chosen(specs, self._names).items()})

    def _spec(self, spec: Spec) -> Spec:
        _check_image(spec.column, "cropped")
        _check_inside(spec.column, self._width, self._height, 0)
        return _sized(spec.column, self._height, self._width)

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        for name in self._names:
            images = _array(rows, name)
            top, left = (images.shape[1] - self._height) // 2, (images.shape[2] - self._width) // 2
            out = rows.space(name, images.dtype, (len(images), self._height, self._width, *images.shape[3:]))
            out[...] = images[:, top : top + self._height, left : left + self._width]
            rows.columns[name] = out


class RandomCrop:
    """A part of each image, at a place of its own."""

    is_random = True
    is_of_batches = False

    def __init__(self, config: RandomCropTransform) -> None:
        self._names = config.columns
        self._width, self._height = config.size
        self._padding = config.padding

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform."""
        found = chosen(specs, self._names)
        for spec in found.values():
            _check_image(spec.column, "cropped")
            _check_inside(spec.column, self._width, self._height, self._padding)
        _check_alike([spec.column for spec in found.values()])
        return changed(specs, {name: _sized(spec.column, self._height, self._width) for name, spec in found.items()})

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        height, width = _array(rows, self._names[0]).shape[1:3]
        drawn = rows.words(2)
        # Places of the padded image: from -padding on.
        tops = below(drawn[:, 0], height + 2 * self._padding - self._height + 1) - self._padding
        lefts = below(drawn[:, 1], width + 2 * self._padding - self._width + 1) - self._padding
        for name in self._names:
            images = _array(rows, name)
            out = rows.space(name, images.dtype, (len(images), self._height, self._width, *images.shape[3:]))
            if self._padding:
                out[...] = 0
            for target, image, top, left in zip(out, images, tops.tolist(), lefts.tolist(), strict=True):
                above, before = max(0, -top), max(0, -left)
                part = image[top + above : top + self._height, left + before : left + self._width]
                target[above : above + part.shape[0], before : before + part.shape[1]] = part
            rows.columns[name] = out


class RandomFlip:
    """Each image mirrored or not."""

    is_random = True
    is_of_batches = False

    def __init__(self, config: RandomFlipTransform) -> None:
        self._names = config.columns
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
            images = _array(rows, name)
            out = rows.space(name, images.dtype, images.shape)
            targets, pixels = _whole_pixels(out), _whole_pixels(images)
            for up, left in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                these = np.flatnonzero((vertically == (up < 0)) & (horizontally == (left < 0)))
                targets[these] = pixels[these][:, ::up, ::left]
            rows.columns[name] = out


def make(config: TransformConfig) -> Resize | Crop | RandomCrop | RandomFlip:
    """The transform of images that a table means."""
    match config:
        case ResizeTransform():
            return Resize(config)
        case CropTransform():
            return Crop(config)
        case RandomCropTransform():
            return RandomCrop(config)
        case RandomFlipTransform():
            return RandomFlip(config)
    raise AssertionError(f"nothing makes the transform {config.name!r}")


def _check_image(column: Column, done: str) -> None:
    if len(column.shape) not in {2, 3} or VARIES in column.shape:
        raise DataError(
            f"column {column} cannot be {done}: wanted images of one size, (height, width) or (height, width, channels)"
        )


def _check_inside(column: Column, width: int, height: int, padding: int) -> None:
    if height > column.shape[0] + 2 * padding or width > column.shape[1] + 2 * padding:
        raise DataError(
            f"column {column} cannot be cropped to [{width}, {height}]: its images have width {column.shape[1]} and "
            f"height {column.shape[0]}; give a smaller size, or padding to random_crop"
        )


def _check_alike(columns: list[Column]) -> None:
    for column in columns:
        if column.shape[:2] != columns[0].shape[:2]:
            raise DataError(f"columns {columns[0]} and {column} differ in size, so they cannot lose the same part")


def _sized(column: Column, height: int, width: int) -> Spec:
    return Spec(Column(column.name, column.dtype, (height, width, *column.shape[2:])))


def _array(rows: Rows, name: str) -> Array:
    column = rows.columns[name]
    assert isinstance(column, np.ndarray)  # `_check_image` let nothing else pass
    return column


def _whole_pixels(images: Array) -> Array:
    """One element a pixel: mirroring is then a copy of pixels and not of channels, in a third of the time."""
    if images.ndim != 4 or not images.flags.c_contiguous:
        return images
    return images.view(np.dtype((np.void, images.shape[3] * images.itemsize)))[..., 0]


def _planes(images: Array) -> Array:
    """OpenCV drops the channel of images that have one."""
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
