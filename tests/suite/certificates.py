"""Certificates that tests make: no key outlives the run, and nothing is taken from the machine."""

import datetime
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    @property
    def arguments(self) -> tuple[str, ...]:
        """What a loader is told to show it."""
        return "--tls-certificate", str(self.certificate), "--tls-key", str(self.key)

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
            # Without these and, of an authority, the last, Python 3.13 takes none (ssl.VERIFY_X509_STRICT).
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if is_authority:
            builder = builder.add_extension(_SIGNS, critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
        return builder.sign(self._key, hashes.SHA256())


_SIGNS = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)  # fmt: skip


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
