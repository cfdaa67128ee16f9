"""Certificates, tokens and data made for the tests, and loaders that want them.

Nothing here is taken from the machine, no key outlives the run, and no FEEDLINE_… variable of the environment reaches
the tests.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority

from feedline_wire import PROTOCOL, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.status import LoaderStatus, read_status

SAMPLES = 101
"""Prime: no batch size divides it by accident."""

CALL_S = 30.0
"""Every call's deadline: a loader that does not answer is a failed test, not a stuck one."""

DATASETS = """\
[datasets.digits]
path = "digits"

[datasets.scans]
path = "scans"
"""


@pytest.fixture(autouse=True, scope="session")
def _no_environment() -> Iterator[None]:
    """The environment may configure a loader or a trainer, and loaders here live for a whole session."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FEEDLINE_")]:
            patch.delenv(name)
        yield


# ---- data ----


@pytest.fixture(scope="session")
def two_datasets(tmp_path_factory: pytest.TempPathFactory, numbered_columns: Callable[..., Any]) -> Path:
    """A folder with a loader.toml that declares `digits` (101 samples) and `scans` (7)."""
    folder = tmp_path_factory.mktemp("served")
    numbered_columns(folder / "digits", SAMPLES)
    numbered_columns(folder / "scans", 7)
    (folder / "loader.toml").write_text(DATASETS)
    return folder


# ---- tokens ----


def entry(name: str, token: str, datasets: list[str] | None = None) -> str:
    """One token as it stands in the tokens file."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    only = "" if datasets is None else f"datasets = {datasets}\n".replace("'", '"')
    return f'[{name}]\nsha256 = "{digest}"\n{only}\n'


@pytest.fixture(scope="session")
def token_entry() -> Callable[..., str]:
    """An entry of a tokens file: `token_entry(name, token, datasets)`."""
    return entry


# ---- loaders that many tests read from ----


@dataclass(frozen=True, slots=True)
class Secured:
    """A started loader and what was made for it."""

    address: str
    started: Any
    tokens: Path | None = None

    @property
    def log(self) -> str:
        """All it has said."""
        return self.started.log_text()


@pytest.fixture(scope="session")
def tls_loader(two_datasets: Path, authority: Authority, start_shared_loader: Callable[..., Any]) -> Secured:
    """A loader with a certificate for 127.0.0.1, `localhost` and `loader`."""
    pair = authority.issue("loader", "127.0.0.1", "localhost", "loader")
    started = start_shared_loader(
        two_datasets, "--workers", "1", "--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)
    )
    return Secured(started.address, started)


@pytest.fixture(scope="session")
def mutual_loader(two_datasets: Path, authority: Authority, start_shared_loader: Callable[..., Any]) -> Secured:
    """One that lets in only trainers with a certificate of the authority; its health is answered without."""
    pair = authority.issue("loader", "127.0.0.1")
    tls = [
        "--tls-certificate",
        str(pair.certificate),
        "--tls-key",
        str(pair.key),
        "--tls-client-ca",
        str(authority.file),
    ]
    started = start_shared_loader(two_datasets, "--workers", "1", *tls)
    return Secured(started.address, started)


ALICE, BOB, NOBODY = "alice-0f5c7d2e9b", "bob-71aa30c6d4", "nobody-5d0e81f37c"
"""Tokens; NOBODY's is in no file."""


@pytest.fixture(scope="session")
def tokens() -> dict[str, str]:
    """alice may read everything, bob only `scans`, the loader does not know the token of `nobody`."""
    return {"alice": ALICE, "bob": BOB, "nobody": NOBODY}


@pytest.fixture(scope="session")
def token_loader(
    two_datasets: Path, tmp_path_factory: pytest.TempPathFactory, start_shared_loader: Callable[..., Any]
) -> Secured:
    """A loader on this host that wants tokens, without TLS."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    file.write_text(entry("alice", ALICE) + entry("bob", BOB, ["scans"]))
    started = start_shared_loader(two_datasets, "--workers", "1", "--tokens", str(file))
    return Secured(started.address, started, file)


@pytest.fixture(scope="session")
def open_loader(two_datasets: Path, start_shared_loader: Callable[..., Any]) -> Secured:
    """A loader on this host that wants nothing."""
    started = start_shared_loader(two_datasets, "--workers", "1")
    return Secured(started.address, started)


# ---- a caller in plain gRPC ----


class Raw:
    """Calls as any gRPC client makes them, with whatever token or none."""

    def __init__(self, channel: grpc.Channel, token: str | None) -> None:
        self.channel = channel
        self.metadata = () if token is None else ((rpc.AUTHORIZATION, f"{rpc.BEARER} {token}"),)

    def call(self, method: str, wire: bytes, timeout_s: float = CALL_S) -> bytes:
        """One request of any bytes; the answer's."""
        answer: bytes = self.channel.unary_unary(method)(wire, timeout=timeout_s, metadata=self.metadata)
        return answer

    def describe(self) -> pb.Description:
        """What is served."""
        return pb.Description.FromString(
            self.call(rpc.DESCRIBE, pb.DescribeRequest(protocol=PROTOCOL).SerializeToString())
        )

    def status(self) -> LoaderStatus:
        """What it is doing."""
        return read_status(pb.StatusReply.FromString(self.call(rpc.STATUS, b"")))

    def fetch(self, *wires: bytes, timeout_s: float = CALL_S) -> Any:
        """A stream of these requests; iterate it for frames."""
        return self.channel.stream_stream(rpc.FETCH)(iter(wires), timeout=timeout_s, metadata=self.metadata)


@contextmanager
def _raw(address: str, token: str | None = None) -> Iterator[Raw]:
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Raw(channel, token)


@pytest.fixture(scope="session")
def raw() -> Callable[..., Any]:
    """Connect in plain gRPC: `with raw(address, token) as caller: …`."""
    return _raw
