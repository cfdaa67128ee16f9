"""Which module opens which kind of data."""

from typing import assert_never

from feedline_server.declaration import (
    ArrowConfig,
    ClassFoldersConfig,
    ColumnsConfig,
    DatasetConfig,
    Hdf5Config,
    IdFilesConfig,
    SubjectsConfig,
)
from feedline_server.sources.arrow_columns import open_arrow
from feedline_server.sources.class_folders import open_class_folders
from feedline_server.sources.columns import open_columns
from feedline_server.sources.hdf5_columns import open_hdf5
from feedline_server.sources.id_files import open_id_files
from feedline_server.sources.source import Opened
from feedline_server.sources.subjects import open_subjects


def open_source(config: DatasetConfig, *, checked: bool) -> Opened:
    """The source that a declaration means, opened; DataError if the files do not answer to it."""
    match config:
        case ColumnsConfig():
            return open_columns(config, checked=checked)
        case IdFilesConfig():
            return open_id_files(config, checked=checked)
        case ClassFoldersConfig():
            return open_class_folders(config, checked=checked)
        case SubjectsConfig():
            return open_subjects(config, checked=checked)
        case Hdf5Config():
            return open_hdf5(config, checked=checked)
        case ArrowConfig():
            return open_arrow(config, checked=checked)
        case _:
            assert_never(config)
