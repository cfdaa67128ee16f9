"""What a target names: `"loader:50051"`, `"a:1,b:2"`, a list of these, `"dns:///name:port"`.

Pure: nothing is resolved and nothing is opened here. What comes out are addresses that gRPC takes as they are.
"""

import re
from collections.abc import Sequence

from feedline_wire.errors import InvalidRequest

_RESOLVED_BY_GRPC = ("dns:", "ipv4:", "ipv6:", "unix:")
"""Address schemes handed on untouched."""

_HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>[0-9]{1,5})")

_LARGEST_PORT = 65535


def addresses(target: str | Sequence[str]) -> tuple[str, ...]:
    """The addresses of a target, each once; InvalidRequest says what is wrong with the one that is none."""
    parts = target.split(",") if isinstance(target, str) else [part for entry in target for part in _split(entry)]
    found = tuple(dict.fromkeys(_checked(part.strip(), target) for part in parts))
    if not found:
        raise InvalidRequest(f"the target {target!r} names no loader; write for example 'loader:50051'")
    return found


def _split(entry: object) -> list[str]:
    if not isinstance(entry, str):
        raise InvalidRequest(
            f"a target is a string or a list of strings, found {entry!r}; write for example 'loader:50051'"
        )
    return entry.split(",")


def _checked(address: str, target: str | Sequence[str]) -> str:
    where = "" if address == target else f" in the target {target!r}"
    if address.startswith(_RESOLVED_BY_GRPC) and not address.endswith(":"):
        return address
    if "://" in address:
        raise InvalidRequest(
            f"{address!r}{where} is not an address of a loader, which has no scheme; write for example 'loader:50051'"
        )
    match = _HOST_PORT.fullmatch(address)
    if match is None:
        raise InvalidRequest(
            f"{address!r}{where} is not 'host:port'; write for example 'loader:50051' or '[::1]:50051'"
        )
    if not 1 <= int(match["port"]) <= _LARGEST_PORT:
        raise InvalidRequest(f"the port of {address!r}{where} is not in 1..{_LARGEST_PORT}")
    return address
