"""Folders that are values of a column, `label=cat/part-0.parquet`, as Hive and Spark write them.

Values that all are whole numbers are those numbers; names are numbered as they are sorted over all folders. A mixture
is refused.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.arrays.npy import reading
from feedline_wire.errors import DataError

MISSING = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark write for null."""


@dataclass(frozen=True, slots=True)
class PartFile:
    """A file with rows, and what the folders that it is in say of all of them."""

    path: Path
    keys: Mapping[str, str]


def part_files(
    folder: Path, is_part: Callable[[Path], bool], keys: Mapping[str, str] | None = None
) -> Iterator[PartFile]:
    """The files of a folder that are parts, in it or in folders `KEY=VALUE`, sorted by their paths."""
    with reading(folder, "a folder of files"):
        children = sorted(folder.iterdir())
    for child in children:
        key, equals, value = child.name.partition("=")
        if key and equals and child.is_dir():
            yield from part_files(child, is_part, {**(keys or {}), key: unquote(value)})
        elif is_part(child):
            yield PartFile(child, keys or {})


@dataclass(frozen=True, slots=True)
class Values:
    """One number for all rows of a file, of each file; and what the numbers stand for, if they stand for names."""

    of_file: NDArray[np.int64]
    names: Sequence[str]


def values_of(files: Sequence[PartFile], keys: Collection[str]) -> dict[str, Values]:
    """The columns that folders say, of these keys; DataError naming a folder whose value does not go with others."""
    first = files[0]
    for file in files:
        if file.keys.keys() != first.keys.keys():
            raise DataError(
                f"{file.path}: is in folders that say {_said(file)}, {first.path} in such that say {_said(first)}; "
                "wanted the same keys for all files, or path set to those that are meant"
            )
    return {key: _values(key, files) for key in keys}


def _values(key: str, files: Sequence[PartFile]) -> Values:
    texts: dict[str, Path] = {}
    for file in files:
        texts.setdefault(file.keys[key], file.path)
    numbers = {text: int(text) for text in texts if re.fullmatch(r"[+-]?\d+", text, re.ASCII)}
    names = [] if numbers else sorted(texts)
    number_of = numbers or {text: number for number, text in enumerate(names)}
    for text, path in texts.items():
        if text == MISSING:
            raise DataError(f"{path}: has no value (null) for the column {key!r}; move the folder away")
        if text not in number_of or (names and _is_number(text)):
            others = next((other for other in texts if other != text), text)
            raise DataError(
                f"{path}: the folder says {key}={text}, others {key}={others}; wanted whole numbers, or names alone; "
                f"rename it, or leave {key!r} out with arrays"
            )
    if len(set(number_of.values())) < len(number_of):
        twice = sorted(text for text, number in numbers.items() if list(numbers.values()).count(number) > 1)
        raise DataError(f"{texts[twice[0]]}: the folders {key}={twice[0]} and {key}={twice[1]} are the same number")
    return Values(np.array([number_of[file.keys[key]] for file in files], np.int64), names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _said(file: PartFile) -> str:
    return ", ".join(f"{key}={value}" for key, value in file.keys.items()) or "nothing"
