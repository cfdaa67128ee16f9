"""Python objects as a source: built, found to be of one kind and one form, and identified by their code and data.

This is what workers read from, and the process that describes the objects to others (`probe`).
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np

from feedline_server.declared.datasets import PythonConfig
from feedline_server.sources.arrays.content import spread
from feedline_server.sources.python import text
from feedline_server.sources.python.batches import Batches
from feedline_server.sources.python.frames import Rows
from feedline_server.sources.python.objects import Built, build
from feedline_server.sources.python.samples import Samples
from feedline_server.sources.python.streams import ONE_WORKER, SampleStreams, Streams
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.selection import Selection, declared
from feedline_server.sources.source import Opened, SampleRequest
from feedline_wire import seeding
from feedline_wire.errors import BadSample, DataError, DatasetChanged
from feedline_wire.tensors import Array

Reading: TypeAlias = Samples | Batches | Streams | SampleStreams

DIGEST_NBYTES = 16
"""Of a column of a sample or batch, which is compared by it."""

COMPARED = 3
"""Epochs that are compared at the start: a length that changes, or an order that does not, shows in these."""

_DRAW = "Draw from random, numpy.random or generators that the object keeps, and keep nothing from one call to the next"

LOOK_S = 10.0
"""Batches that take longer are looked at in two orders and not in three, and one of each epoch is compared."""

READINGS: Mapping[str, type[Reading]] = {
    "samples": Samples,
    "batches": Batches,
    "stream": Streams,
    "stream of samples": SampleStreams,
}
"""How each kind of object is read."""


class PythonSource:
    """The operator's objects; a GeneratedSource."""

    def __init__(self, config: PythonConfig) -> None:
        self._config = config
        self.objects = {view: build(reference, config) for view, reference in config.objects.items()}
        self.kind = _one_kind(self.objects)
        self._reading: Reading = READINGS[self.kind](list(self.objects.values()), config)
        self.samples = self._reading.samples
        self.columns = self._reading.columns
        self.longest: Mapping[str, int] = self._reading.longest
        self.unit_rows = self._reading.unit_rows
        self.structure = self._reading.form.structure
        """How the columns make up a batch, if the objects show it."""

    @property
    def is_stream(self) -> bool:
        """There are no ids."""
        return isinstance(self._reading, Streams | SampleStreams)

    @property
    def first(self) -> bytes:
        """What a stream's first batch is told apart by."""
        return self._reading.first if isinstance(self._reading, Streams | SampleStreams) else b""

    @property
    def without_place(self) -> list[str]:
        """Streams that would be the same in every worker."""
        return self._reading.without_place if isinstance(self._reading, Streams | SampleStreams) else []

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        return self._reading.draw(request)

    def content(self) -> Iterator[bytes]:
        """The text of the modules, and a few samples or batches, which show what the text does not: the data."""
        yield from text.texts(self._modules, self._config.code_folders)
        # Two objects of a module may be as long as each other and begin alike.
        yield " ".join(reference.partition(":")[2] for reference in self._config.objects.values()).encode()
        yield f"{self.kind} seeding {seeding.VERSION} {[one.length for one in self.objects.values()]}".encode()
        if self._config.deterministic:
            for sample in spread(self.samples, self._reading.probed):
                yield b"".join(self._probe(sample, raises=self._config.on_bad_sample == "error").values())

    def unlike(self, described: Sequence[bytes]) -> DataError | None:
        """What is not as it was described: a file that changed, or a sample that was made otherwise; None: nothing."""
        found = list(self.content())
        texts = len(list(text.texts(self._modules, self._config.code_folders)))
        for place in range(1, texts, 2):
            if found[place - 1 : place + 1] != [*described[place - 1 : place + 1]]:
                return DatasetChanged(
                    f"the text of module {found[place - 1].decode()!r} changed while it is served; restart the loader",
                    elsewhere=True,
                )
        if found == list(described):
            return None
        what = "an object of another length"
        is_alike = found[: texts + 2] == [*described[: texts + 2]] and self._config.deterministic
        numbers = spread(self.samples, self._reading.probed) if is_alike else []
        for number, mine, theirs in zip(numbers, found[texts + 2 :], described[texts + 2 :], strict=False):
            for at, column in enumerate(self.columns):
                digest = slice(DIGEST_NBYTES * at, DIGEST_NBYTES * (at + 1))
                if mine[digest] != theirs[digest]:
                    what = f"another {self._what} {number} in column {column.name!r}"
        return DataError(
            f"{self._names}: a worker made other data of the same key: {what}, although random, numpy.random and torch "
            "were seeded alike when it was built; what a module or a constructor draws or reads must be the same in "
            f"every process. {self._causes(self._other_kinds - {text.MADE_ANEW}, anywhere=True)}{_DRAW}",
            elsewhere=True,
        )

    def check(self) -> Iterator[str]:
        """Read some samples or batches again, of several epochs; what an operator should know of their random numbers.

        DataError naming one that is another when it is read again in another order or beside others, or an epoch of
        another length.
        """
        reading = self._reading
        if isinstance(reading, Streams | SampleStreams):
            return
        reading.watch(on=True)
        until = time.monotonic() + LOOK_S
        if self._config.deterministic:
            places = {0, 1, self.samples // 2, self.samples // 2 + 1, self.samples - 2, self.samples - 1}
            numbers = sorted(places & set(range(self.samples)))
            first = {number: self._probe(number) for number in numbers}
            for order in (numbers[::-1], numbers[len(numbers) // 2 :] + numbers[: len(numbers) // 2]):
                if time.monotonic() > until and order != numbers[::-1]:
                    break
                reading.forget()
                for number in order:
                    self._check_same(number, first[number], self._probe(number))
            if self.kind == "samples":
                self._check_together(numbers)
        # Beginning an epoch finds another length; that takes little beside batches that take long.
        count = 1 if time.monotonic() > until else reading.probed
        epochs = [self._epoch(epoch, count) for epoch in range(COMPARED)]
        reading.forget()
        reading.watch(on=False)
        causes = self._causes({text.FIXED, text.SEEDED})
        if all(epoch == epochs[0] for epoch in epochs) and (reading.draws or causes):
            yield (
                f"{self._names}: draws random numbers, but its epochs 0 to {COMPARED - 1} begin and end alike: an "
                f"augmentation or order may be frozen. {causes}{_DRAW}"
            )

    def _check_same(self, number: int, first: Mapping[str, bytes], again: Mapping[str, bytes]) -> None:
        for column, digest in again.items():
            if digest != first[column]:
                raise DataError(
                    f"{self._names}: column {column!r} of {self._what} {number} is another one when it is read again, "
                    "in another order, although random, numpy.random and the object's own generators were seeded "
                    "alike: a retry, a resumed training or another replica would have other data. "
                    f"{self._causes(self._other_kinds)}{_DRAW}; or say deterministic = false in loader.toml and do "
                    "without",
                    samples=[number],
                )

    def _check_together(self, numbers: Sequence[int]) -> None:
        request = SampleRequest(np.array(numbers, np.int64), np.zeros(len(numbers), np.int64), 0)
        try:
            found = self._reading.draw(request)
        except BadSample:  # read together they are read one by one
            return
        for name, column in found.items():
            for row, number in enumerate(numbers):
                if _digest(name, column[row]) != self._probe(number)[name]:
                    raise DataError(
                        f"{self._names}: column {name!r} of sample {number} is another one when it is read together "
                        "with others (by __getitems__) than alone; make each sample from its number only",
                        samples=[number],
                    )

    @property
    def _modules(self) -> list[str]:
        return sorted({reference.partition(":")[0] for reference in self._config.objects.values()})

    @property
    def _names(self) -> str:
        return ", ".join(self._config.objects.values())

    _other_kinds = {*text.UNSEEDED.values()} - {text.SEEDED}
    """What makes numbers that are others with each call."""

    def _causes(self, kinds: Collection[str], *, anywhere: bool = False) -> str:
        """What the code draws from itself, as sentences, if it does: where an object is read, or anywhere."""
        parts = (part for built in self.objects.values() for part in seeding.reached(built.value))
        classes = {kind.__name__ for part in parts for kind in type(part).__mro__}
        found = text.unseeded(self._modules, self._config.code_folders, classes, anywhere=anywhere)
        return "".join(f"{where} is {what}. " for where, what in found.items() if what in kinds)

    @property
    def _what(self) -> str:
        return "batch" if self.kind == "batches" else "sample"

    def _epoch(self, epoch: int, count: int) -> list[dict[str, bytes]]:
        return [self._probe(sample, epoch) for sample in (spread(self.samples, count) if count > 1 else [0])]

    def _probe(self, sample: int, epoch: int = 0, *, raises: bool = False) -> dict[str, bytes]:
        """What a sample is compared by. A bad one is alike whenever it is read, or an error if it `raises`."""
        request = SampleRequest(np.array([sample], np.int64), np.array([epoch], np.int64), 0)
        try:
            return {name: _digest(name, column[0]) for name, column in self._reading.draw(request).items()}
        except BadSample:
            if raises:
                raise
            return dict.fromkeys((column.name for column in self.columns), b"bad sample".ljust(DIGEST_NBYTES))


def _digest(name: str, array: Array) -> bytes:
    digest = blake2b(f"{name} {array.dtype.str} {array.shape} ".encode(), digest_size=DIGEST_NBYTES)
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def opened(config: PythonConfig) -> Opened:
    """The objects of a declaration, with a view each, or with parts of the only one as views."""
    source = PythonSource(config)
    objects = list(source.objects.items())
    views: dict[str, Selection] = {}
    start = 0
    for view, built in objects:
        views[view] = range(start, start + built.length)
        start += built.length
    if config.parts:
        if source.is_stream:
            raise DataError(f"{objects[0][1].reference}: is a stream, which has no parts; name an object for each view")
        views = {view: declared(view, part, source.samples, config.path) for view, part in config.parts.items()}
    return Opened(
        source,
        views,
        lambda: _notes(config, source),
        categories=_categories(objects),
        is_batched=source.kind in {"batches", "stream"},
        is_stream=source.is_stream,
        is_for_one_worker=bool(source.without_place),
        is_deterministic=config.deterministic,
        structure=source.structure,
    )


def _categories(objects: Sequence[tuple[str, Built]]) -> Mapping[str, Sequence[str]]:
    """What numbers stand for in DataFrames; DataError if they stand for other names in another view."""
    found = {view: built.value.categories for view, built in objects if isinstance(built.value, Rows)}
    first = next(iter(found.values()), {})
    for view, categories in found.items():
        if categories != first:
            raise DataError(
                f"{objects[0][1].reference}: its categories are {first}, those of the view {view!r} {categories}; give "
                "both the same in the module: astype(pd.CategoricalDtype([names]))"
            )
    return first


def _one_kind(objects: Mapping[str, Built]) -> str:
    (first, one), *others = objects.items()
    for view, other in others:
        if other.kind != one.kind:
            raise DataError(
                f"the view {first!r} ({one.reference}) is {one.description}, the view {view!r} ({other.reference}) is "
                f"{other.description}: views of one dataset are of one kind; declare two datasets"
            )
    return one.kind


def _notes(config: PythonConfig, source: PythonSource) -> Iterator[str]:
    for view, built in source.objects.items():
        match built.kind:
            case "samples" if config.batched is None and hasattr(built.value, "batch_size"):
                yield (
                    f"view {view!r}: {built.reference} is {built.description}, with batch_size and no on_epoch_end, "
                    "so its items are taken for samples, of which feedline makes batches; if each item is a batch "
                    "already, say batched = true in loader.toml (false, if not)"
                )
            case "batches":
                yield (
                    f"view {view!r}: {built.reference} is {built.description}, which are served as they are made; "
                    "a trainer asks for them one by one, its batch_size plays no part"
                )
            case "stream" | "stream of samples":
                yield (
                    f"view {view!r}: {built.reference} is {built.description}, served as a stream without end: each "
                    "worker runs one of its own, so there is no order, no exactly-once, no resuming with state_dict "
                    "and no ranks; for these serve an object with __len__ and __getitem__"
                )
                if built.reference in source.without_place:
                    yield f"view {view!r}: {built.reference} {ONE_WORKER}"
    for module in dict.fromkeys(built.reference.partition(":")[0] for built in source.objects.values()):
        if (line := text.training(module, config.code_folders)) is not None:
            yield f"{text.guard(line)}; every worker runs it"
    if not config.deterministic:
        yield "deterministic = false: a retry, a resumed training or another replica may have other data"
    if source.kind == "samples" and isinstance(source.structure, tuple) and isinstance(source.structure[0], dict):
        names = [column.name for column in source.columns]
        if len(source.structure) == 1:
            yield f"samples are dicts: all of {', '.join(names)} are inputs, as a mapping, until targets are declared"
