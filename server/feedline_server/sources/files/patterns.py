"""In which file, and under which name in it, the columns of a sample or of a subject are.

What holds a column is decided once, by the first sample or subject, and the same of all others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from feedline_server.sources.arrays.stored import ArrayFile, chosen
from feedline_wire.errors import DataError


@dataclass(frozen=True, slots=True)
class FilePattern:
    """One file of each sample: `pattern` is its name, with `slot` where the sample's own name goes."""

    slot: str
    pattern: str
    column: str | None = None
    """The only column it holds; None: all that are in it."""
    arrays: Mapping[str, str] | None = None
    """Columns and their names in the file; None: all that are in it, or the only one."""

    def of(self, name: str) -> str:
        """The file of one sample, relative to the folder of all."""
        return self.pattern.replace(self.slot, name)

    def columns(self, file: ArrayFile) -> dict[str, str]:
        """The name in this file of each column that the place holds; DataError if one is not there."""
        if self.column is not None and self.arrays is None:
            names = file.names
            return chosen(file, {self.column: names[0] if len(names) == 1 else self.column})
        return chosen(file, self.arrays)


def file_patterns(slot: str, files: Mapping[str, str], arrays: Mapping[str, str] | None) -> tuple[FilePattern, ...]:
    """The patterns that a declaration means: `files` are patterns by column, or one for all under the empty name.

    DataError if `arrays` has a column that no file is for.
    """
    if set(files) == {""}:
        return (FilePattern(slot, files[""], arrays=arrays),)
    unknown = [column for column in arrays or () if column not in files]
    if unknown:
        raise DataError(f"arrays names the column {unknown[0]!r}, but files has {', '.join(files)}; name one of these")
    return tuple(
        FilePattern(slot, pattern, column, {column: arrays[column]} if arrays and column in arrays else None)
        for column, pattern in files.items()
    )
