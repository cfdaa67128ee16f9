"""Which number each label of a manifest has.

Labels that are whole numbers are the numbers; other labels are names, numbered as they are sorted, or as
they are declared. The same files give the same numbers everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.files.partition import counts_of
from feedline_server.sources.images.manifest import Entries
from feedline_wire.errors import DataError
from feedline_wire.listing import listed

LARGEST = 1 << 31
"""Class numbers beyond are no classes but something else, such as ids."""


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The class of each entry, manifest after manifest."""

    numbers: NDArray[np.int64]
    names: Sequence[str] | None
    """By number; None: they have no names but the numbers."""
    count: int
    """How many classes there are, with or without images."""

    def counts(self, numbers: NDArray[np.int64]) -> Mapping[str, int]:
        """How many of these samples each class has, by its name."""
        if self.names is not None:
            return dict(zip(self.names, np.bincount(numbers, minlength=self.count).tolist(), strict=True))
        return counts_of(numbers)


def classes_of(manifests: Sequence[Entries], declared: int | tuple[str, ...] | None) -> Classes:
    """The classes of all entries, which have labels; DataError naming an image whose label is no class."""
    labels = list(chain.from_iterable(entries.labels or () for entries in manifests))
    texts = set(map(str, labels))
    if isinstance(declared, tuple) and (texts <= set(declared) or not _are_numbers(texts)):
        return _named(manifests, labels, declared)
    if _are_numbers(texts):
        return _numbered(manifests, labels, declared)
    names = tuple(sorted(texts))
    if isinstance(declared, int) and len(names) != declared:
        raise DataError(
            f"{manifests[0].path}: classes = {declared}, but the images are of {len(names)}: {listed(names)}; "
            "name the classes in the order of their numbers: classes = [names]"
        )
    return _named(manifests, labels, names)


def _are_numbers(texts: set[str]) -> bool:
    return all(text.removeprefix("-").isdecimal() and text.isascii() for text in texts)


def _named(manifests: Sequence[Entries], labels: Sequence[str | int], names: tuple[str, ...]) -> Classes:
    number_of = {name: number for number, name in enumerate(names)}
    numbers = [number_of.get(str(label), -1) for label in labels]
    return _checked(manifests, labels, numbers, Classes(np.array(numbers, np.int64), names, len(names)))


def _numbered(
    manifests: Sequence[Entries], labels: Sequence[str | int], declared: int | tuple[str, ...] | None
) -> Classes:
    numbers = list(map(int, labels))
    names = declared if isinstance(declared, tuple) else None
    count = len(names) if names else declared if isinstance(declared, int) else min(max(numbers) + 1, LARGEST)
    numbers = [number if 0 <= number < count else -1 for number in numbers]
    return _checked(manifests, labels, numbers, Classes(np.array(numbers, np.int64), names, count))


def _checked(
    manifests: Sequence[Entries], labels: Sequence[str | int], numbers: Sequence[int], classes: Classes
) -> Classes:
    """The classes; DataError naming the first image whose number is -1."""
    if -1 not in numbers:
        return classes
    place = numbers.index(-1)
    wanted = listed(classes.names) if classes.names else f"0..{classes.count - 1} (classes = {classes.count})"
    path, image = _where(manifests, place)
    raise DataError(f"{path}: the class of {image!r} is {labels[place]!r}; wanted one of {wanted}")


def _where(manifests: Sequence[Entries], place: int) -> tuple[Path, str]:
    """The manifest and the image of an entry of all."""
    listings = chain.from_iterable(((entries.path, image) for image in entries.images) for entries in manifests)
    return next(islice(listings, place, None))
