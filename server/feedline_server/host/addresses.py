"""Addresses that a loader listens at, and how scripts learn them."""

from collections.abc import Iterable
from pathlib import Path


def with_port(address: str, port: int) -> str:
    """The same host with another port."""
    return f"{address.rpartition(':')[0]}:{port}"


def beside(address: str, index: int) -> str:
    """The address so many ports further; port 0 takes any free one and stays 0."""
    port = int(address.rpartition(":")[2])
    return with_port(address, port + index if port else 0)


def write_ports(file: Path, ports: Iterable[int]) -> None:
    """Write one port a line. Atomic: a script that waits for the file never reads half of it."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text("".join(f"{port}\n" for port in ports))
    partial.replace(file)
