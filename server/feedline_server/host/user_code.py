"""The operator's own code: `module:name`, found beside the loader.toml, in the current folder or where it is installed.

What is imported is named by the operator, never by a trainer. It is the file where it is looked for first, or an error:
two modules of one name are not mixed up.
"""

import importlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from feedline_wire.errors import DataError

_NOT_THEIRS = (
    str(Path(__file__).resolve().parents[1]),
    str(Path(importlib.__file__).resolve().parent),
    "<frozen importlib",
)
"""Files whose frames are no part of what went wrong in the operator's code."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What a reference led to."""

    reference: str
    value: Any
    """Any: whatever the operator's module holds under the name."""
    module: ModuleType
    source: bytes
    """The whole text of its module, or what stands for it: part of a dataset's identity."""


def imported(reference: str, folders: Sequence[Path]) -> Imported:
    """What `module:name` names. Raises DataError, with the module's own traceback, if it cannot be imported.

    The folders are searched in their order, before everything else.
    """
    name, _, attribute = reference.partition(":")
    module = _module(name, reference, folders)
    value: Any = module
    for step in attribute.split("."):
        if not hasattr(value, step):
            there = ", ".join(sorted(one for one in vars(module) if not one.startswith("_"))) or "nothing"
            raise DataError(f"{reference}: {_place(module)} has no {attribute!r}; it has {there}")
        value = getattr(value, step)
    return Imported(reference, value, module, source_of(module))


def exception_line(error: BaseException) -> str:
    """An exception as a line of its kind and its text. Raises nothing, whatever making its text does."""
    try:
        text = str(error)
    except Exception as another:
        text = f"(its text cannot be made: {type(another).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def users_traceback(error: BaseException) -> str:
    """The traceback without what is not the operator's: our own frames, and the importing."""
    found = traceback.TracebackException.from_exception(error)
    shown: traceback.TracebackException | None = found
    while shown is not None:
        theirs = [frame for frame in shown.stack if not frame.filename.startswith(_NOT_THEIRS)]
        shown.stack = traceback.StackSummary.from_list(theirs)
        shown = shown.__cause__ or shown.__context__
    return "".join(found.format())


def users_frames(error: BaseException) -> Iterator[FrameType]:
    """The operator's frames that were running when it was raised, the outermost first."""
    step = error.__traceback__
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(_NOT_THEIRS):
            yield step.tb_frame
        step = step.tb_next


def source_of(module: ModuleType) -> bytes:
    """The text of a module, or, of one that has none, its name and version."""
    file = getattr(module, "__file__", None)
    if file is not None and file.endswith(".py"):
        return Path(file).read_bytes()
    package = sys.modules[module.__name__.partition(".")[0]]
    return f"{module.__name__} {getattr(package, '__version__', '')}".encode()


def _module(name: str, reference: str, folders: Sequence[Path]) -> ModuleType:
    for folder in reversed([str(folder) for folder in folders]):
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
    importlib.invalidate_caches()  # a file may be younger than the last look into its folder
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise _broken(reference, error) from error
        places = ", ".join(map(str, folders))
        raise DataError(
            f"{reference}: there is no module {error.name!r}; looked in {places} and what is installed: "
            "put the file there, or set `modules` to its folder"
        ) from error
    except (Exception, SystemExit) as error:  # a script without a main() may call sys.exit
        raise _broken(reference, error) from error
    _check_place(name, module, reference, folders)
    return module


def _broken(reference: str, error: BaseException) -> DataError:
    return DataError(
        f"{reference}: importing its module fails with {type(error).__name__}: {error}",
        traceback=users_traceback(error),
    )


def _check_place(name: str, module: ModuleType, reference: str, folders: Sequence[Path]) -> None:
    top = name.partition(".")[0]
    loaded = Path(getattr(sys.modules[top], "__file__", None) or "").resolve()
    for folder in folders:
        wanted = [folder / f"{top}.py", folder / top / "__init__.py"]
        there = next((path.resolve() for path in wanted if path.is_file()), None)
        if there is None:
            continue
        if there != loaded:
            raise DataError(
                f"{reference}: a module {top!r} is loaded already, from {loaded or 'elsewhere'}, so {there} "
                "cannot be; give the file another name"
            )
        return


def _place(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or f"module {module.__name__}")


def masked_values(value: object) -> int:
    """How many values of a masked array (numpy.ma) are masked; 0 of anything else."""
    masked = sys.modules.get("numpy.ma")
    return int(masked.count_masked(value)) if masked is not None and isinstance(value, masked.MaskedArray) else 0


MASKED = "return array.filled(0), or whatever stands for what is missing, or leave such samples out"
"""What to do about masked values: the numbers behind a mask are no data."""
