"""How images come out of their files: size, colours, depth."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

ColorMode: TypeAlias = Literal["rgb", "bgr", "grayscale", "rgba"]
Interpolation: TypeAlias = Literal["nearest", "linear", "area", "cubic"]
Bits: TypeAlias = Literal[8, 16]


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """What every image of a dataset is decoded to."""

    size: tuple[int, int] | None
    """Width and height; None: all are of one size."""
    color_mode: ColorMode
    interpolation: Interpolation
    bits: Bits
    max_pixels: int
    """Of a file; what says that it has more is refused."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return np.dtype("uint8" if self.bits == 8 else "<u2")

    def identity(self) -> bytes:
        """What two of the same dataset have in common."""
        return json.dumps({name: said for name, said in asdict(self).items() if name != "max_pixels"}).encode()
