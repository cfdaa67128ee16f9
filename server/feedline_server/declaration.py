"""What an operator may say about a dataset: one class a kind of data, told apart by `kind`.

The law: a declaration is a plain value that survives JSON, because the front hands it to worker processes, and it
is checked in form only. Whether the files answer to it is found when the dataset is opened.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from feedline_server.sources.selection import check_form


def _one_or_several(value: object) -> object:
    """`inputs = "x"` says the same as `inputs = ["x"]`."""
    return (value,) if isinstance(value, str) else value


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


ColumnNames: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_one_or_several)]
Count: TypeAlias = Annotated[int, BeforeValidator(_not_a_flag), Field(ge=1)]
FileName: TypeAlias = Annotated[str, Field(min_length=1)]


class Declaration(BaseModel):
    """What every kind of dataset can say. `path` is made absolute; other file names are relative to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[Path, AfterValidator(_absolute)]
    inputs: Annotated[ColumnNames, Field(min_length=1)] | None = None
    """Columns that make up a batch's inputs; None: found by their names."""
    targets: ColumnNames | None = None
    """Columns that make up its targets; None: found by their names, an empty tuple: none."""
    sample_weight: str | None = None
    """The column of sample weights, as a batch's third part."""

    says: ClassVar[frozenset[str]] = frozenset({"kind"})
    """Fields that decide what is in a batch and show in neither its columns nor its views: part of the fingerprint."""

    @property
    def meaning(self) -> dict[str, object]:
        """The fields of `says`: what two declarations of the same dataset must have in common."""
        return self.model_dump(mode="json", include=set(self.says))


class ColumnsConfig(Declaration):
    """A folder of `.npy` files, one a column, or of sub-folders of them, one a view."""

    kind: Literal["columns"] = "columns"
    views: dict[str, Annotated[str, AfterValidator(_view_form)]] = Field(default_factory=dict)
    """`start:stop` or an `.npy` of sample ids for each view; empty: the sub-folders, or everything as `train`."""


class IdFilesConfig(Declaration):
    """A folder of `ID.npy` files with a partition (view: ids) and labels (id: class)."""

    kind: Literal["id_files"] = "id_files"
    data: FileName | None = None
    """Folder of the `ID.npy` files; None: the sub-folder `data` if there is one, else the folder itself."""
    partition: FileName = "partition.json"
    labels: FileName = "labels.json"
    one_hot: bool = False
    """Labels as float32 vectors instead of int64 numbers."""
    classes: Count | None = None
    """How many classes there are; None: as many as the labels show."""

    says: ClassVar[frozenset[str]] = frozenset({"kind", "one_hot"})


DatasetConfig: TypeAlias = Annotated[ColumnsConfig | IdFilesConfig, Field(discriminator="kind")]
"""Any kind of dataset."""

KINDS: dict[str, type[Declaration]] = {"columns": ColumnsConfig, "id_files": IdFilesConfig}
"""Every kind by its name in loader.toml."""


_ANY: TypeAdapter[DatasetConfig] = TypeAdapter(DatasetConfig)


def to_json(config: DatasetConfig) -> str:
    """The declaration as the front hands it to a worker."""
    return config.model_dump_json()


def from_json(text: str | bytes) -> DatasetConfig:
    """The declaration as a worker receives it."""
    return _ANY.validate_json(text)


def kind_of(said: Iterable[str]) -> str | None:
    """The kind that some of these keys belong to alone; None if they fit several kinds, or none."""
    keys = set(said) - set(Declaration.model_fields)
    kinds = [kind for kind, declaration in KINDS.items() if keys & set(declaration.model_fields)]
    return kinds[0] if len(kinds) == 1 else None
