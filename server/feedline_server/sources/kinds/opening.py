"""Which module opens which kind of data."""

from typing import assert_never

from feedline_server.declared.datasets import (
    ArrowConfig,
    ClassFoldersConfig,
    ColumnsConfig,
    DatasetConfig,
    Hdf5Config,
    IdFilesConfig,
    ImagesConfig,
    PythonConfig,
    SequencesConfig,
    SubjectsConfig,
)
from feedline_server.sources.kinds.arrow import open_arrow
from feedline_server.sources.kinds.class_folders import open_class_folders
from feedline_server.sources.kinds.columns import open_columns
from feedline_server.sources.kinds.hdf5 import open_hdf5
from feedline_server.sources.kinds.id_files import open_id_files
from feedline_server.sources.kinds.images import open_images
from feedline_server.sources.kinds.python import open_python
from feedline_server.sources.kinds.sequences import open_sequences
from feedline_server.sources.kinds.subjects import open_subjects
from feedline_server.sources.source import Opened
from feedline_wire.errors import DataError


def open_source(config: DatasetConfig, *, checked: bool) -> Opened:
    """The source that a declaration means, opened; DataError if the files do not answer to it."""
    try:
        config.path.stat()
    except FileNotFoundError:
        raise DataError(f"{config.path}: there is no such file or folder; correct the dataset's path") from None
    except OSError:
        pass  # said by whoever opens it, with what was wanted there
    match config:
        case ColumnsConfig():
            opened = open_columns(config, checked=checked)
        case IdFilesConfig():
            opened = open_id_files(config, checked=checked)
        case ClassFoldersConfig():
            opened = open_class_folders(config, checked=checked)
        case ImagesConfig():
            opened = open_images(config, checked=checked)
        case SubjectsConfig():
            opened = open_subjects(config, checked=checked)
        case SequencesConfig():
            opened = open_sequences(config, checked=checked)
        case Hdf5Config():
            opened = open_hdf5(config, checked=checked)
        case ArrowConfig():
            opened = open_arrow(config, checked=checked)
        case PythonConfig():
            opened = open_python(config, checked=checked)
        case _:
            assert_never(config)
    return opened
