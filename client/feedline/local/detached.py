"""Loaders on this host that outlive the command that started them: found again by a name, and ended by it."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from feedline.local.data import is_object
from feedline.local.process import LAST_LINES, environment, own_folders, reason
from feedline.local.run_directory import Process, Record, RunDirectory
from feedline.local.server import need_server
from feedline_wire.errors import LoaderUnavailable
from feedline_wire.reach import host_of

ENGINE = "local"

LOOK_S = 0.05
"""How often a starting loader is looked at: no event tells that a file has appeared."""

KILL_AFTER_S = 10.0
"""Loaders end in a second more than their time to drain; one that takes so much longer is stuck."""

DRAIN_S = 20.0
"""The default of `--drain-timeout-s`."""


def start(
    path: "str | os.PathLike[str]",
    options: Sequence[str],
    *,
    name: str,
    replicas: int,
    workers: int | None,
    timeout_s: float,
    directory: RunDirectory,
) -> Record:
    """Start loaders of this data, `workers` processes each, and leave them running. `options`: of `feedline serve`.

    Blocks until all serve. Raises InvalidRequest if there is a fleet of this name, LoaderUnavailable, with what they
    say, if they cannot serve, or do not within `timeout_s`. Then nothing stays, but a log that the error names.
    """
    need_server()
    with directory.locked(name):
        known = directory.read(name)
        if known is not None and not (known.engine == ENGINE and known.process and not known.process.is_running):
            raise directory.taken(name)
        directory.forget(name)
        text = os.fspath(path)
        data = text if is_object(text) else str(Path(text).expanduser().absolute())
        words = (data, "--replicas", str(replicas), *options)
        if workers is not None:
            words = (*words, "--workers", str(workers * replicas))
        return _started(words, name, replicas, timeout_s, directory)


def stop(name: str, record: Record, *, timeout_s: float, directory: RunDirectory) -> bool:
    """End them: trainers move on, and what has not ended after `timeout_s` is killed. Whether they were running."""
    with directory.locked(name):
        was_running = record.process is not None and _end(record.process, timeout_s)
        directory.forget(name)
    return was_running


def _started(words: tuple[str, ...], name: str, replicas: int, timeout_s: float, directory: RunDirectory) -> Record:
    ports, log = directory.file(name, "ports"), directory.file(name, "log")
    listen = [] if _listen(words) else ["--listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "feedline_server", "serve", *words, *listen, "--port-file", str(ports)]
    with _left_as_it_was(name, log, directory):
        with log.open("w") as out:
            child = subprocess.Popen(  # noqa: S603 - our own program
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment(own_folders()),
                start_new_session=True,  # the terminal may be closed
            )
        process = Process.of(child.pid)
        try:
            # Now: one that is killed while it waits leaves a fleet that can be ended.
            directory.write(name, Record(ENGINE, words, replicas, process))
            addresses = _await(child, ports, log, _listen(words) or "127.0.0.1:0", timeout_s)
        except BaseException:
            child.terminate()
            try:
                child.wait(KILL_AFTER_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            raise
    record = Record(ENGINE, words, replicas, process, addresses)
    directory.write(name, record)
    child.returncode = 0  # it is not waited for here
    return record


@contextlib.contextmanager
def _left_as_it_was(name: str, log: Path, directory: RunDirectory) -> Iterator[None]:
    """Where this fails nothing stays of the fleet, but a log that the error names."""
    try:
        yield
    except BaseException as error:
        directory.forget(name)
        if str(log) not in str(error):
            log.unlink(missing_ok=True)
        raise


def _await(child: "subprocess.Popen[bytes]", ports: Path, log: Path, listen: str, timeout_s: float) -> tuple[str, ...]:
    deadline = time.monotonic() + timeout_s
    while not ports.exists():
        if (code := child.poll()) is not None:
            lines = log.read_text(errors="replace").splitlines()
            last = reason("\n".join(lines[-LAST_LINES:]))
            more = f"\nits log: {log}" if len(lines) > LAST_LINES else ""
            raise LoaderUnavailable(f"the loader ended with code {code} before it served: {last}{more}")
        if time.monotonic() >= deadline:
            raise LoaderUnavailable(f"the loader did not serve within {timeout_s:g} s; its log: {log}")
        time.sleep(LOOK_S)
    host = host_of(listen)
    host = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - what is listened on is not an address
    host = f"[{host}]" if ":" in host else host
    return tuple(f"{host}:{port}" for port in ports.read_text().split())


def _listen(words: Sequence[str]) -> str:
    """What the options say; empty if nothing."""
    for at, word in enumerate(words):
        if word == "--listen" and at + 1 < len(words):
            return words[at + 1]
        if word.startswith("--listen="):
            return word.partition("=")[2]
    return ""


def _end(process: Process, timeout_s: float) -> bool:
    """Whether it was running."""
    try:
        fd = os.pidfd_open(process.pid)
    except (ProcessLookupError, OSError):
        return False
    try:
        if not process.is_running:  # asked after the descriptor was opened, which stands for this one process
            return False
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            poll.poll(KILL_AFTER_S * 1000)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
    return True
