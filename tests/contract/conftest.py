"""The loaders that the contract is for, and a trainer that speaks to them in plain gRPC.

Nothing here or in the tests knows which loader answers, and nothing of the feedline client is used. So what passes is
what loader.proto promises to a client in any language.
"""

import hashlib
import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from feedline.testing import serve
from feedline_wire import IDS, PROTOCOL, frames, rpc, tensors
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import FeedlineError, from_failure
from feedline_wire.frames import Frame, Piece
from feedline_wire.key import Key, to_message
from feedline_wire.status import LoaderStatus, read_status

SAMPLES = 1000
VIEWS = {"train": (0, 900), "validation": (900, 1000)}
SHAPE = (6000,)
"""With float32 24,000 bytes a row: the whole of `train` is a batch of 21.6 MB."""

CALL_S = 60.0
"""Every call's deadline: a loader that does not answer is a failed test, not a stuck one."""

SETTINGS = """\
[datasets.numbers]
kind = "columns"
views.train = "0:900"
views.validation = "900:1000"
categories = {y = ["zero", "one"]}
"""


# ---- loaders ----


@dataclass(frozen=True, slots=True)
class AnyLoader:
    """A loader of the numbered columns."""

    address: str
    drain: Callable[[], None]


@pytest.fixture(scope="session")
def columns(numbered_columns: Callable[..., Mapping[str, NDArray]], served_folder: Path) -> Mapping[str, NDArray]:
    """What every loader here serves: row i of `x` is full of i, and y[i] is i."""
    return numbered_columns(served_folder, SAMPLES, SHAPE, "float32")


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the real loader finds them."""
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "loader.toml").write_text(SETTINGS)
    return folder


@contextmanager
def _fake_loader(columns: Mapping[str, NDArray]) -> Iterator[AnyLoader]:
    views = {name: range(*bounds) for name, bounds in VIEWS.items()}
    with serve(columns, views=views, name="numbers", categories={"y": ["zero", "one"]}, shuffle_answers=True) as loader:
        yield AnyLoader(loader.address, loader.drain)


@pytest.fixture(scope="session")
def real_loader(
    start_shared_loader: Callable[..., Any], served_folder: Path, columns: Mapping[str, NDArray]
) -> AnyLoader:
    """The real loader, in a process of its own; told to stop at the end of the run, it must end with code 0."""
    del columns  # in the folder by now
    loader = start_shared_loader(served_folder, "--workers", "2")
    return AnyLoader(loader.address, loader.drain)


@pytest.fixture(scope="session")
def fake_loader(columns: Mapping[str, NDArray]) -> Iterator[AnyLoader]:
    """The loader in memory that is shipped for users' tests."""
    with _fake_loader(columns) as loader:
        yield loader


@pytest.fixture(scope="session", params=["fake", "real"])
def shared_loader(request: pytest.FixtureRequest) -> AnyLoader:
    """Each kind of loader in turn; one a kind for all tests that leave it as it was."""
    return request.getfixturevalue(f"{request.param}_loader")


@pytest.fixture(params=["fake", "real"])
def own_loader(
    request: pytest.FixtureRequest,
    columns: Mapping[str, NDArray],
    served_folder: Path,
    start_loader: Callable[..., Any],
) -> Iterator[AnyLoader]:
    """Each kind of loader in turn, a fresh one for a test that changes its state."""
    if request.param == "fake":
        with _fake_loader(columns) as fake:
            yield fake
    else:
        real = start_loader(served_folder, "--workers", "1")
        yield AnyLoader(real.address, real.drain)


# ---- a trainer in plain gRPC ----


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole batch as it arrived."""

    body: bytes
    arrays: Mapping[str, NDArray]

    @property
    def digest(self) -> str:
        """Stands for all its bytes; megabytes side by side would tell a reader nothing."""
        return hashlib.blake2b(self.body, digest_size=16).hexdigest()

    @property
    def ids(self) -> list[int]:
        return self.arrays[IDS].tolist()


@dataclass(slots=True)
class RawStream:
    """One Fetch stream. What was received stays readable in `frames` and `sizes`."""

    call: Any
    requests: "queue.SimpleQueue[pb.FetchRequest | None]"
    frames: list[Frame] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Bytes of each frame."""
    _begun: dict[int, list[Piece]] = field(default_factory=dict)

    def want(
        self, wants: Mapping[int, Key], *, cancelled: tuple[int, ...] = (), protocol: int = PROTOCOL, **more: Any
    ) -> None:
        """Want keys by ticket, in this order, in one message; `more` are other fields of it."""
        messages = [pb.Want(ticket=ticket, key=to_message(key)) for ticket, key in wants.items()]
        self.requests.put(pb.FetchRequest(protocol=protocol, wants=messages, cancelled=cancelled, **more))

    def answers(self) -> Iterator[tuple[int, Answered | FeedlineError]]:
        """Answers by ticket as they arrive, until the stream ends; grpc.RpcError if it breaks."""
        for wire in self.call:
            frame = frames.decode(wire)
            self.frames.append(frame)
            self.sizes.append(len(wire))
            for piece in frame.pieces:
                if piece.failure is not None:
                    assert piece.ticket not in self._begun, "a batch that had begun to arrive was refused"
                    yield piece.ticket, from_failure(pb.Failure.FromString(piece.failure))
                elif (answer := self._taken(piece)) is not None:
                    yield piece.ticket, answer

    def receive(self, count: int) -> dict[int, Answered | FeedlineError]:
        """Exactly the next `count` answers; a ticket answered twice is an error."""
        received: dict[int, Answered | FeedlineError] = {}
        answers = self.answers()
        while len(received) < count:
            ticket, answer = next(answers)
            assert ticket not in received, f"ticket {ticket} was answered twice"
            received[ticket] = answer
        return received

    def _taken(self, piece: Piece) -> Answered | None:
        pieces = self._begun.setdefault(piece.ticket, [])
        assert piece.start == sum(len(before.data) for before in pieces), "a piece came out of order"
        assert (piece.header is not None) == (not pieces), "a header belongs to a batch's first piece, and only there"
        pieces.append(piece)
        layout = tensors.read_header(pieces[0].header or b"")
        body = b"".join(part.data for part in pieces)
        assert len(body) <= layout.nbytes, "more arrived than the header said"
        if len(body) < layout.nbytes:
            return None
        del self._begun[piece.ticket]
        return Answered(body, tensors.views(np.frombuffer(body, np.uint8), layout))


class RawLoader:
    """A loader as any gRPC client sees it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def describe(self, protocol: int = PROTOCOL) -> pb.Description:
        call = self.channel.unary_unary(rpc.DESCRIBE, pb.DescribeRequest.SerializeToString, pb.Description.FromString)
        return call(pb.DescribeRequest(protocol=protocol), timeout=CALL_S)

    def status(self) -> LoaderStatus:
        call = self.channel.unary_unary(rpc.STATUS, pb.StatusRequest.SerializeToString, pb.StatusReply.FromString)
        return read_status(call(pb.StatusRequest(), timeout=CALL_S))

    @contextmanager
    def stream(self) -> Iterator[RawStream]:
        """A Fetch stream, cancelled at the end."""
        requests: queue.SimpleQueue[pb.FetchRequest | None] = queue.SimpleQueue()
        fetch = self.channel.stream_stream(rpc.FETCH, pb.FetchRequest.SerializeToString, None)
        call = fetch(iter(requests.get, None), timeout=CALL_S)
        try:
            yield RawStream(call, requests)
        finally:
            requests.put(None)
            call.cancel()

    def fetch(self, *keys: Key) -> list[Answered]:
        """The batches of these keys, all wanted at once on a stream of their own; raises the first failure."""
        with self.stream() as stream:
            stream.want(dict(enumerate(keys)))
            answers = stream.receive(len(keys))
        failures = [answer for answer in answers.values() if isinstance(answer, FeedlineError)]
        if failures:
            raise failures[0]
        return [answers[ticket] for ticket in range(len(keys))]


@contextmanager
def _connected(address: str) -> Iterator[RawLoader]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as channel:
        yield RawLoader(channel)


@pytest.fixture
def connected() -> Callable[[str], Any]:
    """Connect to an address: `with connected(loader.address) as loader: …`."""
    return _connected


@pytest.fixture
def loader(shared_loader: AnyLoader) -> Iterator[RawLoader]:
    """Each kind of loader in turn, connected."""
    with _connected(shared_loader.address) as raw:
        yield raw


@pytest.fixture
def key(loader: RawLoader) -> Callable[..., Key]:
    """Make keys that exist: `key(offset=32)`; whatever is named differs from the first batch of `train`, shuffled."""
    return _keys(loader.describe())


@pytest.fixture
def keys_of() -> Callable[[pb.Description], Callable[..., Key]]:
    """The same for any description."""
    return _keys


def _keys(description: pb.Description) -> Callable[..., Key]:
    (dataset,) = description.datasets

    def make(**different: Any) -> Key:
        first = {
            "dataset": dataset.name,
            "fingerprint": dataset.fingerprint,
            "view": "train",
            "order": "shuffle",
            "seed": 1,
            "epoch": 0,
            "offset": 0,
            "rows": 32,
        }
        return Key(**{**first, **different})

    return make


@pytest.fixture
def refusal_of() -> Callable[[grpc.RpcError], FeedlineError | None]:
    """The error that a failed call brought along, if it did."""

    def refusal(error: grpc.RpcError) -> FeedlineError | None:
        call: Any = error  # every RpcError of a call is the call
        failures = [value for name, value in call.trailing_metadata() or () if name == rpc.FAILURE_METADATA]
        return from_failure(pb.Failure.FromString(failures[0])) if failures else None

    return refusal
