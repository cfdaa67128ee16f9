"""The loader's certificate, and the authorities whose clients it accepts."""

from dataclasses import dataclass
from pathlib import Path

from feedline_server.access.reload import HotReloaded
from feedline_wire import pem
from feedline_wire.pem import Pair


@dataclass(frozen=True, slots=True)
class Tls:
    """The loader's certificate and key, and the authorities whose clients it accepts; None: clients need none."""

    pair: Pair
    client_ca: bytes | None


def hot_reloaded_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> HotReloaded[Tls] | None:
    """The loader's TLS, hot reloaded; None without certificate. Raises InvalidRequest if the files are not valid."""
    if certificate is None or key is None:
        return None
    return HotReloaded(
        "certificates",
        (certificate, key) if client_ca is None else (certificate, key, client_ca),
        lambda: Tls(pem.read_pair(certificate, key), None if client_ca is None else pem.read_authorities(client_ca)),
    )
