"""What an operator's `module:name` is: samples, ready batches, or a stream of batches; how it is built and addressed.

An object is built with the same random numbers in every worker and for every view, so a split that is drawn in a
constructor is the same everywhere. Frameworks are recognised by the names of classes and never imported here: whether
they are is the choice of the operator's module.
"""

import bisect
import inspect
import itertools
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias, TypeVar

from feedline_server.declared.datasets import PythonConfig
from feedline_server.host.user_code import exception_line, imported, users_traceback
from feedline_server.sources.python.frames import Rows, is_frame
from feedline_server.sources.python.held import held
from feedline_server.sources.python.returned import class_of
from feedline_server.sources.python.text import guard, loaded, training
from feedline_wire import seeding
from feedline_wire.errors import BadSample, DataError

Kind: TypeAlias = Literal["samples", "batches", "stream", "stream of samples"]
"""Of samples `object[i]` is one, of batches it is a whole one; a stream is asked for the next batch or sample."""

PLACES = ("seed", "worker", "workers")
"""Parameters by which a generator function is told how it differs from those in other workers."""

WANTED = (
    "wanted an object with __len__ and __getitem__ (a dataset, a Keras Sequence), a generator function, "
    "or a function or class that makes one"
)

TRIED = 64
"""Samples that may be bad before the first good one, where bad ones are left out."""

T = TypeVar("T")

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
    modules: Sequence[ModuleType] = ()
    """The operator's, and the one of the object's class."""
    takes: frozenset[str] = frozenset()
    """Those of PLACES that `anew` takes and no argument gives."""
    shards: Callable[[int, int], Any] | None = None
    """Of a `tf.data.Dataset`: the part of so many workers that is one worker's."""


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
    value, arguments, made = _found(reference, config.code_folders), _interned(dict(config.arguments)), None
    if inspect.isgeneratorfunction(value):
        takes = frozenset(PLACES) & inspect.signature(value).parameters.keys() - arguments.keys()
        anew = _bound(reference, value, arguments, **dict.fromkeys(takes, 0))
        return _stream(reference, config, anew, "a generator function", takes=takes)
    if _is_called(value):
        made = _bound(reference, value, arguments)
        value = _called(reference, made)
    elif arguments:
        raise DataError(f"{reference}: has arguments, but is {class_of(value)}, which is not called; remove them")
    if is_frame(value):
        value = Rows(value, reference)
    if is_data(value) and not is_iterable_dataset(value):
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
    text = f"{sentence} raised {exception_line(raised)}"
    return error(text, traceback=users_traceback(raised), evidence=held(raised), **more)


def generators(built: Built, value: object) -> list[seeding.Generator]:
    """The random generators that an object, which is the built one or a copy of it, and its modules may draw from."""
    # The object first: what is added to a module while it is read from must not change the places of the others.
    return seeding.generators_in(value, *built.modules)


def first_good(config: PythonConfig, length: int, read: Callable[[int], T]) -> T:
    """What the first sample or batch reads as, or where bad ones are left out the first good one."""
    for number in range(length):
        try:
            return read(number)
        except BadSample:
            if config.on_bad_sample == "error" or number == min(TRIED, length) - 1:
                raise
    raise AssertionError("an object is not empty")


def check_length(built: Built, value: Any, epoch: int) -> None:  # noqa: ANN401 - the operator's
    """DataError if an object is not as long in an epoch as it was when it was built."""
    length = int(calling(f"{built.reference}: len()", lambda: len(value)))
    if length != built.length:
        raise DataError(
            f"{built.reference}: its length is {built.length} when it is built and {length} in epoch {epoch}, but all "
            "epochs of a dataset are of one length: keep len() as it is and change what the items hold, or serve a "
            "generator function that yields batches, with steps_per_epoch"
        )


def is_data(value: object) -> bool:
    """It is asked for by number."""
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, str | bytes | dict)


def is_iterable_dataset(value: object) -> bool:
    """It yields samples, as torch's and Hugging Face's do; torch's has a `__getitem__` that only raises."""
    return any(kind.__name__ == "IterableDataset" for kind in type(value).__mro__)


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
    seeding.seed_imports()
    name = reference.partition(":")[0]
    sys.argv = [name]  # a script's arguments are not the loader's
    try:
        with seeding.building(_FIRST):
            return imported(reference, folders).value
    except DataError as error:
        if (line := training(name, folders)) is not None:
            raise DataError(f"{error.args[0]}; {guard(line)}", traceback=error.traceback) from error
        raise


def _modules(reference: str, folders: Sequence[Path], value: object) -> list[ModuleType]:
    found = loaded([reference.partition(":")[0]], folders)
    of_class = sys.modules.get(type(value).__module__)
    return found if of_class is None or of_class in found else [*found, of_class]


def _interned(value: Any) -> Any:  # noqa: ANN401 - what TOML holds
    """The same with texts as they are in a program: code that says `split is "train"` works where it was written."""
    if isinstance(value, dict):
        return {sys.intern(name): _interned(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_interned(one) for one in value]
    return sys.intern(value) if isinstance(value, str) else value


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
    with seeding.building(_FIRST):
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
        _modules(reference, config.code_folders, value),
    )


def _iterable(reference: str, config: PythonConfig, value: Any, made: Callable[[], Any] | None) -> Built:  # noqa: ANN401
    if any(kind.__name__ == "DataLoader" for kind in type(value).__mro__):
        raise DataError(
            f"{reference}: is {class_of(value)}, which makes batches by itself; serve the dataset that it reads from "
            f"({reference.split(':', maxsplit=1)[0]}:… with __len__ and __getitem__): feedline makes the batches"
        )
    if hasattr(value, "__next__"):
        if made is None:
            raise DataError(
                f"{reference}: is {class_of(value)} that has begun already, which cannot begin again in each worker; "
                "name the function that makes it"
            )
        return _stream(reference, config, made, f"a function that returns {class_of(value)}")
    length, shards = None, None
    if callable(getattr(value, "cardinality", None)) and callable(getattr(value, "shard", None)):
        # A tf.data.Dataset. Shards do not overlap: shuffling has its seed from when it was built, alike in all workers.
        count = int(value.cardinality())
        length, shards = count if count > 0 else None, lambda worker, workers: value.shard(workers, worker)
    elif hasattr(value, "__len__"):
        with suppress(*RAISED):  # torch's may know it only sometimes
            length = len(value)
    samples = is_iterable_dataset(value)
    return _stream(reference, config, lambda: value, class_of(value), length=length, shards=shards, samples=samples)


def _stream(
    reference: str,
    config: PythonConfig,
    anew: Callable[..., Any],
    description: str,
    *,
    length: int | None = None,
    samples: bool = False,
    **more: Any,  # noqa: ANN401 - fields of Built
) -> Built:
    if config.batched is not None:
        samples = not config.batched
    kind: Kind = "stream of samples" if samples else "stream"
    length = config.steps_per_epoch or length
    if length is None:
        raise DataError(
            f"{reference}: is {description}, which has no length; say how many of its "
            f"{'samples' if samples else 'batches'} make up an epoch, with --steps-per-epoch N or "
            "steps_per_epoch = N in loader.toml, as for model.fit"
        )
    return Built(reference, kind, None, anew, length, description, **more)
