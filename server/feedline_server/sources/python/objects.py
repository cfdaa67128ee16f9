"""What an operator's `module:name` is: samples, ready batches, or a stream of batches; how it is built and addressed.

An object is built with the same random numbers in every worker and for every view, so a split that is drawn in a
constructor is the same everywhere. Frameworks are recognised by the names of classes and never imported here: whether
they are is the choice of the operator's module.
"""

import bisect
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from feedline_server.declared.datasets import PythonConfig
from feedline_server.host.user_code import exception_line, imported, users_traceback
from feedline_server.sources.python import seeding
from feedline_server.sources.python.returned import class_of
from feedline_wire.errors import DataError

Kind: TypeAlias = Literal["samples", "batches", "stream"]
"""Of samples `object[i]` is one, of batches it is a whole one; a stream is asked for the next batch."""

WANTED = (
    "wanted an object with __len__ and __getitem__ (a dataset, a Keras Sequence), a generator function, "
    "or a function or class that makes one"
)

_WRAPPED = 4
"""Datasets around a dataset that are looked into for generators, as torch's Subset has it."""

RAISED = (Exception, SystemExit)
"""What the operator's code may raise: what was a script may call sys.exit."""

_KERAS = frozenset({"keras", "tf_keras", "tensorflow"})
_KERAS_BATCHES = frozenset({"Sequence", "PyDataset"})


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """One object, ready to be read from."""

    reference: str
    kind: Kind
    value: Any
    """Any: the operator's. Of a stream None."""
    anew: Callable[..., Any] | None
    """Makes it once more; None if it is not made but there. Of a stream: an iterator from its beginning."""
    length: int
    """Samples, or batches; of a stream those of an epoch, as declared."""
    description: str
    """What it is, for people."""
    takes_seed: bool = False
    """`anew` takes a `seed`, which no argument gives: each worker's is another."""


class Ids:
    """The ids of objects that are laid end to end, of which each is a view."""

    def __init__(self, objects: Sequence[Built]) -> None:
        self._objects = objects
        self._ends = list(itertools.accumulate(one.length for one in objects))

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, sample: int) -> tuple[int, int]:
        """Which object an id belongs to, and what the object's code calls it."""
        view = bisect.bisect_right(self._ends, sample)
        return view, sample - self._ends[view] + self._objects[view].length

    def named(self, sample: int, what: str = "sample") -> str:
        """The id for a message: `sample 7 (my_classes:dataset[7])`."""
        view, number = self.locate(sample)
        return f"{what} {sample} ({self._objects[view].reference}[{number}])"


def build(reference: str, config: PythonConfig) -> Built:
    """The object that `module:name` means, built. DataError, with the operator's own traceback, if it cannot be."""
    value, arguments, made = _found(reference, config.code_folders), dict(config.arguments), None
    if inspect.isgeneratorfunction(value):
        takes_seed = "seed" in inspect.signature(value).parameters and "seed" not in arguments
        given = {"seed": 0} if takes_seed else {}
        anew = _bound(reference, value, arguments, **given)
        return _stream(reference, config, anew, "a generator function", takes_seed=takes_seed)
    if _is_called(value):
        made = _bound(reference, value, arguments)
        value = _called(reference, made)
    elif arguments:
        raise DataError(f"{reference}: has arguments, but is {class_of(value)}, which is not called; remove them")
    if is_data(value):
        return _data(reference, config, value, made)
    if hasattr(value, "__iter__") and not isinstance(value, str | bytes | dict):
        return _iterable(reference, config, value, made)
    was = "" if made is None else "returns "
    raise DataError(f"{reference}: {was or 'is '}{class_of(value)}; {WANTED}")


def calling(sentence: str, call: Callable[[], Any], error: type[DataError] = DataError, **more: Any) -> Any:  # noqa: ANN401 - the operator's
    """What the operator's code returns; `error`, saying the sentence and showing the code's traceback, if it raises."""
    try:
        return call()
    except RAISED as raised:
        raise failed(sentence, raised, error, **more) from raised


def failed(sentence: str, raised: BaseException, error: type[DataError] = DataError, **more: Any) -> DataError:  # noqa: ANN401
    """The error that says the sentence and what the operator's code raised, with the code's traceback."""
    return error(f"{sentence} raised {exception_line(raised)}", traceback=users_traceback(raised), **more)


def generators(built: Built, value: object) -> list[seeding.Generator]:
    """The random generators that an object may draw from, which is the built one or a copy of it."""
    places = [sys.modules[built.reference.partition(":")[0]], sys.modules[type(value).__module__], value]
    for _ in range(_WRAPPED):
        if (inner := getattr(places[-1], "dataset", None)) is None:
            break
        places.append(inner)
    return seeding.generators_in(*places)


def is_data(value: object) -> bool:
    """It is asked for by number."""
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, str | bytes | dict)


def is_batched(value: object) -> bool:
    """`value[i]` is a whole batch: so with Keras' classes, and with whatever is told of the end of an epoch."""
    named = {(kind.__module__.split(".")[0], kind.__name__) for kind in type(value).__mro__}
    of_keras = any(module in _KERAS and name in _KERAS_BATCHES for module, name in named)
    return of_keras or callable(getattr(value, "on_epoch_end", None))


_FIRST = seeding.number("build")
"""What everything is seeded by before a module is imported and before each object of it is built."""


def _is_called(value: object) -> bool:
    return inspect.isclass(value) or (callable(value) and not is_data(value) and not hasattr(value, "__iter__"))


def _found(reference: str, folders: Sequence[Path]) -> Any:  # noqa: ANN401 - the operator's
    seeding.seed(_FIRST)
    return imported(reference, folders).value


def _bound(reference: str, value: Callable[..., Any], arguments: dict[str, Any], **given: object) -> Callable[..., Any]:
    """The call with its arguments, which fit together with those that are `given` when it is made."""
    try:
        inspect.signature(value).bind(**arguments, **given)
    except TypeError as error:
        raise DataError(
            f"{reference}: cannot be called with {', '.join(arguments) or 'no arguments'} ({error}); "
            'give what it needs in loader.toml, such as arguments = {folder = "data"}, or a default to the parameter'
        ) from error
    except ValueError:  # a class of compiled code may have no signature: calling it shows whether they fit
        pass
    return lambda **more: value(**arguments, **more)


def _called(reference: str, made: Callable[[], Any]) -> Any:  # noqa: ANN401 - the operator's
    seeding.seed(_FIRST)
    return calling(f"{reference}: calling it", made)


def _data(
    reference: str,
    config: PythonConfig,
    value: Any,  # noqa: ANN401 - the operator's
    made: Callable[[], Any] | None,
) -> Built:
    if config.steps_per_epoch is not None:
        raise DataError(f"{reference}: has steps_per_epoch, which is for generators; its length is its own, remove it")
    length = int(calling(f"{reference}: len()", lambda: len(value)))
    if not length:
        raise DataError(f"{reference}: is {class_of(value)} of length 0; there is nothing to serve")
    batched = is_batched(value) if config.batched is None else config.batched
    kind: Kind = "batches" if batched else "samples"
    return Built(
        reference,
        kind,
        value,
        None if made is None else lambda: _called(reference, made),
        length,
        f"{class_of(value)} of {length} {kind}",
    )


def _iterable(reference: str, config: PythonConfig, value: Any, made: Callable[[], Any] | None) -> Built:  # noqa: ANN401
    if any(kind.__name__ == "DataLoader" for kind in type(value).__mro__):
        raise DataError(
            f"{reference}: is {class_of(value)}, which makes batches by itself; serve the dataset that it reads from "
            f"({reference.split(':', maxsplit=1)[0]}:… with __len__ and __getitem__): feedline makes the batches"
        )
    if not hasattr(value, "__next__"):
        return _stream(reference, config, lambda: iter(value), class_of(value))
    if made is None:
        raise DataError(
            f"{reference}: is {class_of(value)} that has begun already, which cannot begin again in each worker; "
            "name the function that makes it"
        )
    return _stream(reference, config, made, f"a function that returns {class_of(value)}")


def _stream(
    reference: str,
    config: PythonConfig,
    anew: Callable[..., Iterator[Any]],
    description: str,
    *,
    takes_seed: bool = False,
) -> Built:
    if config.steps_per_epoch is None:
        raise DataError(
            f"{reference}: is {description}, which has no length; say how many of its batches make up an epoch, with "
            "--steps-per-epoch N or steps_per_epoch = N in loader.toml, as for model.fit"
        )
    if config.batched is False:
        raise DataError(
            f"{reference}: is {description}; what it yields is served as ready batches, so batched = false "
            "cannot be: collect samples into batches in it"
        )
    return Built(reference, "stream", None, anew, config.steps_per_epoch, description, takes_seed)
