"""What an operator may say about transforms, filters and bad samples.

The law: as of a declaration, a plain value that survives JSON and is checked in form only. What a transform makes of a
dataset's columns is found when the dataset is opened.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from feedline_wire.elementwise import Cast, Elementwise, Normalise, OneHot, Scale
from feedline_wire.errors import DataError

SAID = "said"
"""The kind of a validation error whose message says everything itself."""

CODE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def one_or_several(value: object) -> object:
    """`columns = "x"` says the same as `columns = ["x"]`."""
    return (value,) if isinstance(value, str) else value


def _numbers(value: object) -> object:
    """`mean = 0.5` says the same as `mean = [0.5]`."""
    return (value,) if isinstance(value, int | float) else value


def _not_a_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a whole number")  # noqa: TRY004 - pydantic reports a ValueError, not a TypeError
    return value


def _code(text: str) -> str:
    if not CODE.fullmatch(text):
        raise ValueError('module:function, such as "my_transforms:brighten" for brighten in my_transforms.py')
    return text


Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(one_or_several), Field(min_length=1)]
Whole: TypeAlias = Annotated[int, BeforeValidator(_not_a_flag), Field(ge=0)]
Count: TypeAlias = Annotated[int, BeforeValidator(_not_a_flag), Field(ge=1)]
Size: TypeAlias = tuple[Count, Count]
"""Width and height, as OpenCV and Keras' users say it."""
Code: TypeAlias = Annotated[str, AfterValidator(_code)]
Numbers: TypeAlias = Annotated[tuple[float, ...], BeforeValidator(_numbers), Field(min_length=1)]


class Transform(BaseModel):
    """What every transform can say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: Names
    """The columns it changes; `column` says the same of one."""
    views: Names | None = None
    """The views it is for; None: all."""

    unmeant: ClassVar[frozenset[str]] = frozenset()
    """Fields that hold paths: the fingerprint has what is in the files instead."""

    @model_validator(mode="before")
    @classmethod
    def _one_column(cls, values: object) -> object:
        if isinstance(values, dict) and "column" in values:
            if "columns" in values:
                raise PydanticCustomError(SAID, "has both column and columns; say one of them")
            values = {**values, "columns": values["column"]}
            del values["column"]
        return values

    @property
    def meaning(self) -> dict[str, object]:
        """What two of the same dataset must have in common."""
        return self.model_dump(mode="json", exclude=set(self.unmeant), exclude_none=True)


class ElementwiseTransform(Transform):
    """Value by value; with `late` the trainer does it."""

    late: bool = False

    @property
    def operation(self) -> Elementwise:
        """What is done to a value."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _makes_sense(self) -> "ElementwiseTransform":
        try:
            _ = self.operation
        except DataError as error:
            raise PydanticCustomError(SAID, "{said}", {"said": str(error)}) from error
        return self


class CastTransform(ElementwiseTransform):
    """Another dtype."""

    name: Literal["cast"] = "cast"
    dtype: str

    @property
    def operation(self) -> Cast:
        """See ElementwiseTransform."""
        return Cast(self.dtype)


class ScaleTransform(ElementwiseTransform):
    """x * factor / divide_by + offset."""

    name: Literal["scale"] = "scale"
    factor: float = 1.0
    divide_by: float = 1.0
    offset: float = 0.0
    dtype: str = "float32"

    @property
    def operation(self) -> Scale:
        """See ElementwiseTransform."""
        return Scale(self.factor, self.divide_by, self.offset, self.dtype)


class NormaliseTransform(ElementwiseTransform):
    """(x - mean) / std; one number, or one for each place on the last axis."""

    name: Literal["normalise"] = "normalise"
    mean: Numbers
    std: Numbers
    dtype: str = "float32"

    @property
    def operation(self) -> Normalise:
        """See ElementwiseTransform."""
        return Normalise(self.mean, self.std, self.dtype)


class OneHotTransform(ElementwiseTransform):
    """Class numbers as vectors."""

    name: Literal["one_hot"] = "one_hot"
    classes: Count
    dtype: str = "float32"

    @property
    def operation(self) -> OneHot:
        """See ElementwiseTransform."""
        return OneHot(self.classes, self.dtype)


class PadTransform(Transform):
    """Zeros behind each sample, up to `length` steps."""

    name: Literal["pad"] = "pad"
    length: Count


class TruncateTransform(Transform):
    """At most `length` steps of each sample."""

    name: Literal["truncate"] = "truncate"
    length: Count
    keep: Literal["first", "last"] = "first"


class EmbedTransform(Transform):
    """Each number becomes its row of a table."""

    name: Literal["embed"] = "embed"
    table: Annotated[str, Field(min_length=1)]
    """An `.npy` with a row for each number, relative to the dataset's path."""

    unmeant: ClassVar[frozenset[str]] = frozenset({"table"})


class ResizeTransform(Transform):
    """Images of another size."""

    name: Literal["resize"] = "resize"
    size: Size
    interpolation: Literal["nearest", "linear", "area", "cubic"] = "linear"


class CropTransform(Transform):
    """The middle of each image."""

    name: Literal["crop"] = "crop"
    size: Size


class RandomCropTransform(Transform):
    """A part of each image, drawn anew every epoch; all columns lose the same."""

    name: Literal["random_crop"] = "random_crop"
    size: Size
    padding: Whole = 0
    """Zeros on each side before it is cropped."""


class RandomFlipTransform(Transform):
    """Each image mirrored with a probability of one half, drawn anew every epoch; all columns alike."""

    name: Literal["random_flip"] = "random_flip"
    horizontal: bool = True
    vertical: bool = False

    @model_validator(mode="after")
    def _flips(self) -> "RandomFlipTransform":
        if not (self.horizontal or self.vertical):
            raise PydanticCustomError(SAID, "flips neither way; say horizontal = true or vertical = true")
        return self


class CodeTransform(Transform):
    """A function of the operator's own."""

    name: Literal["code"] = "code"
    columns: Names | None = None  # type: ignore[assignment]  # None: the function has samples as mappings of all
    code: Code
    per: Literal["sample", "batch"] = "sample"
    varies: bool = False
    """What it returns differs in its first dimension from sample to sample."""


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
    "random_flip": RandomFlipTransform,
    "code": CodeTransform,
}
"""Every transform by its name in loader.toml; `code` needs none, it is told by its key."""


def _named(value: Any) -> str | None:  # noqa: ANN401  # nothing is checked yet
    if isinstance(value, dict):
        name = value.get("name", "code" if "code" in value else None)
        return name if isinstance(name, str) else None
    return getattr(value, "name", None)


TransformConfig: TypeAlias = Annotated[
    Annotated[CastTransform, Tag("cast")]
    | Annotated[ScaleTransform, Tag("scale")]
    | Annotated[NormaliseTransform, Tag("normalise")]
    | Annotated[OneHotTransform, Tag("one_hot")]
    | Annotated[PadTransform, Tag("pad")]
    | Annotated[TruncateTransform, Tag("truncate")]
    | Annotated[EmbedTransform, Tag("embed")]
    | Annotated[ResizeTransform, Tag("resize")]
    | Annotated[CropTransform, Tag("crop")]
    | Annotated[RandomCropTransform, Tag("random_crop")]
    | Annotated[RandomFlipTransform, Tag("random_flip")]
    | Annotated[CodeTransform, Tag("code")],
    Discriminator(
        _named,
        custom_error_type=SAID,
        custom_error_message=f"is no transform; wanted name = one of {', '.join(TRANSFORMS)}, or code = a function",
    ),
]
"""Any transform."""


class FilterConfig(BaseModel):
    """Which samples the views keep: decided once, when the dataset is opened."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    columns: Names
    """The columns that are read for it; `column` says the same of one."""
    one_of: Annotated[tuple[bool | int | float, ...], Field(min_length=1)] | None = Field(None, alias="is")
    """Kept is what has one of these values."""
    code: Code | None = None
    """Kept is what this function of the columns of one sample says yes to."""
    views: Names | None = None
    """The views it is for; None: all."""

    @model_validator(mode="before")
    @classmethod
    def _one_column(cls, values: object) -> object:
        return Transform._one_column(values)  # type: ignore[operator]  # a classmethod under the validator

    @model_validator(mode="after")
    def _says_which(self) -> "FilterConfig":
        if (self.one_of is None) == (self.code is None):
            raise PydanticCustomError(
                SAID, 'says not which samples to keep; give is = [0, 1] or code = "module:function"'
            )
        if self.one_of is not None and len(self.columns) > 1:
            raise PydanticCustomError(SAID, "is = […] is about one column; give each its own filter")
        return self
