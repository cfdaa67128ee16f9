"""The demo's dataset: scikit-learn's 1,797 handwritten digits, real scans of 8 x 8 pixels.

The bytes are the same every time, and the folder is there whole or not at all, so several processes may write it at
once.
"""

import argparse
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from feedline_wire.command_line import Command
from feedline_wire.errors import InvalidRequest
from feedline_wire.extras import pip_install

if TYPE_CHECKING:
    from feedline_wire.tensors import Array

VALIDATION_EVERY = 6
"""Every 6th digit is for validation, the first among them: 300 of 1,797, one in six as in MNIST."""

BRIGHTEST = 16
"""The largest pixel value in scikit-learn's data, which counts the set pixels of a 4 x 4 block (its documentation)."""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("folder", type=Path, help="where to write it; nothing is done if it holds the digits already")


def run(args: argparse.Namespace) -> int:
    """Write the digits; the exit code."""
    write_digits(args.folder)
    print(f"wrote {args.folder}")
    return 0


def write_digits(folder: Path) -> None:
    """Write train/ and validation/, each with x.npy (float32, N x 8 x 8 x 1, 0..1) and y.npy (int64, N).

    Nothing is done if the folder holds them already. Raises InvalidRequest if it holds anything else, or if
    scikit-learn is not installed.
    """
    import numpy as np  # here, as `feedline serve` has this module too, before it heeds signals

    arrays = _digits()
    if _holds(folder, arrays):
        return
    folder = folder.absolute()
    partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    try:
        for name, array in arrays.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(partial / name, array)
        os.rename(partial, folder)  # noqa: PTH104 - takes the place of an empty folder, and of no other
    except OSError as error:
        # Another process may have been quicker with the same digits.
        if not _holds(folder, arrays):
            raise InvalidRequest(
                f"{folder}: the digits cannot be written there ({error.strerror}); name a folder that is new or empty"
            ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _digits() -> "dict[str, Array]":
    """Every array by the name of its file in the folder."""
    import numpy as np

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InvalidRequest(f"the digits come with scikit-learn: {pip_install('demo')}") from error
    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 8, 8, 1) / BRIGHTEST).astype("<f4")
    y = labels.astype("<i8")
    held_out = np.arange(len(y)) % VALIDATION_EVERY == 0
    return {
        f"{view}/{name}.npy": column[rows]
        for view, rows in (("train", ~held_out), ("validation", held_out))
        for name, column in (("x", x), ("y", y))
    }


def _holds(folder: Path, arrays: "dict[str, Array]") -> bool:
    import numpy as np

    try:
        return all(np.array_equal(np.load(folder / name), array) for name, array in arrays.items())
    except (OSError, ValueError):
        return False


COMMAND = Command("demo-data", "write the demo's digits: train/ and validation/, x.npy and y.npy", run, declare)
