"""`RemoteSequence`: a view of a dataset as Keras wants it, `model.fit(RemoteSequence("loader:50051"))`.

`seq[i]` is the same batch for every caller, from any thread, any number of times: batch i in dataset order. The one
exception is a training pass of `fit`, where it is a batch of that pass' own shuffled plan. Which order Keras will ask
in is used only to read ahead (docs/keras.md).
"""

import copy
import operator
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from keras.backend import backend
from keras.callbacks import Callback, LambdaCallback
from keras.utils import PyDataset

from feedline.connection.credentials import CredentialArguments, FilePath
from feedline.fleet.rates import AHEAD_FIRST
from feedline.keras import caller
from feedline.keras.client import Client, check_shards
from feedline.keras.passes import SequenceStatistics
from feedline.reading.feed import Feed
from feedline.reading.options import FeedArguments, epoch_number
from feedline.reading.plan import Cursor, Remainder
from feedline.reading.state import State, read, write
from feedline_wire.errors import InvalidRequest

STAY = {
    "workers": "Keras' own workers lose and repeat batches; use prefetch= and more loader workers",
    "use_multiprocessing": "the work is done by the loaders' processes",
    "max_queue_size": "Keras makes no queue here; use prefetch=",
}
"""What Keras may not change, and why: batches are fetched in parallel already (docs/keras.md)."""


class RemoteSequence(PyDataset):  # type: ignore[misc]  # keras publishes no types
    """A view of a served dataset, for `model.fit`, `evaluate` and `predict`. Needs no flags. Thread-safe.

    `target` names the loaders: `"loader:50051"`, several of them, or `"dns:///name:port"`. `batch_size` None is 32, or
    the size of the batches that the dataset's own code makes on the loader. `order` is that of the training passes of
    `fit`, each with a new plan of the whole view ("shuffle" by default; docs/orders.md); everything else (`evaluate`,
    `predict`, validation, `fit(shuffle=False)`, `seq[i]` in your code) is in dataset order. `remainder` says what
    becomes of the samples that do not fill a batch: a `"short"` last batch (the default: Keras takes it, nothing is
    lost or repeated), `"drop"`, `"pad"` (a full batch, padding at sample weight 0) or `"wrap"` (filled from the next
    epoch). `prefetch` batches and `prefetch_bytes` bytes bound what is read ahead in each pass; no wait is longer than
    `timeout_s` seconds. `connections`, `checksum`, `ca`, `certificate`, `key`, `server_name`, `token`, `token_file` and
    `insecure` are those of `feedline.connect`.

    Blocks until a loader answered. Raises LoaderUnavailable after `connect_timeout_s` seconds, and InvalidRequest if
    the arguments make no sense together or Keras could not use the batches.
    """

    def __init__(  # noqa: PLR0917  # a dataset is named left to right: where, what, which part, how many, how mixed
        self,
        target: str | Sequence[str],
        dataset: str | None = None,
        view: str = "train",
        batch_size: int | None = None,
        order: str | None = None,
        seed: int = 0,
        *,
        remainder: Remainder | None = None,
        rank: int = 0,
        world: int = 1,
        prefetch: int | None = None,
        prefetch_bytes: int = 256 << 20,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 30.0,
        connections: int = 1,
        checksum: bool = False,
        token: str | None = None,
        token_file: FilePath | None = None,
        ca: FilePath | None = None,
        certificate: FilePath | None = None,
        key: FilePath | None = None,
        server_name: str | None = None,
        insecure: bool | None = None,
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=prefetch or AHEAD_FIRST)
        self._warned: set[str] = set()
        self.rank = rank
        """Which trainer of the job this is."""
        self._client = Client(
            target,
            FeedArguments(
                dataset=dataset,
                view=view,
                batch_size=batch_size,
                order=order,
                seed=seed,
                remainder=remainder,
                rank=rank,
                world=world,
                prefetch=prefetch,
                prefetch_bytes=prefetch_bytes,
                timeout_s=timeout_s,
            ),
            CredentialArguments(
                token=token,
                token_file=token_file,
                ca=ca,
                certificate=certificate,
                key=key,
                server_name=server_name,
                insecure=insecure,
            ),
            connect_timeout_s=connect_timeout_s,
            connections=connections,
            checksum=checksum,
            backend=backend(),
        )
        self._client.connected()

    def __len__(self) -> int:
        """Batches of a pass."""
        return self._client.steps

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Batch `index`: `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Blocks until it is there, `timeout_s` at most.

        In dataset order, except where Keras itself asks in a training pass. Raises IndexError if there is no such
        batch, LoaderStalled or LoaderUnavailable after `timeout_s`, and what the loader says is wrong with the batch.
        """
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"there is no batch {number}; this sequence has {len(self)}")
        number %= len(self)
        connection = self._client.connected()
        # A subclass with a __getitem__ of its own may change batches in place, so its batches are its alone.
        overridden = type(self).__getitem__ is not RemoteSequence.__getitem__
        frame = caller.asking_frame(self)
        keep = caller.is_adapter(frame) and not overridden
        run = caller.run_of(frame, self, overridden=overridden, iteration=RemoteSequence.__iter__.__code__)
        if run is not None:
            check_shards(run.shards, connection.canonical.plan.world)
        return connection.passes.answer(run, number, keep=keep).as_tuple()

    def __iter__(self) -> Generator[tuple[Any, ...], None, None]:
        """All batches in dataset order, read ahead."""
        indices = range(len(self))  # read by caller.Run, as the order of this run
        try:
            for index in indices:
                yield self[index]
        finally:
            connection = self._client.connection
            if connection is not None:
                connection.passes.leave(sys._getframe())

    # ---- epochs ----

    def set_epoch(self, epoch: int) -> None:
        """The next training pass uses the plan of `epoch`, those after it the plans that follow."""
        self._client.set_next_number(epoch_number(epoch))

    def follow_epochs(self) -> Callback:
        """A callback that gives each epoch of `fit` the plan of its own number, also with `initial_epoch`.

        Without it passes count from 0 in every process: each has a new plan, but a restarted training repeats the
        first ones.
        """
        return LambdaCallback(on_epoch_begin=lambda epoch, logs=None: self.set_epoch(epoch))

    # ---- state ----

    def state_dict(self, epoch: int, trained: int = 0) -> State:
        """Where a training is that has trained so many batches of the pass of `epoch`: a small dict, JSON.

        `rest` takes it, and so does `load_state_dict` of a feed, with any batch size and number of ranks. Raises
        InvalidRequest where what Keras trains is no place in a plan: under `remainder="wrap"`, in a subclass with a
        `__getitem__` of its own, and of a stream.
        """
        training, begun = self._resumable(), self._client.rest
        offset = epoch_number(trained) * training.plan.stride + (0 if begun is None else begun.offset)
        cursor = Cursor(epoch_number(epoch), min(offset, training.plan.samples))
        return write(training.ordering, training.plan.settled(cursor))

    def place_of(self, state: Mapping[str, object]) -> Cursor:
        """The epoch that a state was saved in, and how many of its positions were trained.

        Raises InvalidRequest or DatasetChanged if the state was saved on something else, or with another seed.
        """
        training = self._resumable()
        seed, cursor = read(state, training.ordering)
        if seed != training.ordering.seed:
            raise InvalidRequest(
                f"the state was saved with seed {seed}, this sequence has {training.ordering.seed}: its epochs are "
                f"others. Make the sequence with seed={seed}"
            )
        return training.plan.settled(cursor)

    def rest(self, state: Mapping[str, object]) -> "RemoteSequence":
        """What is left of the epoch that a state was saved in, as a sequence of its own, for one epoch of `fit`.

        It has as many batches as are left, of this sequence's size. Keras asks for the length of a sequence once a
        `fit`, so the epochs after this one need a `fit` of their own, with the whole sequence; `SaveState` does all of
        that. Raises what `place_of` raises.
        """
        begin = self.place_of(state)
        rest = copy.deepcopy(self)
        rest._client.rest, rest._client.next_number = begin, begin.epoch
        rest._client.connected()
        return rest

    def _resumable(self) -> Feed:
        """The training feed, if what was trained of it is a place in its plan."""
        training = self._client.connected().training
        if training.dataset.is_stream:
            training.state_dict()  # which says why not
        if training.plan.remainder == "wrap":
            raise InvalidRequest(
                "under remainder='wrap' a pass of Keras begins in the middle of an epoch, so there is no state that "
                "holds for any batch size; use remainder='short', 'drop' or 'pad'"
            )
        if type(self).__getitem__ is not RemoteSequence.__getitem__:
            raise InvalidRequest(
                f"{type(self).__name__} has a __getitem__ of its own and is trained in the order in which Keras mixes "
                f"it, which cannot be continued; change batches on the loader instead"
            )
        return training

    @property
    def stats(self) -> SequenceStatistics:
        """Counters until now: batches asked for, found ready, seconds waited, their share of the time."""
        connection = self._client.connection
        if connection is None:
            return SequenceStatistics()
        return replace(connection.passes.statistics, bad_samples=connection.loader.bad_samples.count)

    def __repr__(self) -> str:
        connection, name = self._client.connection, self._client.name
        if self._client.is_closed:
            return f"<RemoteSequence {name} closed>"
        if connection is None:
            return f"<RemoteSequence {name} not connected>"
        passes, bad = connection.passes, connection.loader.bad_samples.count
        return (
            f"<RemoteSequence {name} epoch={passes.number} next={passes.position} "
            f"buffered={passes.buffered}/{self.max_queue_size} replicas={connection.loader.replicas}"
            f"{f' bad_samples={bad}' if bad else ''}>"
        )

    def close(self) -> None:
        """End the connection; threads that wait for a batch get Closed. Idempotent."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401  # any attribute
        if name not in STAY:
            super().__setattr__(name, value)
        elif value != (stays := getattr(self, name)) and name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"{name} of a RemoteSequence stays {stays}, not {value}: {STAY[name]}", stacklevel=2)
