"""Generators and other iterables as a source: batches or samples that come, each once, when they are asked for.

Each worker runs a generator of its own with random numbers of its own, so what comes depends on the workers and on when
it is asked for; of an id only its view counts. A worker tells the generator which of how many it is, in every way that
the generator may ask for it. One that does not ask would be the same in all: it is run in one worker.
"""

import secrets
import sys
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from feedline_server.declared.datasets import PythonConfig
from feedline_server.sources.python.objects import Built, Ids, calling
from feedline_server.sources.python.returned import Unfit
from feedline_server.sources.python.samples import SampleRows
from feedline_server.sources.python.units import Units, copied, together
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.selection import check_ids
from feedline_server.sources.source import SampleRequest
from feedline_wire import seeding
from feedline_wire.errors import BadSample, DataError
from feedline_wire.tensors import Array

ONE_WORKER = (
    "asks for no worker's number, so every worker would give the same: one worker serves it. To use all, give the "
    "function parameters worker and workers and yield what is worker's own (items[worker::workers]), or a parameter "
    "seed where it draws at random; in an IterableDataset ask torch.utils.data.get_worker_info()"
)

_ENDED = object()


class _Place:
    """Which worker this process is; what `torch.utils.data.get_worker_info()` gives."""

    def __init__(self, worker: int, workers: int) -> None:
        self._worker = worker
        self._workers = workers
        self.seed = secrets.randbits(62)
        self.dataset = None
        self.was_asked = False

    @property
    def id(self) -> int:
        self.was_asked = True
        return self._worker

    @property
    def num_workers(self) -> int:
        self.was_asked = True
        return self._workers


_place = (0, 1)


def be_worker(worker: int, workers: int) -> None:
    """Let what is opened from now on in this process be that of one of so many workers."""
    global _place  # noqa: PLW0603 - what this process is
    _place = (worker, workers)


class _Streams:
    """Generators, of which each is a view."""

    probed = 0

    def start(self, objects: Sequence[Built]) -> None:
        """Begin them, and take the first of each."""
        self._objects = objects
        self.samples = len(Ids(objects))
        self._running = [_Running(one) for one in objects]
        self._firsts: dict[int, Any] = {view: one.next() for view, one in enumerate(self._running)}

    @property
    def without_place(self) -> list[str]:
        """Those that have not asked which worker they are in."""
        return [one.reference for one, running in zip(self._objects, self._running, strict=True) if not running.asks]

    def next(self, view: int) -> Any:  # noqa: ANN401 - the operator's
        """What comes next."""
        return self._firsts.pop(view) if view in self._firsts else self._running[view].next()


class Streams(Units, _Streams):
    """Generators of ready batches."""

    def __init__(self, objects: Sequence[Built], config: PythonConfig) -> None:
        self.start(objects)
        super().__init__(Ids(objects), config)
        self.begin(self._firsts[0], f"the first batch of {objects[0].reference}")
        for view in range(1, len(objects)):
            self.vary(self._firsts[view])
        self.first = digest(self.checked(self._firsts[0]))
        """Of the first batch: two workers that begin alike go on alike."""

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        check_ids(request.ids, self.samples)
        return together([self._unit(self._ids.locate(unit)[0]) for unit in request.ids.tolist()])

    def _unit(self, view: int) -> dict[str, Array]:
        try:
            return copied(self.checked(self.next(view)))
        except Unfit as error:
            raise DataError(f"a batch of {self._objects[view].reference} {error}") from error


class SampleStreams(SampleRows, _Streams):
    """Generators of samples, of which feedline makes the batches."""

    def __init__(self, objects: Sequence[Built], config: PythonConfig) -> None:
        self.start(objects)
        self._ids = Ids(objects)
        super().__init__(config, lambda _: f"a sample of {objects[0].reference}")
        self.begin(self._firsts[0], f"the first sample of {objects[0].reference}")
        self.first = digest(self.together([self._firsts[0]], [0]))
        """See Streams."""

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        check_ids(request.ids, self.samples)
        samples = request.ids.tolist()
        try:
            return dict(self.together([self.next(self._ids.locate(sample)[0]) for sample in samples], samples))
        except BadSample as error:  # it has no id
            raise DataError(error.args[0], traceback=error.traceback) from error


def digest(arrays: dict[str, Array]) -> bytes:
    """What a batch or sample is told apart by."""
    found = blake2b(digest_size=16)
    for array in arrays.values():
        found.update(np.ascontiguousarray(array).data)
    return found.digest()


class _Running:
    """One generator, begun with the first `next`, and again when it has ended or raised."""

    def __init__(self, built: Built) -> None:
        self._built = built
        self._place = _Place(*_place)
        self._iterator: Iterator[Any] | None = None
        self._begun = 0
        self._yielded = 0  # since it was begun
        self._steps = 0

    @property
    def asks(self) -> bool:
        """It can tell which worker it is in."""
        return bool(self._built.takes) or self._built.shards is not None or self._place.was_asked

    def next(self) -> Any:  # noqa: ANN401 - the operator's
        # Before each, because samples of other datasets seed the same generators to the same numbers in every worker.
        self._steps += 1
        seeding.seed(seeding.number("stream", self._place.seed, self._steps))
        workers_of_torch = sys.modules.get("torch.utils.data._utils.worker")
        if workers_of_torch is not None:
            workers_of_torch._worker_info = self._place  # type: ignore[attr-defined]
        try:
            value = self._next()
            if value is _ENDED:
                self._log_its_end()
                self._iterator = None
                value = self._next()
        finally:
            if workers_of_torch is not None:
                workers_of_torch._worker_info = None  # type: ignore[attr-defined]
        if value is _ENDED:
            raise DataError(f"{self._built.reference}: ended before it yielded anything")
        self._yielded += 1
        return value

    def _next(self) -> Any:  # noqa: ANN401 - the operator's
        reference = self._built.reference
        try:
            if self._iterator is None:
                self._begun += 1
                self._yielded = 0
                self._iterator = calling(f"{reference}: beginning it", lambda: iter(self._begin()))
            iterator: Any = self._iterator
            return calling(f"{reference}: its next batch", lambda: next(iterator, _ENDED))
        except DataError:
            self._iterator = None  # a generator that raised has ended
            raise

    def _begin(self) -> Any:  # noqa: ANN401 - the operator's
        built, (worker, workers) = self._built, _place
        assert built.anew is not None, "a stream can always be begun"
        if built.shards is not None:
            return built.shards(worker, workers)
        seed = seeding.number("seed", self._place.seed, self._begun) & 0x7FFFFFFF
        told = {"seed": seed, "worker": worker, "workers": workers}
        return built.anew(**{name: value for name, value in told.items() if name in built.takes})

    def _log_its_end(self) -> None:
        if self._begun == 1 and self._yielded:
            print(  # noqa: T201 - a worker's log is its standard error
                f"feedline: {self._built.reference} ended after {self._yielded} batches and begins again; "
                "let it loop (while True:) if beginning takes long",
                file=sys.stderr,
                flush=True,
            )
