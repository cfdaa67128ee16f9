"""Addresses that a loader listens at, and how scripts learn them."""

import errno
import socket
from collections.abc import Iterable
from pathlib import Path

from feedline_wire.errors import LoaderUnavailable


def checked(text: str, example: int) -> str:
    """The address, to listen at. ValueError, with what is wanted, if it is none; `example` is a port for that."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= 65535):  # 65535 is TCP's last port
        raise ValueError(f"host:port, such as 127.0.0.1:{example} or 0.0.0.0:{example} or [::]:{example}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"host:port with an IPv6 host in brackets, such as [::]:{example}")
    return text


def with_port(address: str, port: int) -> str:
    """The same host with another port."""
    return f"{address.rpartition(':')[0]}:{port}"


def beside(address: str, index: int) -> str:
    """The address so many ports further; port 0 takes any free one and stays 0."""
    port = int(address.rpartition(":")[2])
    return with_port(address, port + index if port else 0)


def write_lines(file: Path, numbers: Iterable[int]) -> None:
    """Write one number a line. Atomic: a script that waits for the file never reads half of it."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text("".join(f"{number}\n" for number in numbers))
    partial.replace(file)


def check_free(address: str, option: str) -> None:
    """LoaderUnavailable if a loader could not listen there now. Asked before data is opened, which may take minutes."""
    host, _, port = address.rpartition(":")
    if port == "0":
        return
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, kind, protocol, _, at = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC: what has ended there is no obstacle
            probe.bind(at)
    except OSError as error:
        why = f"({error.strerror})"
        if error.errno == errno.EADDRINUSE:
            why = f"the port is in use (`ss -ltnp sport = :{port}` says by whom)"
        raise LoaderUnavailable(f"cannot listen on {address!r}: {why}; choose another with {option}") from error
