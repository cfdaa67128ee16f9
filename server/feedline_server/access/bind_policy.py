"""Whether a loader may listen where it is protection to, as it is protection to.

The law: nothing leaves this host unencrypted unless the operator has said so in so many words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from feedline_wire import reach


@dataclass(frozen=True, slots=True)
class Protection:
    """What stands between the loader and those who reach it."""

    listen: str
    metrics_listen: str | None
    certificate: Path | None
    key: Path | None
    client_ca: Path | None
    tokens: Path | None
    insecure: bool


def problems(protection: Protection) -> Iterator[str]:
    """Settings that contradict each other, or that would let more be read than the operator has allowed."""
    if protection.certificate is not None and protection.key is None:
        yield "tls_certificate: is set without tls_key; wanted both, the certificate and the private key it belongs to"
    if protection.key is not None and protection.certificate is None:
        yield "tls_key: is set without tls_certificate; wanted both, the private key and its certificate"
    if protection.client_ca is not None and protection.certificate is None:
        yield (
            "tls_client_ca: is set without tls_certificate and tls_key; trainers show certificates only to a loader "
            "that shows one itself"
        )
    for setting, address in (("listen", protection.listen), ("metrics_listen", protection.metrics_listen)):
        if address is None or protection.certificate is not None or protection.insecure or reach.is_loopback(address):
            continue
        yield (
            f"{setting}: {address} is reached from other hosts, and nothing that is sent there would be "
            f"encrypted: neither the data nor a token. Do one of these: set tls_certificate and tls_key "
            f"(docs/security.md says how to make them); or listen on 127.0.0.1; or, on a network where you trust "
            f"everybody, say so: --insecure, FEEDLINE_INSECURE=true or insecure = true"
        )


def warnings(protection: Protection) -> Iterator[str]:
    """What is allowed, and may not be meant."""
    if reach.is_loopback(protection.listen) and reach.is_loopback(protection.metrics_listen or protection.listen):
        return
    if protection.certificate is None:
        yield "nothing that is sent is encrypted: everybody on the way can read the data" + (
            " and the tokens" if protection.tokens is not None else ""
        )
    if protection.tokens is None and protection.client_ca is None:
        yield "everybody who reaches the port may read every dataset: set tokens or tls_client_ca"
