"""Certificates, tokens and data made for the tests, and loaders that want them.

Nothing here is taken from the machine, no key outlives the run, and no FEEDLINE_… variable of the environment reaches
the tests.
"""

import datetime
import hashlib
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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


# ---- certificates ----


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    def replace_with(self, other: "Issued") -> None:
        """Put another pair in the place of this one, one file after the other, as an operator does."""
        for mine, theirs in ((self.certificate, other.certificate), (self.key, other.key)):
            replaced(mine, theirs.read_text())


class Authority:
    """Signs certificates; `file` is its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issued = 0
        certificate = self._signed(self._name, self._key.public_key(), days=(0, 10), names=(), is_authority=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *hosts: str, days: tuple[int, int] = (0, 10)) -> Issued:
        """A certificate for `name`, valid for `hosts` (names and addresses) and between these days from now."""
        self._issued += 1
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key.public_key(), days=days, names=hosts, is_authority=False)
        issued = Issued(
            self._folder / f"{name}-{self._issued}-{id(self)}.pem",
            self._folder / f"{name}-{self._issued}-{id(self)}.key",
        )
        issued.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return issued

    def _signed(
        self, subject: x509.Name, key: Any, *, days: tuple[int, int], names: tuple[str, ...], is_authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0], hours=-1))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
        return builder.sign(self._key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def replaced(file: Path, text: str) -> None:
    """Other content under the same name, at once, as careful operators and orchestrators write files."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text)
    partial.replace(file)


@pytest.fixture(scope="session")
def new_authority(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Authority]:
    """Make an authority that no loader or trainer trusts yet."""
    return lambda name: Authority(tmp_path_factory.mktemp("authority"), name)


@pytest.fixture(scope="session")
def authority(new_authority: Callable[[str], Authority]) -> Authority:
    """The one that loaders and trainers here trust."""
    return new_authority("operator")


@pytest.fixture(scope="session")
def stranger(new_authority: Callable[[str], Authority]) -> Authority:
    """An authority that no loader or trainer here trusts."""
    return new_authority("stranger")


@pytest.fixture(scope="session")
def replace_file() -> Callable[[Path, str], None]:
    """Give a file other content, at once."""
    return replaced


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


@pytest.fixture
def free_port() -> int:
    """A port on which no process listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


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
