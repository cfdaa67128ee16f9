"""What an operator may write about a dataset in loader.toml: one class a kind of data, told apart by `kind`.

A declaration is a frozen value that can be pickled, because the front hands it to worker processes. It is checked in
form only: whether the files answer to it is found when the dataset is opened. A new kind is a class here and a module
of its name in sources/kinds/.
"""

from __future__ import annotations  # a worker, which only receives values, evaluates none of them

from collections.abc import Iterable
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from feedline_server.declared.forms import (
    ONLY_OTHER,
    AbsolutePath,
    Arrays,
    Codes,
    ColumnNames,
    Contradiction,
    Count,
    FieldOrNone,
    FileName,
    FilesById,
    FilesBySubject,
    FolderName,
    ImageFiles,
    ImageViews,
    NameOrNone,
    Names,
    ObjectName,
    ObjectViews,
    OneOf,
    Seconds,
    Share,
    Size,
    Slices,
    Some,
    Table,
    Whole,
    is_object_name,
    must,
)
from feedline_server.declared.transforms import Filter, Interpolation, TransformConfig

MAX_PIXELS = 89_478_485
"""A quarter of a gigabyte as RGB, from where on Pillow speaks of decompression bombs; cameras have fewer."""

ColorMode: TypeAlias = Literal["rgb", "bgr", "grayscale", "rgba"]
Bits: TypeAlias = Literal[8, 16]


class Declaration(Table):
    """What every kind of dataset can say. `path` is made absolute; other file names are relative to it."""

    path: AbsolutePath
    inputs: Names | None = None
    """Columns that make up a batch's inputs; None: found by their names."""
    targets: ColumnNames | None = None
    """Columns that make up its targets; None: found by their names, an empty tuple: none."""
    sample_weight: str | None = None
    """The column of sample weights, as a batch's third part."""
    validation_split: Share | None = None
    """The share of `train` that is the view `validation` instead, by the hash of each sample's identity."""
    validation_seed: Whole = 0
    """Another draws other samples for it."""
    filters: tuple[Filter, ...] = ()
    """Which samples the views keep."""
    categories: dict[str, Some] = field(default_factory=dict)
    """What the numbers in a column stand for, by column: the name of number 0, of number 1 and so on."""
    transforms: tuple[TransformConfig, ...] = ()
    """What is done to samples, one after the other."""
    nan: Literal["allow", "error"] = "allow"
    """Whether a sample in which something is not a number is a bad one."""
    on_bad_sample: Literal["error", "skip", "substitute"] = "error"
    """What becomes of a batch with a sample that cannot be read or transformed."""
    trust: Literal["size+mtime"] | None = None
    """What of a file's status shows that it is the one that was opened; None: its inode and change time too."""
    start_timeout_s: Seconds = 600.0
    """Opening, or importing and building, may take so long. Who reads gigabytes needs minutes; longer is a hang."""
    modules: AbsolutePath | None = None
    """The folder where modules of `code` are looked for first; in loader.toml its own folder is the default."""
    kind: str

    version: ClassVar[int] = 1
    """Raised when the same files and the same table mean other samples: see batches/fingerprint."""
    meant: ClassVar[tuple[str, ...]] = ()
    """Fields that decide what is in a batch and show in neither its columns nor its views: part of the fingerprint."""

    @property
    def meaning(self) -> dict[str, object]:
        """What two of the same dataset have in common of what is declared: kind and version, and what is set."""
        meant = {
            name: value for name, value in self.set_fields().items() if name in {*self.meant, "nan", "on_bad_sample"}
        }
        if self.transforms:
            meant["transforms"] = [transform.meaning for transform in self.transforms]
        if self.filters:
            meant["filters"] = [one.meaning for one in self.filters]
        return {"kind": self.kind, "version": self.version, **meant}

    def at(self, path: Path) -> Self:
        """The same, of files that lie there."""
        self.fields()  # of a class that is a dataclass by now
        return replace(self, path=path)

    @property
    def code_folders(self) -> tuple[Path, ...]:
        """Where modules of the operator's code are looked for, before what is installed."""
        folders = [self.modules, self.path if self.path.is_dir() else self.path.parent, Path.cwd()]
        return tuple(dict.fromkeys(folder for folder in folders if folder is not None))


class ColumnsConfig(Declaration):
    """A folder of `.npy` files, one a column, or of sub-folders of them, one a view."""

    kind: Literal["columns"] = "columns"
    views: Slices = field(default_factory=dict)


class IdFilesConfig(Declaration):
    """A folder of files named by ids, with a partition (view: ids) and labels (id: class)."""

    kind: Literal["id_files"] = "id_files"
    data: FileName | None = None
    """Folder of the files; None: the sub-folder `data` if there is one, else the folder itself."""
    files: FilesById = None
    """How they are named, by column, or for all columns under the empty name; None: `{id}.npy` or `{id}.npz`."""
    arrays: Arrays | None = None
    """The arrays in a file that are meant; None: all."""
    partition: FileName = "partition.json"
    labels: NameOrNone = "labels.json"
    """None: there are no labels beside the files."""
    one_hot: bool = False
    """Labels as float32 vectors instead of int64 numbers."""
    classes: Count | None = None
    """How many classes there are; None: as many as the labels show."""
    follow_links: bool = False
    """Ids may lead to links out of the folder."""

    meant: ClassVar[tuple[str, ...]] = ("one_hot",)


class ImageForm(Declaration):
    """How images come out, of every kind of dataset that may be of images."""

    size: Size | None = None
    """Resized to this; None: as they are, which must be alike."""
    color_mode: ColorMode = "rgb"
    """Channels and their order."""
    interpolation: Interpolation = "linear"
    """How they are resized; OpenCV's names."""
    bits: Bits = 8
    """Of a value: uint8 or uint16."""
    decode: Literal["full", "reduced"] = "full"
    """`reduced`: a JPEG that is at least twice `size` is decoded smaller, which is faster and gives other pixels."""
    max_pixels: Count = MAX_PIXELS
    """Of a file. What says that it has more is not decoded."""

    def __post_init__(self) -> None:
        if self.decode == "reduced" and self.size is None:
            raise Contradiction('has decode = "reduced" and no size to decode for; say size = [width, height]')
        if self.decode == "reduced" and self.bits != 8:
            raise Contradiction(f'has decode = "reduced" and bits = {self.bits}; JPEG has 8, leave one of them out')

    @property
    def set_image_fields(self) -> list[str]:
        """The keys of images that are not at their defaults."""
        own = {one.name for one in ImageForm.fields()} - {one.name for one in Declaration.fields()}
        return sorted(own & self.set_fields().keys())


class ClassFoldersConfig(ImageForm):
    """A folder of files for each class, or such folders for each view."""

    kind: Literal["class_folders"] = "class_folders"
    of: Literal["arrays", "images"] | None = None
    """Which files are meant; None: what there is, if there is not both."""
    classes: Annotated[tuple[FolderName, ...], must(bool, "at least one")] | None = None
    """The classes by their numbers; None: all sub-folders, sorted."""
    one_hot: bool = False
    """Labels as float32 vectors instead of int64 numbers."""
    arrays: Arrays | None = None
    """The arrays in a file that are meant; None: all."""
    views: dict[str, FolderName] = field(default_factory=dict)
    """The folder of class folders for each view; empty: the class folders are right here."""
    follow_links: bool = False
    """Files and folders may be links out of the folder."""

    version: ClassVar[int] = 2
    """2: validation_split draws, as for every kind; it took the first files of each class."""
    meant: ClassVar[tuple[str, ...]] = ("one_hot", "decode")


class ImagesConfig(ImageForm):
    """Images that a manifest lists, with the class of each."""

    kind: Literal["images"] = "images"
    manifest: FileName | None = None
    """The list; None: `manifest.json` or `manifest.csv`, unless views name manifests."""
    image: FileName = "image_id"
    """The field with an image's file, or with the id that is in its name."""
    label: FieldOrNone = ONLY_OTHER
    """The field with its class; None: there are no classes; empty: the only other field."""
    data: FileName | None = None
    """Folder of the files; None: the sub-folder `images` if there is one, else the folder itself."""
    files: ImageFiles = "{id}"
    """How files are named."""
    classes: Count | Some | None = None
    """How many classes there are, or their names by number; None: what the manifest shows."""
    one_hot: bool = False
    """Labels as float32 vectors instead of int64 numbers."""
    regression: bool = False
    """Labels are numbers to predict, float32, and no classes."""
    views: ImageViews = field(default_factory=dict)
    """A manifest for each view, or, of the only one, `start:stop` or an `.npy` of places in it."""
    split: FileName | None = None
    """The field with the view that an image belongs to."""
    follow_links: bool = False
    """Files may be links out of the folder."""

    version: ClassVar[int] = 2
    """2: labels such as 2.0 are the number 2, not names that are sorted; validation_split draws, as for every kind."""
    meant: ClassVar[tuple[str, ...]] = ("one_hot", "regression", "decode")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regression and (self.classes is not None or self.one_hot):
            both = "one_hot" if self.one_hot else "classes"
            raise Contradiction(f"has both regression and {both}; numbers to predict are no classes, leave one out")


class SubjectsConfig(Declaration):
    """A folder of big files, one or a few a subject: rows in time order, and their labels."""

    kind: Literal["subjects"] = "subjects"
    files: FilesBySubject = None
    """How they are named, by column, or for all columns under the empty name; None: told from the names."""
    arrays: Arrays | None = None
    """The arrays in a file that are meant; None: all."""
    window: Count | None = None
    """Rows that make up a sample; None: each row is one."""
    stride: Count | None = None
    """Rows from the beginning of one window to the next; None: 1."""
    views: dict[str, Names] = field(default_factory=dict)
    """The subjects of each view: names, patterns, or `!` and what is left out; empty: everything as `train`."""

    meant: ClassVar[tuple[str, ...]] = ("window", "stride")


class SequencesConfig(Declaration):
    """Sequences of different length: `.npy` files of all their steps end to end, and one that says where each ends."""

    kind: Literal["sequences"] = "sequences"
    lengths: FileName | None = None
    """The file with the steps of each sequence; None: `lengths.npy`, if there is no file of offsets."""
    offsets: FileName | None = None
    """The file with the first step of each sequence, and the end; None: `offsets.npy`, if there is one."""
    steps: Names | None = None
    """Columns that have a row a step; None: those that are as long as all sequences together."""
    views: Slices = field(default_factory=dict)


class TableForm(Declaration):
    """What is said about the columns of files that may hold text."""

    arrays: Arrays | None = None
    """Those that are meant, by the names that they have here; None: all."""
    drop: ColumnNames = ()
    """Those that are left out."""
    codes: Codes = field(default_factory=dict)
    """Columns of text that become numbers: the names by number, or none, if they are those of the data, sorted."""
    views: Slices = field(default_factory=dict)

    meant: ClassVar[tuple[str, ...]] = ("codes",)

    def __post_init__(self) -> None:
        if self.arrays is not None and self.drop:
            raise Contradiction("has both arrays and drop; name the columns that are meant, or those that are not")


class Hdf5Config(TableForm):
    """Columns in an HDF5 file, which is the path or the only one in it: datasets, or groups of them, one a view."""

    kind: Literal["hdf5"] = "hdf5"


class ArrowConfig(TableForm):
    """Columns of an Arrow or Parquet file, or of all such files in a folder, one after the other."""

    kind: Literal["arrow"] = "arrow"
    fill: dict[str, bool | int | float | str] = field(default_factory=dict)
    """What stands where a column has no value."""
    units: dict[str, Literal["D", "s", "ms", "us", "ns"]] = field(default_factory=dict)
    """In what dates, times and durations are counted."""

    meant: ClassVar[tuple[str, ...]] = ("codes", "fill", "units")


class PythonConfig(Declaration):
    """An object of the operator's own code, or a function that makes one; `path` is the folder of its module."""

    kind: Literal["python"] = "python"
    object: ObjectName | None = None
    """`module:name` of what is served as `train`, or parted by `views`; None: `views` names an object for each view."""
    views: ObjectViews = field(default_factory=dict)
    """`module:name` for each view, or, of a single object, `start:stop` or an `.npy` of sample ids."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What functions and classes are called with."""
    drop: ColumnNames = ()
    """Parts of what the code returns that are left out, by path: `1` is the second of a tuple, `0.name` a key in it."""
    batched: bool | None = None
    """Whether `object[i]` is a ready batch; None: so if it is a Keras Sequence or has an `on_epoch_end`."""
    steps_per_epoch: Count | None = None
    """Batches that make up an epoch of a generator."""
    deterministic: bool = True
    """Samples are the same when they are read again, their random numbers seeded alike; checked at the start."""

    meant: ClassVar[tuple[str, ...]] = ("batched", "drop", "steps_per_epoch", "deterministic")

    @property
    def meaning(self) -> dict[str, Any]:  # `object` is a field here
        """As of every declaration, and the arguments but for those that are paths, which differ from host to host."""
        meant = {name: value for name, value in self.arguments.items() if not (isinstance(value, str) and "/" in value)}
        return {**super().meaning, **({"arguments": meant} if meant else {})}

    def __post_init__(self) -> None:
        if self.object is None and not any(map(is_object_name, self.views.values())):
            raise Contradiction('names no object; say object = "module:name", or views.train = …')
        if self.object is not None and is_object_name(self.views.get("train", "")):
            raise Contradiction("has both object and views.train, which is the same view; say one of them")

    @property
    def objects(self) -> dict[str, str]:
        """The object of each view; one for all, under `train`, where views are parts of it."""
        objects = {view: text for view, text in self.views.items() if is_object_name(text)}
        return objects if self.object is None else {"train": self.object, **objects}

    @property
    def parts(self) -> dict[str, str]:
        """The part of the only object that each view is; empty: everything."""
        return {view: text for view, text in self.views.items() if not is_object_name(text)}


KINDS: dict[str, type[Declaration]] = {
    "columns": ColumnsConfig,
    "id_files": IdFilesConfig,
    "class_folders": ClassFoldersConfig,
    "images": ImagesConfig,
    "subjects": SubjectsConfig,
    "sequences": SequencesConfig,
    "hdf5": Hdf5Config,
    "arrow": ArrowConfig,
    "python": PythonConfig,
}
"""Every kind by its name in loader.toml, which is the name of its module in sources/kinds/."""

DatasetConfig: TypeAlias = Annotated[Declaration, OneOf(KINDS, "kind")]
"""Any kind of dataset."""


def kind_of(keys: Iterable[str]) -> str | None:
    """The kind that most of these keys belong to; None if that is so of several kinds, or of none."""
    common = {one.name for one in Declaration.fields()}
    own = set(keys) - common
    if not own:
        return None
    fits = {kind: len(own & {one.name for one in declaration.fields()}) for kind, declaration in KINDS.items()}
    most = max(fits.values())
    kinds = [kind for kind, fit in fits.items() if fit == most]
    if len(kinds) > 1 and "images" in kinds:  # it shares keys with most kinds, and has those of a manifest of its own
        kinds.remove("images")
    return kinds[0] if len(kinds) == 1 else None
