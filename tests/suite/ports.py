"""Ports for what a test starts, that stay free for it while it is down and started again."""

import contextlib
import os
import random
import socket

PORTS = range(10_000, 30_000)
"""Linux takes those of outgoing connections, and those that a server lets it choose, from 32768 on."""

WORKERS = 16
"""Processes of pytest-xdist that choose among ports of their own; more of them share."""


def free_port(*hosts: str) -> int:
    """A port that is free on all of these addresses, and that nothing else is given meanwhile."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    while True:
        port = random.choice(PORTS[worker::WORKERS])
        with contextlib.ExitStack() as open_ones:
            try:
                for host in hosts:
                    open_ones.enter_context(socket.create_server((host, port)))
            except OSError:
                continue
            return port


def free_address() -> str:
    """One of this host: see `free_port`."""
    return f"127.0.0.1:{free_port('127.0.0.1')}"
