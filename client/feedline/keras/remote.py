"""A view of a dataset as Keras wants it, without Keras: what `RemoteSequence` is in Keras 3 and in Keras 2."""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import FrameType
from typing import Any, Self

from feedline.connection.credentials import CredentialArguments, FilePath
from feedline.fleet.rates import AHEAD_FIRST
from feedline.keras.caller import Run
from feedline.keras.client import Client, check_shards
from feedline.keras.driven import Driven
from feedline.keras.statistics import SequenceStatistics
from feedline.keras.steps import Steps
from feedline.reading.feed import Feed
from feedline.reading.loader import Target
from feedline.reading.options import FeedArguments, epoch_number
from feedline.reading.plan import Cursor, Remainder
from feedline.reading.state import State, read, write
from feedline_wire.errors import BadSample, InvalidRequest
from feedline_wire.lane import Compression
from feedline_wire.verdict import Verdict


class Remote(Driven):
    """A view of a served dataset. The doors say the rest."""

    def __init__(  # noqa: PLR0917  # a dataset is named left to right: where, what, which part, how many, how mixed
        self,
        target: Target,
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
        compression: Compression = "off",
        token: str | None = None,
        token_file: FilePath | None = None,
        ca: FilePath | None = None,
        certificate: FilePath | None = None,
        key: FilePath | None = None,
        server_name: str | None = None,
        insecure: bool | None = None,
        fingerprint: str | bytes | None = None,
        traceparent: str | None = None,
        workers: int | None = None,
        use_multiprocessing: bool | None = None,
        max_queue_size: int | None = None,
    ) -> None:
        backend, processes = self._begin(prefetch or AHEAD_FIRST)
        self._warned: set[str] = set()
        settings = {"workers": workers, "use_multiprocessing": use_multiprocessing, "max_queue_size": max_queue_size}
        for name, value in settings.items():
            if value is not None:
                self._stay(name, value, stacklevel=3)
        self.rank = rank
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
                traceparent=traceparent,
            ),
            connect_timeout_s=connect_timeout_s,
            connections=connections,
            checksum=checksum,
            compression=compression,
            wanted=fingerprint,
            backend=backend,
            processes=processes,
        )
        self._client.connected()

    # ---- batches ----

    @property
    def _steps(self) -> int:
        return self._client.steps

    @property
    def _all_steps(self) -> list[Steps]:
        return [self._client.connected().passes.steps]

    def _answer(self, run: Run | None, index: int, *, keep: bool, paired: bool) -> tuple[Any, ...]:
        connection = self._client.connected()
        if run is not None:
            check_shards(run.shards, connection.canonical.plan.world, self._steps)
        batch = connection.passes.answer(run, index, keep=keep)
        if paired and len(batch.bad):
            raise BadSample(
                f"samples {batch.bad.tolist()} of {self._client.name} cannot be read, and without them the rows of "
                f"batches that are zipped would not belong together; mend them, or leave them out of both datasets",
                samples=batch.bad,
            )
        return batch.as_tuple()

    def _leave(self, frame: FrameType) -> None:
        if self._client.connection is not None:
            self._client.connection.passes.leave(frame)

    # ---- epochs ----

    def set_epoch(self, epoch: int) -> None:
        """The next training pass uses the plan of `epoch`, those after it the plans that follow."""
        self._client.set_next_number(epoch_number(epoch))

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

    def rest(self, state: Mapping[str, object]) -> Self:
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
        if self._is_overridden:
            raise InvalidRequest(
                f"{type(self).__name__} has a __getitem__ of its own and is trained in the order in which Keras mixes "
                f"it, which cannot be continued; change batches on the loader instead, or with map"
            )
        return training

    # ---- what is seen ----

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the target's classes, by number; empty where they have none."""
        return self._client.connected().canonical.dataset.classes

    @property
    def stats(self) -> SequenceStatistics:
        """Counters until now: batches asked for, found ready, seconds waited by stage, their share of the time."""
        connection = self._client.connection
        if connection is None:
            return SequenceStatistics()
        waited: Counter[str] = Counter()
        for feed in {connection.training, connection.canonical}:
            waited.update(feed.stats.stages)
        bad_samples = connection.loader.bad_samples.count
        return replace(connection.passes.statistics, bad_samples=bad_samples, stages=dict(waited))

    def why(self) -> Verdict:
        """What holds `fit` back, of about the last minute: `print(train.why())` is one sentence with a remedy."""
        return self._client.connected().training.why()

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
