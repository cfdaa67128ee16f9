"""Certificates and keys in files, as both sides take them: read whole, and checked before gRPC sees them.

gRPC says "Failed to create security handshaker" to whatever is wrong with them, and says it on every connection. Here
an error names the file and what to change, and nothing of a key is ever in it.
"""

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from feedline_wire.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

NOT_PEM = "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with the chain below it, and the private key that belongs to it; both in PEM form."""

    chain: bytes
    key: bytes = field(repr=False)


def read_pair(certificate: "Path", key: "Path") -> Pair:
    """Both files, which belong together; InvalidRequest says which is wrong and how."""
    pair = Pair(read(certificate), read(key))
    _check_certificates(certificate, pair.chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidRequest(
                f"the key {key} does not belong to the certificate {certificate}; give those that were made together"
            ) from None
        raise InvalidRequest(f"{key}: is not a private key in PEM form ({error.reason or error})") from None
    except OSError as error:
        raise InvalidRequest(f"{certificate}, {key}: cannot be read ({error.strerror})") from None
    except _Encrypted:
        raise InvalidRequest(
            f"{key}: is encrypted, and nobody is there to type its passphrase; write it without one "
            f"(openssl pkey -in … -out …) into a file that only this user can read"
        ) from None
    return pair


def read_authorities(file: "Path") -> bytes:
    """The certificates of authorities in a file; InvalidRequest if there is none."""
    content = read(file)
    _check_certificates(file, content)
    return content


def read(file: "Path") -> bytes:
    """The whole file; InvalidRequest if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{file}: cannot be read ({error.strerror})") from error


class _Encrypted(Exception):
    """OpenSSL asked for a passphrase."""


def _no_passphrase() -> str:
    # Without this OpenSSL would ask on the terminal, and a loader that nobody watches would never start.
    raise _Encrypted


def _check_certificates(file: "Path", content: bytes) -> None:
    try:
        text = content.decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text[text.index("-----BEGIN") :])
    except (ssl.SSLError, ValueError):
        raise InvalidRequest(f"{file}: {NOT_PEM}") from None
