"""Everything that can go wrong, named by whose turn it is to act.

The caller's: InvalidRequest, Closed. The operator's, with tokens and certificates: NotAllowed, NotTrusted. The
dataset's: DataError and below. The network's or the loader's: LoaderUnavailable and below. An error travels as a
`Failure` and arrives as itself, with the worker's traceback; an error's text alone is enough to act on, because
TensorFlow keeps only the text.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feedline_wire import loader_pb2 as pb

SAMPLES_NAMED = 16
"""Sample ids an error carries at most; the batch's key names the rest."""


TEXT_KEPT = 8 << 10
"""Characters at either end of a text that an error carries: what went wrong stands there, and what is between is data.
Texts of megabytes broke lanes and streams."""

HEADER_KEPT = 400
"""The same of an error that ends a call: it is in a header, and gRPC takes 8 KiB of headers."""

TEXT_SPARE = 256
"""A text is cut if it is longer by so much: the words that say so do not make it longer than it was."""


def cut(text: str, kept: int = TEXT_KEPT) -> str:
    """The text, or the first and the last `kept` characters of it where it is much longer. Idempotent."""
    if len(text) <= 2 * kept + TEXT_SPARE:
        return text
    return f"{text[:kept]}\n[… {len(text) - 2 * kept:,} characters are left out here …]\n{text[-kept:]}"


class FeedlineError(Exception):
    """Anything feedline raises on purpose. Its text and its traceback are cut where they are long (`cut`)."""

    def __init__(
        self,
        message: str,
        *,
        traceback: str = "",
        samples: Iterable[int] = (),
        elsewhere: bool = False,
        evidence: object = None,
    ) -> None:
        super().__init__(cut(message))
        self.traceback = cut(traceback)
        """The traceback in the worker, as text; empty when the error was not raised by the dataset's code."""
        self.samples = tuple(int(sample) for sample in samples)[:SAMPLES_NAMED]
        """Ids of the samples concerned, the first few."""
        self.elsewhere = elsewhere
        """Another replica may be able to answer the same key."""
        self.evidence = evidence
        """What the loader's page shows of the samples (the server's `sources.evidence`). It never goes to a trainer."""

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n\nIn the loader's worker:\n{self.traceback}" if self.traceback else message

    def __reduce__(self) -> tuple[object, ...]:
        state = {"traceback": self.traceback, "samples": self.samples, "elsewhere": self.elsewhere}
        if self.evidence is not None:
            state["evidence"] = self.evidence
        return (type(self), self.args, state)


class InvalidRequest(FeedlineError, ValueError):
    """The caller asked for something that does not exist or makes no sense."""


class Closed(FeedlineError, RuntimeError):
    """The object was closed, here, before or while this was asked."""


class NotAllowed(FeedlineError, PermissionError):
    """The loader does not know this caller: no token or certificate was shown, or not one that it accepts."""


class NotTrusted(FeedlineError, ConnectionError):
    """This side does not believe that it speaks to the loader, or only one of them speaks TLS: nothing was sent."""


class DataError(FeedlineError):
    """The dataset cannot give what was asked."""


class BadSample(DataError):
    """A sample cannot be read or transformed; the message and `samples` name it."""


class BatchKillsWorkers(DataError):
    """Assembling one batch ended several worker processes; the message and `samples` name it."""


class DatasetChanged(DataError):
    """The dataset served is not the one asked for: another fingerprint."""


class LoaderUnavailable(FeedlineError, ConnectionError):
    """No loader answers at the address."""


class LoaderStalled(LoaderUnavailable, TimeoutError):
    """A loader is connected, but what was asked did not arrive in time."""


class LoaderBusy(LoaderUnavailable):
    """The loader has no room for another trainer or a larger request now."""


class LoaderStarting(LoaderUnavailable):
    """No loader is there yet, and one was asked for: `feedline autoscale` answers so. `connect` waits longer for it."""


class NoLoaderHere(LoaderUnavailable):
    """What answers is the autoscaler of a fleet, whose loaders are elsewhere in the target."""


class LoaderDraining(LoaderUnavailable):
    """The loader is shutting down and takes no new keys."""


class Damaged(LoaderUnavailable):
    """What arrived is not what was sent: the checksum is another. Nothing of it was used; it is asked for again."""


class ProtocolMismatch(FeedlineError):
    """Trainer and loader do not speak the same version of the contract."""


class LoaderBroken(FeedlineError):
    """A fault of feedline itself inside the loader; the traceback belongs in a bug report."""


def _with_kinds_of(kind: type[FeedlineError]) -> list[type[FeedlineError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _with_kinds_of(below))]


_BY_NAME = {kind.__name__: kind for kind in _with_kinds_of(FeedlineError) if kind not in {Closed, NotTrusted}}
"""What may arrive: not what only this side can find out."""


def to_failure(error: FeedlineError, kept: int = TEXT_KEPT) -> "pb.Failure":
    """The error as it travels, with `kept` characters at either end of its texts."""
    from feedline_wire import loader_pb2 as pb

    return pb.Failure(
        kind=type(error).__name__,
        message=_sendable(cut(str(error.args[0]) if error.args else "", kept)),
        traceback=_sendable(cut(error.traceback, kept)),
        samples=error.samples,
        elsewhere=error.elsewhere,
    )


def _sendable(text: str) -> str:
    # A file name that is not UTF-8 leaves lone surrogates in a message; protobuf refuses them and the failure is lost.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_failure(wire: bytes) -> FeedlineError:
    """The error that arrived as bytes; ProtocolMismatch if they are none."""
    from google.protobuf.message import DecodeError

    from feedline_wire import loader_pb2 as pb

    try:
        return from_failure(pb.Failure.FromString(wire))
    except DecodeError:
        return ProtocolMismatch(f"{len(wire)} bytes stand where a failure belongs and are none")


def from_failure(failure: "pb.Failure") -> FeedlineError:
    """The error that arrived; a kind this side does not know yet becomes the plain FeedlineError naming it."""
    kind = _BY_NAME.get(failure.kind)
    message = failure.message if kind is not None else f"{failure.kind}: {failure.message}"
    return (kind or FeedlineError)(
        message, traceback=failure.traceback, samples=failure.samples, elsewhere=failure.elsewhere
    )
