"""What the labels of a manifest mean: class numbers, names of classes, or numbers to predict.

Labels that all are whole numbers, `2.0` too, are those numbers; labels that all are text are names, numbered as they
are sorted over all manifests of the dataset, or as they are declared. A mixture is refused. The same files give the
same numbers everywhere.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.images.manifest import Entries
from feedline_wire.errors import DataError
from feedline_wire.listing import EXAMPLES, listed

LARGEST = 1 << 31
"""Class numbers beyond are no classes but something else, such as ids."""

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
WHOLE = re.compile(r"([+-]?)([0-9]+)(\.0*)?")


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The class of each entry, manifest after manifest."""

    numbers: NDArray[np.int64]
    names: tuple[str, ...]
    """By number; empty: they have no names but the numbers."""
    count: int
    """How many classes there are, with or without images."""


def classes_of(manifests: Sequence[Entries], declared: int | tuple[str, ...] | None) -> Classes:
    """The classes of all entries, which have labels; DataError naming an entry whose label is no class."""
    labels = list(chain.from_iterable(entries.labels or () for entries in manifests))
    texts = set(labels)
    if isinstance(declared, tuple) and texts <= set(declared):
        return _named(manifests, labels, declared)
    if not any(map(NUMBER.fullmatch, texts)):
        names = declared if isinstance(declared, tuple) else tuple(sorted(texts))
        if isinstance(declared, int) and len(names) != declared:
            raise DataError(
                f"{manifests[0].path}: classes = {declared}, but the images are of {len(names)}: {listed(names)}; "
                "name the classes in the order of their numbers: classes = [names]"
            )
        return _named(manifests, labels, names)
    return _numbered(manifests, labels, _whole_numbers(manifests, labels, texts), declared)


def regression_targets(manifests: Sequence[Entries]) -> NDArray[np.float32]:
    """The labels of all entries as numbers to predict; DataError naming an entry whose label float32 cannot hold."""
    labels = list(chain.from_iterable(entries.labels or () for entries in manifests))
    for place, text in enumerate(labels):
        if not NUMBER.fullmatch(text):
            raise DataError(f"{_where(manifests, place)} has the label {text!r}; wanted a number, by regression = true")
    with np.errstate(over="ignore"):
        values = np.array(labels, np.float64).astype(np.float32)
    for place, (text, value) in enumerate(zip(labels, values.tolist(), strict=True)):
        if math.isinf(value) or ((whole := WHOLE.fullmatch(text)) and int(value) != _number(whole)):
            raise DataError(
                f"{_where(manifests, place)} has the label {text!r}, which float32 cannot hold; scale the labels, or "
                "leave out regression = true if they are classes"
            )
    return values


def empty_classes(numbers: NDArray[np.int64], place: Path) -> Iterator[str]:
    """A note if the classes, from 0 to the largest, are not all there: a model needs an output for each."""
    there = set(np.unique(numbers).tolist())
    count = max(there) + 1
    if without := count - len(there):
        first = ", ".join(map(str, islice((number for number in range(count) if number not in there), EXAMPLES)))
        yield (
            f"{place}: the largest label is {count - 1}, so a model needs {count} outputs, but no sample has "
            f"{without} of these numbers ({first}{', …' if without > EXAMPLES else ''}); number the labels from 0 on "
            f"without gaps, or say classes = {count} if that is meant"
        )


def _number(whole: re.Match[str]) -> int:
    return int(whole[1] + whole[2])


def _whole_numbers(manifests: Sequence[Entries], labels: Sequence[str], texts: Collection[str]) -> Mapping[str, int]:
    """The number that each label is; DataError naming two that do not go together."""
    whole = {text: found for text in texts if (found := WHOLE.fullmatch(text))}
    first = next((text for text in labels if text in whole), None)
    for text in dict.fromkeys(labels):
        if text not in whole:
            what = "no whole number" if NUMBER.fullmatch(text) else "no number"
            other = "" if first is None else f", and {_where(manifests, labels.index(first))} has {first!r}"
            why = f"{what}{other}; wanted whole numbers, or names alone."
            if all(map(NUMBER.fullmatch, texts)):
                why += " For numbers to predict (float32) say regression = true."
            _refuse(manifests, labels, text, why)
    first_of: dict[int, str] = {}
    for text in dict.fromkeys(labels):
        twin = first_of.setdefault(_number(whole[text]), text)
        if whole[twin][2] != whole[text][2]:
            _refuse(manifests, labels, text, f"the number of {twin!r} in {_where(manifests, labels.index(twin))}, too.")
    return {text: _number(found) for text, found in whole.items()}


def _refuse(manifests: Sequence[Entries], labels: Sequence[str], text: str, why: str) -> NoReturn:
    names = sorted(set(labels), key=lambda name: (0, float(name), name) if NUMBER.fullmatch(name) else (1, 0.0, name))
    lines = json.dumps(names if len(names) <= EXAMPLES else [*names[:EXAMPLES], "…"], ensure_ascii=False)
    raise DataError(
        f"{_where(manifests, labels.index(text))} has the label {text!r}, which is {why} Correct it, or name the "
        f"classes in the order of their numbers: classes = {lines}"
    )


def _named(manifests: Sequence[Entries], labels: Sequence[str], names: tuple[str, ...]) -> Classes:
    number_of = {name: number for number, name in enumerate(names)}
    numbers = [number_of.get(label, -1) for label in labels]
    return _checked(manifests, labels, numbers, Classes(np.array(numbers, np.int64), names, len(names)))


def _numbered(
    manifests: Sequence[Entries],
    labels: Sequence[str],
    number_of: Mapping[str, int],
    declared: int | tuple[str, ...] | None,
) -> Classes:
    numbers = [number_of[label] for label in labels]
    names = declared if isinstance(declared, tuple) else ()
    count = len(names) if names else declared if isinstance(declared, int) else min(max(numbers) + 1, LARGEST)
    numbers = [number if 0 <= number < count else -1 for number in numbers]
    return _checked(manifests, labels, numbers, Classes(np.array(numbers, np.int64), names, count))


def _checked(manifests: Sequence[Entries], labels: Sequence[str], numbers: Sequence[int], classes: Classes) -> Classes:
    """The classes; DataError naming the first image whose number is -1."""
    if -1 not in numbers:
        return classes
    place = numbers.index(-1)
    wanted = listed(classes.names) if classes.names else f"0..{classes.count - 1} (classes = {classes.count})"
    path, image = _entry(manifests, place, lambda entries: entries.images)
    raise DataError(f"{path}: the class of {image!r} is {labels[place]!r}; wanted one of {wanted}")


def _where(manifests: Sequence[Entries], place: int) -> str:
    """The manifest and the line of an entry of all, for a message."""
    return "{}: {}".format(*_entry(manifests, place, lambda entries: entries.where))


def _entry(manifests: Sequence[Entries], place: int, said: Callable[[Entries], Sequence[str]]) -> tuple[Path, str]:
    """The manifest of an entry of all, and what it says there."""
    listings = chain.from_iterable(((entries.path, one) for one in said(entries)) for entries in manifests)
    return next(islice(listings, place, None))
