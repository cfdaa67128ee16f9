"""Loaders in containers of this host's Docker engine, by a checkout's docker-compose.yml: `docker compose`, or 1.29."""

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from feedline.local.data import is_object
from feedline.local.run_directory import Record, RunDirectory
from feedline_wire.errors import FeedlineError, InvalidRequest

ENGINE = "compose"

SERVICE, PORT, TCP_PORT = "loader", "50051", "50061"
"""In docker-compose.yml."""

STOP_S = 30
"""Its `stop_grace_period`: more than a loader's time to drain."""


class ComposeFailed(FeedlineError):
    """Compose, or the Docker engine, refused; the message is what it said."""


def command() -> list[str]:
    """How Compose is called here. Raises ComposeFailed if it is not installed."""
    docker = shutil.which("docker")
    if docker is not None:
        asked = subprocess.run([docker, "compose", "version"], capture_output=True, check=False)  # noqa: S603
        if asked.returncode == 0:
            return [docker, "compose"]
    if (older := shutil.which("docker-compose")) is not None:
        return [older]
    raise ComposeFailed(
        "neither `docker compose` nor `docker-compose` is here; install Docker's Compose plugin, or run the loaders "
        "without containers: feedline up --on local"
    )


def start(
    path: "str | os.PathLike[str]",
    *,
    name: str,
    replicas: int,
    workers: int | None,
    file: Path,
    directory: RunDirectory,
) -> Record:
    """Start containers that serve this folder, and leave them running. `file` is feedline's docker-compose.yml.

    Blocks until they were started; the first time that builds the image. Raises InvalidRequest if there is a fleet of
    this name or the folder cannot be mounted, ComposeFailed with what Compose says.
    """
    with directory.locked(name):
        if directory.read(name) is not None:
            raise directory.taken(name)
        if not file.is_file():
            raise InvalidRequest(
                f"{file}: there is no such file; wanted feedline's docker-compose.yml: run this in a checkout, or name "
                f"it with --file"
            )
        words = ("-p", f"feedline-{name.lower()}", "-f", str(file.absolute()))
        environment = {
            "FEEDLINE_DATA": str(_folder(path)),
            "FEEDLINE_PORT": os.environ.get("FEEDLINE_PORT") or (str(_free_port()) if replicas == 1 else "0"),
            "FEEDLINE_TCP_PORT": os.environ.get("FEEDLINE_TCP_PORT") or _tcp_port(replicas),
            "FEEDLINE_WORKERS": str(workers) if workers is not None else os.environ.get("FEEDLINE_WORKERS", ""),
        }
        command()  # without it what is written here could not be ended either
        record = Record(ENGINE, words, replicas, more=environment)
        directory.write(name, record)
        try:
            _run(record, "up", "-d", "--scale", f"{SERVICE}={replicas}", SERVICE, is_shown=True)
            record = Record(ENGINE, words, replicas, None, addresses(record), environment)
        except BaseException:
            _run(record, "down", "--timeout", str(STOP_S), is_checked=False)
            directory.forget(name)
            raise
        directory.write(name, record)
    return record


def stop(name: str, record: Record, *, directory: RunDirectory) -> bool:
    """End and remove them; trainers move on. Whether there were any. Raises ComposeFailed with what Compose says."""
    with directory.locked(name):
        was_running = bool(_run(record, "ps", "-q", SERVICE).strip())
        _run(record, "down", "--timeout", str(STOP_S))
        directory.forget(name)
    return was_running


def addresses(record: Record) -> tuple[str, ...]:
    """Where the containers' ports are on this host now, without those that do not run."""
    found = []
    for index in range(1, record.replicas + 1):
        at = _run(record, "port", "--index", str(index), SERVICE, PORT, is_checked=False).strip()
        if at.rpartition(":")[2] not in {"", "0"}:
            found.append(at.splitlines()[0])
    return tuple(found)


def _run(record: Record, *words: str, is_checked: bool = True, is_shown: bool = False) -> str:
    done = subprocess.run(  # noqa: S603 - Compose, found on the PATH
        [*command(), *record.words, *words],
        env={**os.environ, **record.more},
        stdin=subprocess.DEVNULL,
        stdout=None if is_shown else subprocess.PIPE,
        stderr=None if is_shown else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode and is_checked:
        why = (done.stderr or "the reason is above").strip()
        raise ComposeFailed(f"Compose's {words[0]} ended with code {done.returncode}: {why}")
    return done.stdout or ""


def _folder(path: "str | os.PathLike[str]") -> Path:
    text = os.fspath(path)
    if is_object(text):
        raise InvalidRequest(f"{text}: is Python; with Compose it is code of a loader.toml's folder (docs/docker.md)")
    found = Path(text).expanduser().absolute()
    folder = found.parent if found.name == "loader.toml" and found.is_file() else found
    if not folder.is_dir():
        raise InvalidRequest(f"{path}: is no folder, nor a loader.toml in one; containers are given a whole folder")
    return folder


def _tcp_port(replicas: int) -> str:
    """That of the container, where trainers look for the tcp lane; any other where it is taken, and none will come."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", int(TCP_PORT)))
        except OSError:
            return "0"
    return TCP_PORT if replicas == 1 else "0"


def _free_port() -> int:
    """One that nobody has now; it stays the container's over its restarts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def refuse(options: Sequence[str]) -> None:
    """InvalidRequest where options of `feedline serve` were given: containers take variables."""
    if options:
        raise InvalidRequest(
            f"{options[0]}: a container takes no options of `feedline serve`; write a loader.toml into the folder, or "
            f"set FEEDLINE_… (docs/docker.md)"
        )
