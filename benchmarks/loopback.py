"""A network with nothing but loopback: for programs that listen on every address they find, and with thin lines."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.consumer import MissingError

CLONE_NEWNET = 0x40000000
"""sched.h."""

BURST_NBYTES = 256 << 10
"""Of a thin line: what may pass at once. Loopback's packets have up to 64 KiB."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """This thread, and all processes and threads that it starts, are in one. MissingError where that cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(CLONE_NEWNET):
            raise MissingError(f"a network namespace needs root: {os.strerror(ctypes.get_errno())}")
        try:
            _run("ip link set lo up")
            yield
        finally:
            assert libc.setns(before.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def thin(mb_per_s: float, hosts: Sequence[str]) -> None:
    """In a network that is `alone`: the kernel lets no more pass to and from each of these hosts (tc-htb(8))."""
    _run("tc qdisc add dev lo root handle 1: htb")
    bounds = f"rate {mb_per_s * 8:g}mbit burst {BURST_NBYTES} cburst {BURST_NBYTES} quantum 65536"
    for number, host in enumerate(hosts, 1):
        _run(f"tc class add dev lo parent 1: classid 1:{number} htb {bounds}")
        for end in ("src", "dst"):
            _run(f"tc filter add dev lo parent 1: protocol ip u32 match ip {end} {host}/32 flowid 1:{number}")


def _run(command: str) -> None:
    try:
        subprocess.run(command.split(), check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MissingError(f"{command}: not found (iproute2)") from error
    except subprocess.CalledProcessError as error:
        raise MissingError(f"{command}: {error.stderr.strip()}") from error
