"""Samples that say who they are, so that every consumer can tell a right batch from a fast one.

Row i of `x` begins with i and ends with a word made of i; between them is a piece of a photograph (uint8), so that a
peer's compression has the work that it has on images, or something else that is trained on (KINDS). `y[i]` is i modulo
6. Beside the folder, where no loader looks, is a sum of every row.
"""

from dataclasses import dataclass
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CLASSES = 6

END = np.uint64(0x9E3779B97F4A7C15)
"""A row's last word is its id xor this: a row that is cut or shifted does not end so."""

SHADES = 8
"""Pieces are made lighter by 0 to 7, so that two that overlap do not compress to one."""

VOCABULARY = 50_000
"""Of tokens; the rest is its last word."""

RUNS = 24
"""Of a mask, each of one class and up to 256 pixels long."""

SUMMED = 16384
"""64-bit words that are summed of a row, evenly spread: all of them up to 128 KiB. Summing the 147 MB of an MLPerf
unet3d sample would take longer than some loaders."""

AT_ONCE_NBYTES = 32 << 20
"""Written at once, and then again with other ids: no peer looks so far back for something to compress."""


KINDS = {"photographs": np.uint8, "tables": np.float32, "tokens": np.int32, "masks": np.uint8}
"""What rows can be made of, and its dtype: pieces of photographs; measurements with two decimals; numbers of words, of
which few are frequent; masks with a few rectangles on nothing."""


def write(folder: Path, rows: int, row_nbytes: int, kind: str = "photographs") -> Path:
    """Write x.npy, y.npy and, beside the folder where no loader looks, the sums; the folder."""
    if row_nbytes % 8 or row_nbytes < 16:
        raise ValueError(f"rows are whole 64-bit words, at least two; found {row_nbytes} bytes")
    folder.mkdir(parents=True)
    sums = np.empty(rows, np.uint64)
    part = made_of(kind, min(rows, max(1, AT_ONCE_NBYTES // row_nbytes)), row_nbytes)
    dtype = np.dtype(KINDS[kind])
    words = part.view(np.uint64)
    with (folder / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": dtype.str, "fortran_order": False, "shape": (rows, row_nbytes // dtype.itemsize)}
        )
        for start in range(0, rows, len(part)):
            ids = np.arange(start, min(start + len(part), rows), dtype=np.uint64)
            words[: len(ids), 0], words[: len(ids), -1] = ids, ids ^ END
            sums[start : start + len(ids)] = _sums(words[: len(ids)])
            file.write(part[: len(ids)].data)
    np.save(folder / "y.npy", np.arange(rows, dtype=np.int64) % CLASSES)
    np.save(sums_of(folder), sums)
    return folder


def made_of(kind: str, rows: int, row_nbytes: int) -> Array:
    """Rows (uint8) of this kind."""
    if kind == "photographs":
        return _pieces(rows, row_nbytes)
    drawn = np.random.default_rng(row_nbytes)
    dtype = np.dtype(KINDS[kind])
    made: Array
    shape = (rows, row_nbytes // dtype.itemsize)
    match kind:
        case "tables":
            made = np.round(drawn.gamma(2.0, 20.0, shape), 2).astype(dtype)
        case "tokens":
            made = np.minimum(drawn.zipf(1.2, shape), VOCABULARY).astype(dtype)
        case _:
            made = np.zeros(shape, dtype)
            starts = drawn.integers(0, shape[1], (rows, RUNS))
            for row, at in enumerate(starts):
                for start in at:
                    made[row, start : start + drawn.integers(8, 256)] = drawn.integers(1, 20)
    return made.view(np.uint8)


def _pieces(rows: int, row_nbytes: int) -> Array:
    pieces = np.lib.stride_tricks.sliding_window_view(_photographs(2 * row_nbytes), row_nbytes)
    begins = np.random.default_rng(row_nbytes).integers(0, len(pieces), rows)
    return pieces[begins] + (np.arange(rows) % SHADES).astype(np.uint8)[:, None]


def _photographs(nbytes: int) -> Array:
    """The pixels of scikit-learn's two sample images, one after the other, 1.6 MB, and again if that is not enough."""
    try:
        import cv2
    except ImportError:  # the suite's environment has it; elsewhere, where nothing is compressed, noise will do
        return np.random.default_rng(0).integers(0, 256, max(nbytes, 1 << 20), np.uint8)
    files = sorted(Path(str(files_of("sklearn.datasets.images"))).glob("*.jpg"))
    pixels = np.concatenate([cv2.imread(str(file)).reshape(-1) for file in files])
    return np.resize(pixels, max(nbytes, pixels.size))


def _sums(words: Array) -> Array:
    summed: Array = words[:, :: max(1, words.shape[1] // SUMMED)].sum(axis=1, dtype=np.uint64)
    return summed


def sums_of(folder: Path) -> Path:
    """Where a folder's sums are."""
    return folder.with_name(f"{folder.name}-sums.npy")


@dataclass(frozen=True, slots=True)
class Content:
    """What batches of a folder must hold."""

    sums: Array

    @classmethod
    def of(cls, folder: Path) -> "Content":
        return cls(np.load(sums_of(folder)))

    def check(self, x: Array, y: Array | None) -> None:
        """Raise unless every row is a whole sample and has its own label, and one of them is right to the last bit.

        It reads two words of every row, and one row, so that checking costs every consumer the same and little.
        """
        words = x.reshape(len(x), -1).view(np.uint64)
        ids = words[:, 0]
        if not np.array_equal(words[:, -1], ids ^ END):
            raise WrongContentError("a row does not end as it begins")
        if y is not None and not np.array_equal(ids.astype(np.int64) % CLASSES, y):
            raise WrongContentError("a label is not its row's")
        row = int(ids[0]) % len(x)
        if _sums(words[row : row + 1])[0] != self.sums[int(ids[row])]:
            raise WrongContentError(f"sample {int(ids[row])} is not what was written")


class WrongContentError(Exception):
    """A batch arrived that is not what was written. No number is worth anything then."""
