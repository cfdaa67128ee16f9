"""`connect` to loaders, see what they serve, make feeds of it."""

import importlib
import weakref
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Literal, TypeAlias, Unpack

from feedline.connection.credentials import Credentials, FilePath
from feedline.connection.description import DatasetInfo, Description
from feedline.connection.target import Target as Loaders
from feedline.connection.target import entries
from feedline.fleet.fleet import Fleet
from feedline.local.data import is_data
from feedline.reading import options
from feedline.reading.bad_samples import BadSampleCounter
from feedline.reading.epoch import Epoch
from feedline.reading.feed import Feed
from feedline.reading.options import FeedArguments
from feedline.reading.plan import Remainder
from feedline.reading.state import State
from feedline.watching.waits import Waits
from feedline_wire import compression as compressing
from feedline_wire.lane import Compression
from feedline_wire.memory import keep_freed_memory

if TYPE_CHECKING:
    from feedline.fleet.statistics import Statistics
    from feedline.local.loaders import Use
    from feedline_wire.status import LoaderStatus

Target: TypeAlias = Loaders | PathLike[str]
"""What `connect` takes."""

STATUS_TIMEOUT_S = 5.0
"""A loader answers from memory, in milliseconds."""


def connect(
    target: Target,
    *,
    timeout_s: float = 30.0,
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
) -> "Loader":
    """A connection to the loader at `"host:port"`, or to several that serve the same: `"a:1,b:2"` or a list.

    A name stands for all the addresses behind it (`docker compose --scale`, a headless Kubernetes service). Each is
    asked for batches. The name is resolved again every few seconds and when a loader is lost, so loaders may come and
    go in mid-epoch. A function that returns such a target is called again likewise. Where one address stands for
    several loaders (a proxy, a ClusterIP), `connections` is how many are opened to it.

    Data on this host is a target too: a path (`"./digits"`, a Path) or `module:name` of your own Python. A loader is
    started for it, as `feedline.serve` does, shared by all that name the same data in this process, and ended with the
    last of them or with the process.

    Blocks until one loader answered; a loader may start later than its trainer. Raises LoaderUnavailable after
    `timeout_s` (0: when each address was tried once), InvalidRequest if the target is no address, ProtocolMismatch if
    the loader is of another generation, NotTrusted or NotAllowed, with the reason, if one side refuses the other.

    Where the loaders serve several versions of a dataset (`feedline reload`), it is the newest that all of them serve;
    `fingerprint`, 8 or more of its hexadecimal digits or that of a `DatasetInfo`, chooses one. Raises DatasetChanged,
    with what differs, if they have none in common.

    With `checksum`, what a broken network changes on the way is noticed and fetched again, for 0.3 to 0.5 CPU seconds
    a GB on either side; TLS does the same. Batches then come by gRPC, or by the lane that encrypts.

    With `compression="auto"`, loaders compress batches that the line holds up, where that makes them faster: for lines
    of 1 Gbit/s and less. Both ends need the extra `compression`. Not under TLS, where what is sent should not show in
    how long it is, unless `compression` is `"encrypted"` here and at the loader.

    With `ca`, a file with the authority that signed the loaders' certificates (or `"public"`), connections are TLS.
    `server_name` is the name to find in the certificate, if it is not the target's. `certificate` and `key` are files
    for loaders that require them; `token`, or the content of `token_file`, is for loaders with tokens. What is None
    comes from FEEDLINE_CA, FEEDLINE_TOKEN_FILE and so on. Files are read again for every connection. A token goes
    unencrypted to this host only, or with `insecure`.

    `traceparent` (W3C Trace Context; None: TRACEPARENT of the environment) names the trace that the loaders' log lines
    about this connection carry.
    """
    credentials = Credentials(token, token_file, ca, certificate, key, server_name, insecure, traceparent)
    return Loader(target, timeout_s, connections, credentials, checksum, fingerprint, compression)


class Loader:
    """A connection to loaders that serve the same datasets. Made by `connect`. Thread-safe.

    Close it, or use it with `with`. When nothing refers any more to it and its feeds, it is closed as well, a moment
    later. A copy (pickle, deepcopy) is a connection of its own, to the same versions of the datasets.
    """

    def __init__(  # noqa: PLR0917 - called by connect and by pickle
        self,
        at: Target,
        timeout_s: float,
        connections: int,
        credentials: Credentials,
        checksum: bool,
        fingerprint: str | bytes | None = None,
        compression: Compression = "off",
        begun: Mapping[str, str] | None = None,
    ) -> None:
        self.target = at
        """What `connect` was given."""
        self.bad_samples = BadSampleCounter()
        """Of the batches that its feeds handed out."""
        self._waits: dict[object, Waits] = {}  # of `epoch`, by what is read
        self._timeout_s = timeout_s
        self._connections = options.number(
            "connections", connections, 1, options.MOST_CONNECTIONS, "they are counted for each address"
        )
        self._credentials = credentials
        self._checksum = checksum
        self._compression: Compression = compression
        compressing.check(compression)
        self._fingerprint = options.fingerprint(fingerprint)
        keep_freed_memory()
        credentials_now = credentials.completed()
        self._local: Use | None = None
        if is_data(at):
            from feedline.local.loaders import acquire  # for those who have no loader elsewhere

            self._local = acquire(at)
            weakref.finalize(self, self._local.drop).atexit = False
            at = self._local.loader
        assert not isinstance(at, PathLike), "a path is data"
        self._fleet = Fleet(
            entries(at), credentials_now, self._connections, is_checksummed=checksum, compression=self._compression
        )
        try:
            self._description: Description = self._fleet.join(timeout_s, self._fingerprint, begun)
        except BaseException:  # Ctrl-C as well: the caller has no Loader to close
            self.close()
            raise
        # Its threads know the fleet alone. Feeds and what they read ahead keep this object; sequences keep feeds.
        weakref.finalize(self, self._fleet.abandon).atexit = False

    def __repr__(self) -> str:
        now = self.stats
        counts = {"hedged": now.hedged, "retried": now.retried, "duplicates": now.duplicates, "damaged": now.damaged}
        counts["bad_samples"] = now.bad_samples
        happened = "".join(f" {name}={count}" for name, count in counts.items() if count)
        lanes = sorted({one.lane for one in now.replicas if one.state == "connected"} - {"grpc"})
        lane = f" lane={','.join(lanes)}" if lanes else ""
        names = ",".join(self.datasets)
        return f"<Loader {self._fleet.names} datasets={names} replicas={self.replicas}{lane}{happened}>"

    @property
    def replicas(self) -> int:
        """Loaders that are connected now."""
        return self._fleet.connected

    @property
    def stats(self) -> "Statistics":
        """Counters until now: keys hedged, retried, answered twice; bad samples; and each loader's part in it."""
        return replace(self._fleet.statistics, bad_samples=self.bad_samples.count)

    @property
    def datasets(self) -> Mapping[str, DatasetInfo]:
        """The datasets that are served, by name."""
        return self._description.datasets

    def dataset(self, name: str | None = None) -> DatasetInfo:
        """One dataset; None is the only one. Raises InvalidRequest, naming those that are served."""
        return options.chosen(self._description, name)

    def feed(
        self,
        view: str = "train",
        *,
        dataset: str | None = None,
        batch_size: int | None = None,
        order: str | None = None,
        seed: int = 0,
        remainder: Remainder | None = None,
        rank: int | Literal["auto"] = 0,
        world: int = 1,
        prefetch: int | None = None,
        prefetch_bytes: int = 256 << 20,
        timeout_s: float = 60.0,
    ) -> Feed:
        """The batches of a view, for one trainer: rank `rank` of `world`, or with "auto" as in `torch.distributed`.

        Does not block. `batch_size` is this rank's; None is 32, or the size of the ready batches where the dataset's
        own code makes them; a view with fewer samples makes one short batch. `order` is "shuffle" (the default, for
        datasets that have it), "sequential", "blocks:128x256", "replacement" (docs/orders.md). `remainder` says what
        becomes of samples that fill no batch: "short" (the default), "drop", "pad" or "wrap". At most `prefetch`
        batches and about `prefetch_bytes` are fetched ahead, at least one batch; None is 16 batches, and up to 512
        where the way to the loaders is long. Reading a batch raises LoaderStalled or LoaderUnavailable if it is not
        there `timeout_s` seconds after it was asked for.
        Raises InvalidRequest if the arguments make no sense together.
        """
        self._fleet.check_open()
        place: tuple[int, int] = (
            importlib.import_module("feedline.torch").rank_and_world(rank) if isinstance(rank, str) else (rank, world)
        )
        checked = options.checked(
            self._description,
            dataset=dataset,
            view=view,
            order=order,
            seed=seed,
            batch_size=batch_size,
            remainder=remainder,
            rank=place[0],
            world=place[1],
            prefetch=prefetch,
            prefetch_bytes=prefetch_bytes,
            timeout_s=timeout_s,
        )
        return Feed(
            self._fleet,
            checked,
            bad_samples=self.bad_samples,
            reopen=self._reopen,
        )

    def epoch(self, epoch: int = 0, *, start: int = 0, **arguments: Unpack[FeedArguments]) -> Epoch:
        """The batches of one epoch, from batch number `start` on; the arguments are those of `feed`."""
        feed = self.feed(**arguments)
        feed.wait_as(self._waits)
        return feed.epoch(epoch, start)

    def status(self) -> "LoaderStatus":
        """What a loader is doing now: workers, trainers, memory, counters. Blocks for its answer, 5 seconds at most.

        Raises LoaderUnavailable if none is connected.
        """
        return self._fleet.status(STATUS_TIMEOUT_S)

    def statuses(self) -> "dict[str, LoaderStatus]":
        """The same of every loader that is connected, by its address, without those that do not answer."""
        return self._fleet.statuses(STATUS_TIMEOUT_S)

    def close(self) -> None:
        """End the connection; threads that wait for a batch get Closed. Idempotent."""
        self._fleet.close()
        if self._local is not None:
            self._local.release()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        """A token from the environment is taken from that of the copy's process."""
        # Of a stream nothing can be asked for twice, so any version goes on with it.
        begun = {name: one.fingerprint.hex() for name, one in self.datasets.items() if not one.is_stream}
        own = self.target, self._timeout_s, self._connections, self._credentials, self._checksum, self._fingerprint
        return Loader, (*own, self._compression, begun)

    def _reopen(self, arguments: FeedArguments, saved: State | None) -> Feed:
        """The feed of a copied feed, for which this connection was made: it closes it."""
        feed = self.feed(**arguments)
        if saved is not None:
            feed.load_state_dict(saved)
        feed.closes = self.close
        return feed
