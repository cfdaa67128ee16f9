"""Forms of what an operator says about a dataset: names, patterns, parts, and short ways to say them.

The law: a form is checked from the text alone, and its message says what would have been right.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from feedline_server.declared.files import ARRAYS, MANIFESTS
from feedline_server.declared.selections import check_form
from feedline_server.declared.transforms import CODE, one_or_several


def _not_a_flag(value: object) -> object:
    # Without this `classes = true` would be read as 1.
    if isinstance(value, bool):
        raise ValueError("a whole number")  # noqa: TRY004 - pydantic reports a ValueError, not a TypeError
    return value


def _absolute(path: Path) -> Path:
    # Not resolve(): a link that an operator points at another release must stay a link.
    return path.expanduser().absolute()


def _view_form(text: str) -> str:
    check_form(text)
    return text


def _none_for_false(value: object) -> object:
    """`labels = false`, because TOML has no null."""
    return None if value is False else value


def _one_for_all(value: object) -> object:
    """`files = "{id}.npz"` is a pattern for all columns."""
    return {"": value} if isinstance(value, str) else value


def _files_named_by(slot: str) -> Callable[[str], str]:
    """A check that a text names files below the folder, one for each sample or subject."""

    def check(text: str) -> str:
        steps = text.split("/")
        if slot not in text or ".." in steps or "" in steps or not text.lower().endswith(ARRAYS):
            raise ValueError(f"a file name below the folder with {slot} in it, such as {slot}.npz or {slot}_x.npy")
        return text

    return check


def _width_and_height(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("width and height, such as [224, 224]")
    return value


def _image_pattern(text: str) -> str:
    if "{id}" not in text or ".." in text.split("/") or "" in text.split("/"):
        raise ValueError("a file name below the folder with {id} in it, such as {id}.jpg")
    return text


def _manifests_or_parts(views: dict[str, str]) -> dict[str, str]:
    for text in views.values():
        if not text.endswith(MANIFESTS):
            try:
                check_form(text)
            except ValueError as error:
                raise ValueError(f"the name of a manifest, .json or .csv; or of one manifest {error}") from error
    if len({text.endswith(MANIFESTS) for text in views.values()}) > 1:
        raise ValueError("either a manifest for each view, or a part of one manifest for each")
    return views


def is_object_name(text: str) -> bool:
    """The text has the form `module:name`, with dots in either."""
    return CODE.fullmatch(text) is not None


def _object_form(text: str) -> str:
    if not is_object_name(text):
        raise ValueError('module:name, such as "my_classes:training_generator" for my_classes.py')
    return text


def _objects_or_parts(views: dict[str, str]) -> dict[str, str]:
    for text in views.values():
        if not is_object_name(text):
            try:
                check_form(text)
            except ValueError as error:
                raise ValueError(f"module:name, such as my_classes:{text}; or of one object {error}") from error
    if len({is_object_name(text) for text in views.values()}) > 1:
        raise ValueError("either an object for each view, or object = … and a part of it for each")
    return views


def _below(text: str) -> str:
    if {"", ".", ".."} & set(text.split("/")):
        raise ValueError("the name of a folder below it")
    return text


ObjectName: TypeAlias = Annotated[str, AfterValidator(_object_form)]
"""`module:name`."""
ColumnNames: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(one_or_several)]
Count: TypeAlias = Annotated[int, BeforeValidator(_not_a_flag), Field(ge=1)]
FileName: TypeAlias = Annotated[str, Field(min_length=1)]
FolderName: TypeAlias = Annotated[str, AfterValidator(_below)]
Slices: TypeAlias = dict[str, Annotated[str, AfterValidator(_view_form)]]
"""`start:stop` or an `.npy` of sample ids for each view; empty: as the data itself is parted, or all as `train`."""
Arrays: TypeAlias = Annotated[dict[str, FileName], Field(min_length=1)]
"""The name in its file of the array that is each column."""
Size: TypeAlias = Annotated[tuple[Count, Count], BeforeValidator(_width_and_height)]
"""Width and height, in the order in which OpenCV takes them."""
Patterns: TypeAlias = Annotated[tuple[FileName, ...], BeforeValidator(one_or_several), Field(min_length=1)]
AbsolutePath: TypeAlias = Annotated[Path, AfterValidator(_absolute)]
"""Made absolute where it was said; a link stays one."""
NameOrNone: TypeAlias = Annotated[FileName | None, BeforeValidator(_none_for_false)]
"""A file's name; `false` for none."""
FieldOrNone: TypeAlias = Annotated[str | None, BeforeValidator(_none_for_false)]
"""The name of a field; `false` for none."""
FilesById: TypeAlias = Annotated[
    dict[str, Annotated[str, AfterValidator(_files_named_by("{id}"))]] | None, BeforeValidator(_one_for_all)
]
"""How the files of samples are named, by column, or for all columns under the empty name."""
FilesBySubject: TypeAlias = Annotated[
    dict[str, Annotated[str, AfterValidator(_files_named_by("{subject}"))]] | None, BeforeValidator(_one_for_all)
]
"""The same of subjects."""
ImageFiles: TypeAlias = Annotated[str, AfterValidator(_image_pattern)]
"""How images' files are named."""
ImageViews: TypeAlias = Annotated[dict[str, FileName], AfterValidator(_manifests_or_parts)]
"""A manifest for each view, or a part of the only one."""
ObjectViews: TypeAlias = Annotated[dict[str, str], AfterValidator(_objects_or_parts)]
"""`module:name` for each view, or a part of the only object."""
Share: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
"""More than nothing, less than all."""
