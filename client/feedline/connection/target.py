"""What a target of loaders names: `"loader:50051"`, `"a:1,b:2"`, `"ray:digits"`, a list, or a function that says it.

Pure: nothing is resolved and nothing is opened here. A name stands for every address behind it, each a loader of its
own.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from feedline_wire.errors import InvalidRequest

Target: TypeAlias = str | Sequence[str] | Callable[[], Iterable[str]]
"""What `connect` takes."""

_TAKEN_BY_GRPC = ("ipv4:", "ipv6:", "unix:")
"""Address schemes handed on untouched."""

_HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>[0-9]{1,5})")
_IPV4 = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")
_DNS = re.compile(r"dns:(//(?P<server>[^/]*)/)?")

_FLEET = re.compile(r"(?P<engine>ray):(?P<name>[A-Za-z][A-Za-z0-9_-]*)")
"""What has digits behind the colon is a host of that name."""

_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """Where one loader is."""

    at: str
    """As gRPC takes it."""
    host: str | None = None
    """The name it was found by: what a certificate has to be for. None if the address itself was given."""

    def __str__(self) -> str:
        return self.at


@dataclass(frozen=True, slots=True)
class Name:
    """A name, to be resolved to the addresses behind it now."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Source:
    """A function that says where the loaders are now, in the words of a target."""

    ask: Callable[[], Iterable[str]]

    def __str__(self) -> str:
        name = getattr(self.ask, "__name__", None)
        return str(self.ask) if name is None else f"{name}()"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Loaders that an engine runs, by their name there: `ray:digits`."""

    engine: str
    name: str

    def __str__(self) -> str:
        return f"{self.engine}:{self.name}"


Entry: TypeAlias = Address | Name | Source | Fleet
"""A part of a target."""


def entries(target: Target) -> tuple[Entry, ...]:
    """The parts of a target, each once; InvalidRequest says what is wrong with the one that is none."""
    if callable(target):
        return (Source(target),)
    parts = target.split(",") if isinstance(target, str) else [part for each in target for part in _split(each)]
    found = tuple(dict.fromkeys(_entry(part.strip(), target) for part in parts))
    if not found:
        raise InvalidRequest(f"the target {target!r} names no loader; write for example 'loader:50051'")
    return found


def _split(each: object) -> list[str]:
    if not isinstance(each, str):
        raise InvalidRequest(
            f"a target is a string or a list of strings, found {each!r}; write for example 'loader:50051'"
        )
    return each.split(",")


def _entry(text: str, target: str | Sequence[str]) -> Entry:
    where = "" if text == target else f" in the target {target!r}"
    if text.startswith(_TAKEN_BY_GRPC) and not text.endswith(":"):
        return Address(text)
    if fleet := _FLEET.fullmatch(text):
        return Fleet(fleet["engine"], fleet["name"])
    dns = _DNS.match(text)
    if dns is not None and dns["server"] and dns.end() < len(text):
        return Address(text)  # to be asked of a name server of its own, which only gRPC can
    rest = text[dns.end() :] if dns is not None else text
    if "://" in rest:
        raise InvalidRequest(
            f"{text!r}{where} is not an address of a loader, which has no scheme; write for example 'loader:50051'"
        )
    match = _HOST_PORT.fullmatch(rest)
    if match is None:
        if ":" not in text and ("/" in text or text.startswith((".", "~"))):
            raise InvalidRequest(
                f"{text!r}{where} is data on this host, and here loaders are wanted; write for example "
                f"'loader:50051', the address of what `feedline serve {text}` starts"
            )
        data = f"; if data on this host is meant, './{text}'" if ":" not in text and text else ""
        raise InvalidRequest(
            f"{text!r}{where} is not 'host:port'; write for example 'loader:50051' or '[::1]:50051'{data}"
        )
    if not 1 <= int(match["port"]) <= _LARGEST_PORT:
        raise InvalidRequest(f"the port of {text!r}{where} is not in 1..{_LARGEST_PORT}")
    is_address = match["host"].startswith("[") or _IPV4.fullmatch(match["host"])
    return Address(rest) if is_address else Name(match["host"], int(match["port"]))
