"""Which module opens which kind of data."""

from typing import assert_never

from feedline_server.declaration import ColumnsConfig, DatasetConfig, IdFilesConfig
from feedline_server.sources.columns import open_columns
from feedline_server.sources.id_files import open_id_files
from feedline_server.sources.source import Opened


def open_source(config: DatasetConfig, *, checked: bool) -> Opened:
    """The source that a declaration means, opened; DataError if the files do not answer to it."""
    match config:
        case ColumnsConfig():
            return open_columns(config, checked=checked)
        case IdFilesConfig():
            return open_id_files(config, checked=checked)
        case _:
            assert_never(config)
