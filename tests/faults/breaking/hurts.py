"""What is done to a process. Each returns when it was done and, where it ends the process, when that has ended."""

import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from breaking import memory

STOPPED_S = 5.0
"""How long a stopped process stands still."""

END_S = 180.0
"""Until a process that is killed, or told to end, has ended. A loader drains for 20 s at most."""


def kill(process: psutil.Process) -> None:
    """SIGKILL: a crash."""
    process.kill()
    wait_for_end(process)


def stop(process: psutil.Process) -> None:
    """SIGSTOP and, later, SIGCONT: a machine that hangs, a debugger, a laptop that sleeps."""
    process.suspend()
    try:
        time.sleep(STOPPED_S)  # this is the fault
    finally:
        process.resume()


def terminate(process: psutil.Process) -> None:
    """SIGTERM: told to end. A worker ignores it, because its loader decides; the others are waited for."""
    is_worker = "feedline_server.workers.worker" in process.cmdline()
    process.terminate()
    if not is_worker:
        wait_for_end(process)


def exhaust(process: psutil.Process) -> None:
    """Out of memory: it takes more than its control group may have, and the kernel ends it."""
    _wait_for_handler(process)
    with memory.little_memory() as group:
        group.take_in(process.pid)
        process.send_signal(signal.SIGUSR1)  # inside/sitecustomize.py: take memory until that ends
        wait_for_end(process)
        assert group.kills == 1, f"{process} did not end by the hand of the kernel"


def _wait_for_handler(process: psutil.Process) -> None:
    """Wait until it hears SIGUSR1; a worker that was started a moment ago would end by it."""
    until = time.monotonic() + END_S
    status = Path(f"/proc/{process.pid}/status")
    while not int(status.read_text().split("SigCgt:")[1].split()[0], 16) & 1 << (signal.SIGUSR1 - 1):
        assert time.monotonic() < until, f"{process} does not begin"
        time.sleep(0.01)  # no event tells it


def wait_for_end(process: psutil.Process) -> None:
    """Wait until it has ended, and leave its exit code to its parent."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        ended = select.poll()  # select takes no descriptor above 1023, and a flood of connections has some
        ended.register(fd, select.POLLIN)
        assert ended.poll(END_S * 1000), f"{process} runs on after {END_S} s"
    finally:
        os.close(fd)


HURTS: dict[str, Callable[[psutil.Process], None]] = {
    "kill": kill,
    "stop": stop,
    "terminate": terminate,
    "exhaust": exhaust,
}
