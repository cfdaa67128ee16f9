"""Whether a loader may listen where it is told to, as it is told to.

The law: nothing leaves this host unencrypted unless the operator has said so in so many words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from feedline_wire import reach


@dataclass(frozen=True, slots=True)
class Protection:
    """What stands between the loader and whoever reaches it."""

    listen: str
    certificate: Path | None
    key: Path | None
    client_ca: Path | None
    tokens: Path | None
    insecure: bool


def problems(told: Protection) -> Iterator[str]:
    """What makes no sense together, or would open more than the operator has said."""
    if told.certificate is not None and told.key is None:
        yield "tls_certificate: is set without tls_key; wanted both, the certificate and the private key it belongs to"
    if told.key is not None and told.certificate is None:
        yield "tls_key: is set without tls_certificate; wanted both, the private key and its certificate"
    if told.client_ca is not None and told.certificate is None:
        yield (
            "tls_client_ca: is set without tls_certificate and tls_key; trainers show certificates only to a loader "
            "that shows one itself"
        )
    if told.certificate is None and not told.insecure and not reach.is_loopback(told.listen):
        yield (
            f"listen: {told.listen} is reached from other hosts, and nothing that is sent there would be encrypted: "
            f"neither the data nor a token. Do one of these: set tls_certificate and tls_key (docs/security.md says "
            f"how to make them); or listen on 127.0.0.1; or, on a network where you trust everybody, "
            f"say so: --insecure, FEEDLINE_INSECURE=true or insecure = true"
        )


def warnings(told: Protection) -> Iterator[str]:
    """What is allowed and should be known: an operator may not have meant it."""
    if reach.is_loopback(told.listen):
        return
    if told.certificate is None:
        yield "nothing that is sent is encrypted: whoever is on the way reads the data" + (
            " and the tokens" if told.tokens is not None else ""
        )
    if told.tokens is None and told.client_ca is None:
        yield "whoever reaches the port may read every dataset: set tokens or tls_client_ca"
