"""Opening a dataset's files: each kind of data has a module of its name here, imported when such a dataset is opened.

A kind's module has a function `opened(declaration)`, which gives what a worker reads from. One that must not read where
workers are started has `described(declaration)` too, which gives all but the reading.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from types import ModuleType

from feedline_server.declared.datasets import Declaration
from feedline_server.sources.source import Opened
from feedline_server.sources.tables.names import SHORT_FOR_VALIDATION
from feedline_server.sources.validation import VALIDATION
from feedline_wire.errors import DataError


def open_source(declaration: Declaration) -> Opened:
    """What a worker reads from; DataError if the files are not what is declared."""
    opened: Opened = _module(declaration).opened(declaration)
    return _with_validation(declaration, opened)


def describe_source(declaration: Declaration) -> Opened:
    """The same, as the process that serves has it: it may read samples elsewhere. DataError as `open_source`."""
    module = _module(declaration)
    described: Opened = getattr(module, "described", module.opened)(declaration)
    return _with_validation(declaration, described)


def _with_validation(declaration: Declaration, opened: Opened) -> Opened:
    """With the view `val`, or `valid`, as `validation`, unless that is declared or there is one already."""
    short = [view for view in opened.views if view.lower() in SHORT_FOR_VALIDATION]
    if len(short) != 1 or VALIDATION in opened.views or short[0] in getattr(declaration, "views", ()):
        return opened

    def notes() -> Iterator[str]:
        yield from opened.notes()
        yield f"{declaration.path}: {short[0]!r} is served as the view {VALIDATION!r}"

    views = {VALIDATION if view == short[0] else view: selection for view, selection in opened.views.items()}
    return replace(opened, views=views, notes=notes)


def _module(declaration: Declaration) -> ModuleType:
    try:
        declaration.path.stat()
    except FileNotFoundError:
        raise DataError(f"{declaration.path}: there is no such file or folder; correct the dataset's path") from None
    except OSError:
        pass  # the kind's module says it, with what it wanted there
    return import_module(f"feedline_server.sources.kinds.{declaration.kind}")
