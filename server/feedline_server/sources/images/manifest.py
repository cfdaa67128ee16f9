"""A list of images with the class of each, in JSON or CSV, as it was written.

Every entry has what it needs, or the file and the entry are named; nothing is guessed from half a row.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from feedline_server.declared.forms import ONLY_OTHER
from feedline_server.sources.arrays.npy import reading
from feedline_server.sources.files.links import stays_inside, without_dots
from feedline_wire.errors import DataError

Row: TypeAlias = Mapping[str, object]

USUAL = ("manifest.json", "manifest.csv")
"""Manifests that need not be named."""

WANTED = 'a list of entries, such as [{"image_id": "a.jpg", "disease_class": 1}, …]'


@dataclass(frozen=True, slots=True)
class Fields:
    """What things are called in a manifest."""

    image: str
    label: str | None
    """None: there is none; ONLY_OTHER."""
    split: str | None


@dataclass(frozen=True, slots=True)
class Entries:
    """What a manifest lists, entry by entry."""

    path: Path
    images: Sequence[str]
    labels: Sequence[str] | None
    """Numbers as they are written."""
    splits: Sequence[str] | None
    where: Sequence[str]
    """What each entry is called in a message: "line 7"."""

    def __len__(self) -> int:
        return len(self.images)


def read_manifest(path: Path, fields: Fields) -> Entries:
    """The entries of a `.json` or `.csv`; DataError naming file and entry if one is not what it should be."""
    rows = _read(path)
    _, first = rows[0]
    fields = _found(path, first, fields)
    images: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    for where, row in rows:
        images.append(_image(path, where, row, fields.image))
        if fields.label is not None:
            labels.append(_value(path, where, row, fields.label, "a class, as a number or text", int, float).strip())
        if fields.split is not None:
            splits.append(_value(path, where, row, fields.split, "the name of a view").strip())
    return Entries(
        path,
        images,
        labels if fields.label is not None else None,
        splits if fields.split else None,
        [where for where, _ in rows],
    )


def _found(path: Path, first: Row, fields: Fields) -> Fields:
    """The fields with the label's own name; DataError if they are not all there."""
    for key, name in (("image", fields.image), ("label", fields.label), ("split", fields.split)):
        if name and name not in first:
            raise DataError(
                f"{path}: its entries have no {name!r}, they have {', '.join(map(repr, first))}; "
                f"name the right one with {key} = …"
            )
    if fields.label != ONLY_OTHER:
        return fields
    others = [name for name in first if name not in {fields.image, fields.split}]
    if len(others) != 1:
        raise DataError(
            f"{path}: which field is the class? Beside the image its entries have "
            f"{', '.join(map(repr, others)) or 'none'}; say label = …, or label = false"
        )
    return Fields(fields.image, others[0], fields.split)


def _image(path: Path, where: str, row: Row, field: str) -> str:
    name = without_dots(_value(path, where, row, field, "the name of a file", int))
    if not stays_inside(name):
        raise DataError(
            f"{path}: {where} names {name!r}, which is no file inside the folder of the images; "
            "wanted a name relative to it, such as field-2/leaf.jpg"
        )
    return name


def _value(path: Path, where: str, row: Row, field: str, wanted: str, *numbers: type) -> str:
    """What an entry has in a field: text that is not blank, or a number of one of these types, as text."""
    found = row.get(field)
    if (isinstance(found, str) and not found.isspace() and found) or type(found) in numbers:  # not a bool
        return str(found)
    shown = f"{field} = {json.dumps(row[field])}" if field in row else f"no {field!r}"
    raise DataError(f"{path}: {where} has {shown}; wanted {wanted}")


def _read(path: Path) -> list[tuple[str, Row]]:
    """Every entry, with what it is called in a message."""
    try:
        with reading(path, f"{WANTED}, or the same as .csv"):
            text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error}); save it as UTF-8") from error
    rows = list(_csv(path, text) if path.suffix == ".csv" else _json(path, text))
    if not rows:
        raise DataError(f"{path}: lists nothing; wanted {WANTED}, or the same as .csv")
    return rows


def _json(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not the JSON that was wanted: {error}; wanted {WANTED}") from error
    if not isinstance(found, list):
        raise DataError(f"{path}: holds {type(found).__name__}; wanted {WANTED}")
    for number, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {number} is {json.dumps(entry)[:100]}; wanted {WANTED}")
        yield f"entry {number}", entry


def _csv(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise DataError(f"{path}: its first line names a field twice: {', '.join(header)}")
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(
                    f"{path}: line {reader.line_num} has {len(row)} fields, and the first line {len(header)}; "
                    "wanted as many, with commas in between"
                )
            if row:
                yield f"line {reader.line_num}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is no CSV ({error})") from error
