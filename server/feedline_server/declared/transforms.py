"""What an operator may write about transforms and filters in loader.toml. (What they do: the room transforms/.)

Frozen values that are checked in form only. What a transform makes of a dataset's columns is found when the dataset is
opened.
"""

from __future__ import annotations  # a worker, which only receives values, evaluates none of them

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from feedline_server.declared.forms import (
    Code,
    Contradiction,
    Count,
    FileName,
    Interval,
    Names,
    Numbers,
    OneOf,
    Size,
    Table,
    Whole,
    before,
    must,
    one_column,
)
from feedline_wire.errors import DataError

if TYPE_CHECKING:
    from feedline_wire.elementwise import Elementwise

Interpolation: TypeAlias = Literal["nearest", "linear", "area", "cubic"]


class Transform(Table):
    """What every transform can say."""

    name: str
    columns: Names | None
    """The columns it changes; `column` is the same of one. None: all, which only code can say."""
    views: Names | None = None
    """The views it is for; None: all."""

    version: ClassVar[int] = 1
    """Raised when the same table makes other values of the same samples: see batches/fingerprint."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Fields that hold paths: the fingerprint has what is in the files instead."""

    @property
    def key(self) -> str:
        """What messages and random numbers call it: its name, or its function."""
        return self.name

    @property
    def meaning(self) -> dict[str, object]:
        """What two of the same dataset have in common: its name, its version, and what is set."""
        return {"name": self.name, "version": self.version, **self.set_fields("name", *self.paths)}


class ColumnTransform(Transform):
    """What changes columns that are named."""

    columns: Names


class ElementwiseTransform(ColumnTransform):
    """Value by value; with `late` the trainer does it."""

    late: bool = False

    @property
    def operation(self) -> Elementwise:
        """What is done to a value: the wire's operation of the same name, with the same fields."""
        from feedline_wire import elementwise  # for those who have any

        kind = getattr(elementwise, type(self).__name__.removesuffix("Transform"))
        operation: Elementwise = kind(**{field.name: getattr(self, field.name) for field in fields(kind)})
        return operation

    def __post_init__(self) -> None:
        try:
            _ = self.operation
        except DataError as error:
            raise Contradiction(str(error)) from error


class CastTransform(ElementwiseTransform):
    """Another dtype."""

    name: Literal["cast"] = "cast"
    dtype: str


class ScaleTransform(ElementwiseTransform):
    """x * factor / divide_by + offset."""

    name: Literal["scale"] = "scale"
    factor: float = 1.0
    divide_by: float = 1.0
    offset: float = 0.0
    dtype: str = "float32"


class NormaliseTransform(ElementwiseTransform):
    """(x - mean) / std; one number, or one for each place on the last axis."""

    name: Literal["normalise"] = "normalise"
    mean: Numbers
    std: Numbers
    dtype: str = "float32"


class OneHotTransform(ElementwiseTransform):
    """Class numbers as vectors."""

    name: Literal["one_hot"] = "one_hot"
    classes: Count
    dtype: str = "float32"


class PadTransform(ColumnTransform):
    """Zeros behind each sample, up to `length` steps."""

    name: Literal["pad"] = "pad"
    length: Count


class TruncateTransform(ColumnTransform):
    """At most `length` steps of each sample."""

    name: Literal["truncate"] = "truncate"
    length: Count
    keep: Literal["first", "last"] = "first"


class EmbedTransform(ColumnTransform):
    """Each number becomes its row of a table."""

    name: Literal["embed"] = "embed"
    table: FileName
    """An `.npy` with a row for each number, relative to the dataset's path."""

    paths: ClassVar[tuple[str, ...]] = ("table",)


class ResizeTransform(ColumnTransform):
    """Images of another size."""

    name: Literal["resize"] = "resize"
    size: Size
    interpolation: Interpolation = "linear"


class CropTransform(ColumnTransform):
    """The middle of each image."""

    name: Literal["crop"] = "crop"
    size: Size


class RandomCropTransform(ColumnTransform):
    """A part of each image, drawn anew every epoch; all columns lose the same."""

    name: Literal["random_crop"] = "random_crop"
    size: Size
    padding: Whole = 0
    """Zeros on each side before it is cropped."""


class RandomResizedCropTransform(ColumnTransform):
    """A part of each image, of a size and shape of its own, resized; drawn anew every epoch, all columns alike."""

    name: Literal["random_resized_crop"] = "random_resized_crop"
    size: Size
    scale: Annotated[Interval, must(lambda ends: ends[1] <= 1, "at most 1, which is the whole image")] = (0.08, 1.0)
    """How much of an image's area the part has."""
    ratio: Interval = (3 / 4, 4 / 3)
    """The part's width by its height."""
    interpolation: Interpolation = "linear"


class RandomFlipTransform(ColumnTransform):
    """Each image mirrored with a probability of one half, drawn anew every epoch; all columns alike."""

    name: Literal["random_flip"] = "random_flip"
    horizontal: bool = True
    vertical: bool = False

    def __post_init__(self) -> None:
        if not (self.horizontal or self.vertical):
            raise Contradiction("flips neither way; say horizontal = true or vertical = true")


class StackTransform(ColumnTransform):
    """Columns of single numbers, or of vectors, side by side as one."""

    name: Literal["stack"] = "stack"
    into: str = "x"
    """What the new column is called; the others are there no more."""
    dtype: Literal["float32", "float64"] = "float32"


class CodeTransform(Transform):
    """A function of the operator's own."""

    name: Literal["code"] = "code"
    columns: Names | None = None
    """None: the function has samples as mappings of all."""
    code: Code
    per: Literal["sample", "batch"] = "sample"
    varies: bool = False
    """What it returns differs in its first dimension from sample to sample."""

    @property
    def key(self) -> str:
        """See Transform."""
        return self.code


TRANSFORMS: dict[str, type[Transform]] = {
    "cast": CastTransform,
    "scale": ScaleTransform,
    "normalise": NormaliseTransform,
    "one_hot": OneHotTransform,
    "pad": PadTransform,
    "truncate": TruncateTransform,
    "embed": EmbedTransform,
    "resize": ResizeTransform,
    "crop": CropTransform,
    "random_crop": RandomCropTransform,
    "random_resized_crop": RandomResizedCropTransform,
    "random_flip": RandomFlipTransform,
    "stack": StackTransform,
    "code": CodeTransform,
}
"""Every transform by its name in loader.toml; `code` needs none, it is told by its key."""


def _named(value: Any) -> str | None:  # noqa: ANN401  # nothing is checked yet
    if isinstance(value, dict):
        name = value.get("name", "code" if "code" in value else None)
        return name if isinstance(name, str) else None
    return getattr(value, "name", None)


TransformConfig: TypeAlias = Annotated[
    Transform,
    OneOf(
        TRANSFORMS,
        _named,
        one_column,
        f"is no transform; wanted name = one of {', '.join(TRANSFORMS)}, or code = a function",
    ),
]
"""Any transform."""


class FilterConfig(Table):
    """Which samples the views keep: decided once, when the dataset is opened."""

    columns: Names
    """The columns that are read for it; `column` is the same of one."""
    one_of: Annotated[tuple[bool | int | float, ...], must(bool, "at least one")] | None = None
    """Kept is what has one of these values; `is` in loader.toml."""
    code: Code | None = None
    """Kept is what this function of the columns of one sample says yes to."""
    views: Names | None = None
    """The views it is for; None: all."""

    def __post_init__(self) -> None:
        if (self.one_of is None) == (self.code is None):
            raise Contradiction('says not which samples to keep; give is = [0, 1] or code = "module:function"')
        if self.one_of is not None and len(self.columns) > 1:
            raise Contradiction("is = […] is about one column; give each its own filter")

    @property
    def meaning(self) -> dict[str, object]:
        """What two of the same dataset have in common: what is set."""
        return self.set_fields()


def _usual_keys(values: object) -> object:
    values = one_column(values)
    if isinstance(values, dict) and "is" in values:
        return {("one_of" if key == "is" else key): value for key, value in values.items()}
    return values


Filter: TypeAlias = Annotated[FilterConfig, before(_usual_keys)]
"""As it is written: with `column`, and `is`."""
