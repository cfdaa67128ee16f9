"""How tables of loader.toml become frozen values, and how names, patterns, parts and numbers are written in them.

A form is checked from the text alone, and its message says what would have been right. Pydantic does the checking and
is imported for it: who only receives checked values, as a worker does, never loads it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeAlias, dataclass_transform

HDF5 = (".h5", ".hdf5", ".mat")
"""Suffixes of files that h5py reads; MATLAB's are HDF5 since `save -v7.3`."""

ARRAYS = (".npy", ".npz", *HDF5)
"""Suffixes of files with arrays in them."""

ARROW = (".arrow", ".feather", ".ipc", ".parquet", ".parq", ".pq")
"""Suffixes of files with tables in them, which pyarrow reads."""

MANIFESTS = (".json", ".csv")
"""Suffixes of lists of images with the class of each."""

ONLY_OTHER = ""
"""As a manifest's field of labels: the only field that is not named otherwise."""

CODE = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*"
"""`module:name`, with dots in either."""

SLICE = r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*"
"""`start:stop`: both bounds, as text; either may be left out."""

VIEW = 'start:stop, such as "0:1500", "1500:" or ":-100", or the name of an .npy file of sample ids'


class Contradiction(ValueError):
    """A table whose keys do not fit together; the message says everything itself."""


# ---- tables ----


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Table:
    """A table of loader.toml as a frozen value: subclasses are dataclasses whose fields are the table's keys.

    A subclass becomes one when it is first used as one. To generate all of them takes half as long as loading numpy,
    and a worker, which is sent a few values, needs none.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    def __new__(cls, *_: object, **values: object) -> Self:
        """Pickle makes one without values."""
        if values:
            cls.fields()
        return super().__new__(cls)

    # Not the dataclass' own: a value that came by pickle may be of a class that has become none, and what a base class
    # would compare are the base's keys alone.
    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), frozenset(vars(self).items())))

    @classmethod
    def declare(cls, **values: Any) -> Self:  # noqa: ANN401  # nothing is checked yet
        """The value that these keys mean; pydantic's ValidationError if they mean none."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_python(values)

    @classmethod
    def fields(cls) -> tuple[Field[Any], ...]:
        """The table's keys."""
        if "__dataclass_fields__" not in cls.__dict__:
            for base in cls.__bases__:
                if issubclass(base, Table) and base is not Table:
                    base.fields()
            dataclass(frozen=True, kw_only=True, eq=False)(cls)
        return fields(cls)  # type: ignore[arg-type]  # it is a dataclass now

    def set_fields(self, *left_out: str) -> dict[str, object]:
        """Every field that is not at its default, but for those that are left out."""
        found = {}
        for one in self.fields():
            default = one.default if one.default_factory is MISSING else one.default_factory()
            if one.name not in left_out and (value := getattr(self, one.name)) != default:
                found[one.name] = value
        return found

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:  # noqa: ANN401  # pydantic's
        cls.fields()
        return handler(source)


class Form:
    """How a field is written: a rule for pydantic, as part of the field's type."""

    def __init__(self, wrap: str, check: Callable[[Any], Any]) -> None:
        self._wrap = wrap
        self._check = check

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:  # noqa: ANN401  # pydantic's
        from pydantic_core import core_schema

        return getattr(core_schema, f"no_info_{self._wrap}_validator_function")(self._check, handler(source))


before = partial(Form, "before")
"""The value goes through a function before its type is looked at: short ways to write it become the usual one."""
after = partial(Form, "after")
"""The value goes through a function when its type is right. Its ValueError says what was wanted."""


class OneOf:
    """A table is one of these classes, by the name that `tag` finds in it, or that this key has.

    `change` gives keys that may be written otherwise the names of fields. `problem` is said of a table that is none of
    them; without it, pydantic's own errors are. A class is made ready for validation with the first table of it: to
    make all kinds and transforms ready takes as long as loading numpy three times.
    """

    def __init__(
        self,
        classes: Mapping[str, type[Table]],
        tag: str | Callable[[Any], str | None],
        change: Callable[[Any], Any] = lambda table: table,
        problem: str | None = None,
    ) -> None:
        self._classes = classes
        self._tag = tag
        self._change = change
        self._problem = problem
        self._ready: dict[str | None, Callable[[Any], Any]] = {}

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:  # noqa: ANN401  # pydantic's
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self._validated)

    def _validated(self, value: Any) -> Any:  # noqa: ANN401  # nothing is checked yet
        """The table; pydantic's ValidationError, in which the tag goes before the table's keys, if it is none."""
        found = self._tag(value) if callable(self._tag) else _found(value, self._tag)
        tag = found if isinstance(found, str) and found in self._classes else None
        if tag not in self._ready:
            from pydantic import TypeAdapter

            # Without a tag that is one, all of them: its error is about all.
            classes = self._classes if tag is None else {tag: self._classes[tag]}
            self._ready[tag] = TypeAdapter(Annotated[object, self._among(classes)]).validate_python
        return self._ready[tag](value)

    def _among(self, classes: Mapping[str, type[Table]]) -> "_Union":
        return _Union(classes, self._tag, self._change, self._problem)


@dataclass(frozen=True)
class _Union:
    """The rule of `OneOf` for pydantic, of some of its classes."""

    classes: Mapping[str, type[Table]]
    tag: str | Callable[[Any], str | None]
    change: Callable[[Any], Any]
    problem: str | None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:  # noqa: ANN401  # pydantic's
        from pydantic_core import core_schema

        choices = {
            name: core_schema.no_info_before_validator_function(self.change, handler.generate_schema(one))
            for name, one in self.classes.items()
        }
        more = {"custom_error_type": UNKNOWN, "custom_error_message": self.problem} if self.problem else {}
        return core_schema.tagged_union_schema(choices, self.tag, **more)  # type: ignore[arg-type]  # texts


def _found(table: object, key: str) -> object:
    return table.get(key) if isinstance(table, dict) else getattr(table, key, None)


UNKNOWN = "unknown_table"
"""The type of the validation error that has a `problem` for its message."""


# ---- forms ----


def check_form(text: str) -> str:
    """The text; ValueError saying what is wanted, if it is neither a slice nor a file name."""
    if text.count(":") > 1 and not text.endswith(".npy"):
        raise ValueError(f"{VIEW}; a step is not allowed")
    if not re.fullmatch(SLICE, text) and not text.endswith(".npy"):
        raise ValueError(VIEW)
    return text


def is_object_name(text: str) -> bool:
    """The text has the form `module:name`, with dots in either."""
    return re.fullmatch(CODE, text) is not None


def one_or_several(value: object) -> object:
    """`columns = "x"` is the same as `columns = ["x"]`."""
    return (value,) if isinstance(value, str) else value


def one_column(values: object) -> object:
    """`column` is `columns` of one."""
    if not isinstance(values, dict) or "column" not in values:
        return values
    if "columns" in values:
        raise Contradiction("has both column and columns; say one of them")
    return {("columns" if key == "column" else key): value for key, value in values.items()}


def must(holds: Callable[[Any], object], wanted: str, when: str = "after") -> Form:
    """The value must be so, `before` or `after` its type is looked at; else the message says what was wanted."""

    def check(value: Any) -> Any:  # noqa: ANN401  # as the field's type
        if not holds(value):
            raise ValueError(wanted)
        return value

    return Form(when, check)


def _names_a_file(slot: str, suffixes: tuple[str, ...], example: str) -> Form:
    return must(
        lambda text: slot in text and not {"", ".."} & set(text.split("/")) and text.lower().endswith(suffixes),
        f"a file name below the folder with {slot} in it, such as {example}",
    )


def _all_alike(is_own: Callable[[str], bool], own: Callable[[str], str], mixed: str) -> Form:
    """Views that all have something of their own, or are all parts of the only thing there is."""

    def check(views: dict[str, str]) -> dict[str, str]:
        for text in views.values():
            if not is_own(text):
                try:
                    check_form(text)
                except ValueError as error:
                    raise ValueError(f"{own(text)} {error}") from error
        if len(set(map(is_own, views.values()))) > 1:
            raise ValueError(mixed)
        return views

    return after(check)


_NO_FLAG = must(lambda value: not isinstance(value, bool), "a whole number", "before")  # or `true` would be read as 1
_SOME = must(bool, "at least one")
_NONE_FOR_FALSE = before(lambda value: None if value is False else value)  # TOML has no null
_ONE_FOR_ALL = before(lambda value: {"": value} if isinstance(value, str) else value)

Whole: TypeAlias = Annotated[int, _NO_FLAG, must(lambda number: number >= 0, "greater than or equal to 0")]
Count: TypeAlias = Annotated[int, _NO_FLAG, must(lambda number: number >= 1, "greater than or equal to 1")]
Numbers: TypeAlias = Annotated[
    tuple[float, ...], before(lambda value: (value,) if isinstance(value, int | float) else value), _SOME
]
"""`mean = 0.5` is the same as `mean = [0.5]`."""
Share: TypeAlias = Annotated[float, must(lambda share: 0 < share < 1, "more than 0 and less than 1")]
Seconds: TypeAlias = Annotated[
    float, must(lambda seconds: 0 < seconds < float("inf"), "a number of seconds, more than 0")
]
Size: TypeAlias = Annotated[
    tuple[Count, Count],
    must(
        lambda value: isinstance(value, list | tuple) and len(value) == 2,
        "width and height, such as [224, 224]",
        "before",
    ),
]
"""Width and height, in the order in which OpenCV and Keras' users say them."""
Interval: TypeAlias = Annotated[
    tuple[float, float],
    must(
        lambda value: isinstance(value, list | tuple) and len(value) == 2, "least and most, such as [0.08, 1]", "before"
    ),
    must(lambda ends: 0 < ends[0] <= ends[1] < float("inf"), "least and most, both more than 0, the least first"),
]
"""The least and the most of what is drawn."""
ColumnNames: TypeAlias = Annotated[tuple[str, ...], before(one_or_several)]
"""None or more."""
Names: TypeAlias = Annotated[tuple[str, ...], before(one_or_several), _SOME]
"""One or more."""
Some: TypeAlias = Annotated[tuple[str, ...], _SOME]
"""One or more, as a list only."""
FileName: TypeAlias = Annotated[str, must(bool, "a text of at least one letter")]
FolderName: TypeAlias = Annotated[
    str, must(lambda text: not {"", ".", ".."} & set(text.split("/")), "the name of a folder below it")
]
NameOrNone: TypeAlias = Annotated[FileName | None, _NONE_FOR_FALSE]
"""A file's name; `false` for none."""
FieldOrNone: TypeAlias = Annotated[str | None, _NONE_FOR_FALSE]
"""The name of a field; `false` for none."""
AbsolutePath: TypeAlias = Annotated[Path, after(lambda path: path.expanduser().absolute())]
"""Made absolute where it was written. Not resolved: a link that points at another release later must stay a link."""
Arrays: TypeAlias = Annotated[dict[str, FileName], _SOME]
"""The name in its file of the array that is each column."""
Codes: TypeAlias = Annotated[
    dict[str, tuple[str, ...]],
    before(lambda value: dict.fromkeys(value, ()) if isinstance(value, list | tuple) else value),
]
"""`codes = ["species"]`, or with the names by their numbers: `codes = {species = ["setosa", "virginica"]}`."""
Slices: TypeAlias = dict[str, Annotated[str, after(check_form)]]
"""`start:stop` or an `.npy` of sample ids for each view; empty: as the data itself is parted, or all as `train`."""
FilesById: TypeAlias = Annotated[
    dict[str, Annotated[str, _names_a_file("{id}", ARRAYS, "{id}.npz or {id}_x.npy")]] | None, _ONE_FOR_ALL
]
"""How the files of samples are named, by column, or for all columns under the empty name."""
FilesBySubject: TypeAlias = Annotated[
    dict[str, Annotated[str, _names_a_file("{subject}", ARRAYS, "{subject}.npz or {subject}_x.npy")]] | None,
    _ONE_FOR_ALL,
]
"""The same of subjects."""
ImageFiles: TypeAlias = Annotated[str, _names_a_file("{id}", ("",), "{id}.jpg")]
"""How images' files are named."""
Code: TypeAlias = Annotated[
    str, must(is_object_name, 'module:function, such as "my_transforms:brighten" for brighten in my_transforms.py')
]
"""`module:function`."""
ObjectName: TypeAlias = Annotated[
    str, must(is_object_name, 'module:name, such as "my_classes:training_generator" for my_classes.py')
]
"""`module:name`."""
ImageViews: TypeAlias = Annotated[
    dict[str, FileName],
    _all_alike(
        lambda text: text.endswith(MANIFESTS),
        lambda text: "the name of a manifest, .json or .csv; or of one manifest",
        "either a manifest for each view, or a part of one manifest for each",
    ),
]
"""A manifest for each view, or a part of the only one."""
ObjectViews: TypeAlias = Annotated[
    dict[str, str],
    _all_alike(
        is_object_name,
        lambda text: f"module:name, such as my_classes:{text}; or of one object",
        "either an object for each view, or object = … and a part of it for each",
    ),
]
"""`module:name` for each view, or a part of the only object."""
