"""Which subjects there are, told from the names of files, and which of them a view has."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path

from feedline_server.declared.datasets import SubjectsConfig
from feedline_server.declared.forms import HDF5
from feedline_server.sources.arrays.npy import reading
from feedline_server.sources.files.patterns import FilePattern, file_patterns
from feedline_wire.errors import DataError
from feedline_wire.listing import listed

SLOT = "{subject}"

NOT = "!"
"""What a pattern begins with that takes subjects out."""


def patterns_of(config: SubjectsConfig) -> tuple[FilePattern, ...]:
    """Where a subject's arrays are: as declared, or as the names of the files in the folder show."""
    return file_patterns(SLOT, config.files or _usual(config.path), config.arrays)


def find_subjects(folder: Path, where: Sequence[FilePattern]) -> list[str]:
    """The subjects, sorted; DataError if there are none, or if one has not all of its files."""
    found: dict[str, dict[str, str]] = {}  # by pattern
    taken: set[str] = set()
    # The pattern with the most letters first: s01_y.npy is s01's `{subject}_y.npy`, not a subject of `{subject}.npy`.
    for place in sorted(where, key=lambda place: len(place.pattern), reverse=True):
        found[place.pattern] = {subject: file for subject, file in _matching(folder, place) if file not in taken}
        taken.update(found[place.pattern].values())
    subjects = sorted(set().union(*found.values()))
    if not subjects:
        patterns = " or ".join(place.pattern for place in where)
        raise DataError(f"{folder}: found no file like {patterns}; wanted one for each subject")
    for place in where:
        missing = [subject for subject in subjects if subject not in found[place.pattern]]
        if missing:
            raise DataError(
                f"{folder}: subject {missing[0]!r} has no file {place.of(missing[0])}; "
                "add it, move the subject's other files away, or say how files are named (files = …)"
            )
    return subjects


def view_subjects(view: str, patterns: Sequence[str], subjects: Sequence[str], folder: Path) -> list[str]:
    """The subjects that a view's patterns mean, in the subjects' order; DataError if one means nothing."""
    wanted = [pattern for pattern in patterns if not pattern.startswith(NOT)]
    unwanted = [pattern.removeprefix(NOT) for pattern in patterns if pattern.startswith(NOT)]
    for pattern in (*wanted, *unwanted):
        if not any(fnmatchcase(subject, pattern) for subject in subjects):
            near = difflib.get_close_matches(pattern, subjects, n=1)
            raise DataError(
                f"{folder}: view {view!r} wants {pattern!r}, but the subjects are {listed(subjects)}"
                + (f"; did you mean {near[0]}?" if near else "")
            )
    chosen = [
        subject
        for subject in subjects
        if (not wanted or any(fnmatchcase(subject, pattern) for pattern in wanted))
        and not any(fnmatchcase(subject, pattern) for pattern in unwanted)
    ]
    if not chosen:
        raise DataError(f"{folder}: view {view!r} takes out every subject; leave it some, or remove the view")
    return chosen


def _matching(folder: Path, place: FilePattern) -> Iterator[tuple[str, str]]:
    """Every subject that has a file of this pattern, and the file, relative to the folder."""
    before, *after = map(re.escape, place.pattern.split(SLOT))
    form = re.compile(before + "(?P<subject>[^/]+)" + "(?P=subject)".join(after))
    with reading(folder, "a folder of files"):
        for path in folder.glob(escape(place.pattern).replace(SLOT, "*")):
            file = path.relative_to(folder).as_posix()
            if (match := form.fullmatch(file)) and not path.name.startswith("."):
                yield match["subject"], file


def _usual(folder: Path) -> Mapping[str, str]:
    """One archive a subject, or one `.npy` a subject and column, `SUBJECT_COLUMN.npy`."""
    with reading(folder, "a folder of files"):
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    for suffix in (".npz", *HDF5):
        if spelt := [name for name in names if name.lower().endswith(suffix)]:
            return {"": SLOT + spelt[0][-len(suffix) :]}
    columns = {
        name.removesuffix(".npy").rpartition("_")[2]: None for name in names if re.fullmatch(r".+_.+\.npy", name)
    }
    if columns:
        return {column: f"{SLOT}_{column}.npy" for column in columns}
    raise DataError(
        f"{folder}: found no SUBJECT.npz, SUBJECT.h5 or SUBJECT_x.npy; say how files are named, "
        'such as files = "{subject}/data.npz"'
    )
