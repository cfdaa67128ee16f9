"""What runs fleets by their names: this host, Docker Compose, a Ray cluster. For `feedline up`, `down` and `status`."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from feedline.local import compose, detached
from feedline.local.run_directory import Record, RunDirectory
from feedline_wire.errors import FeedlineError, InvalidRequest
from feedline_wire.text import counted

EngineName: TypeAlias = Literal["local", "compose", "ray"]

ENGINES: tuple[EngineName, ...] = ("local", "compose", "ray")


@dataclass(frozen=True, slots=True)
class Running:
    """A fleet that was found."""

    engine: EngineName
    name: str
    target: str
    """What a trainer writes; empty while nothing serves."""
    described: str
    """For people."""
    stop: Callable[[float], bool]
    """End it, within so many seconds; whether it ran."""


def add_name(parser: argparse.ArgumentParser, *, or_all: str = "") -> None:
    """Which fleet; where, if that is not clear. `or_all`: what there is without a name, which then may be left out."""
    help_ = "of the fleet, as `feedline up` was told"
    if or_all:
        parser.add_argument("name", metavar="NAME", nargs="?", help=f"{help_}; without it: {or_all}")
    else:
        parser.add_argument("name", metavar="NAME", help=help_)
    parser.add_argument("--on", choices=ENGINES, help="where it runs (default: this host, else Ray)")


def up(args: argparse.Namespace, replicas: tuple[int, int]) -> Running:
    """Start what the arguments say."""
    least, most = replicas
    if args.on == "ray":
        import feedline.ray

        feedline.ray.start(
            args.path,
            *args.passed_on,
            name=args.name,
            replicas=replicas,
            workers=args.workers or 1,
            timeout_s=args.start_timeout_s,
            **_credential_files(args),
        )
        return _on_ray(args.name)
    if least != most:
        raise InvalidRequest(
            f"--replicas {least}..{most}: only --on ray follows what trainers want; here say one number, and see "
            f"`feedline autoscale` for a fleet that another program scales"
        )
    directory = RunDirectory()
    if args.on == "compose":
        compose.refuse(args.passed_on)
        record = compose.start(
            args.path, name=args.name, replicas=least, workers=args.workers, file=args.file, directory=directory
        )
    else:
        record = detached.start(
            args.path,
            args.passed_on,
            name=args.name,
            replicas=least,
            workers=args.workers,
            timeout_s=args.start_timeout_s,
            directory=directory,
        )
    return _here(args.name, record, directory)


def find(name: str, on: EngineName | None) -> Running:
    """The fleet of that name: of this host, else on Ray. Raises InvalidRequest if there is none."""
    directory = RunDirectory()
    record = directory.read(name)
    if record is not None and on in {None, record.engine}:
        return _here(name, record, directory)
    other = ""
    if on in {None, "ray"}:
        try:
            return _on_ray(name)
        except FeedlineError as error:
            if on == "ray":
                raise
            other = f"; on Ray: {error}"
    here = ", ".join(directory.names()) or "none"
    raise InvalidRequest(f"there is no fleet {name!r} on this host; there are: {here}{other}")


def all_here() -> list[Running]:
    """The fleets that were started on this host, as processes or containers."""
    directory = RunDirectory()
    records = [(name, directory.read(name)) for name in directory.names()]
    return [_here(name, record, directory) for name, record in records if record is not None]


def _here(name: str, record: Record, directory: RunDirectory) -> Running:
    if record.engine == compose.ENGINE:
        at = compose.addresses(record)
        return Running(
            "compose",
            name,
            ",".join(at),
            f"compose fleet {name}: {len(at)} of {record.replicas} containers run, of {record.more['FEEDLINE_DATA']}; "
            f"their logs: {' '.join([*compose.command(), *record.words, 'logs', compose.SERVICE])}",
            lambda _timeout_s: compose.stop(name, record, directory=directory),
        )
    process = record.process
    runs = process is not None and process.is_running
    log = directory.file(name, "log")
    return Running(
        "local",
        name,
        ",".join(record.addresses) if runs else "",
        f"local fleet {name}: "
        + (f"process {process.pid} serves" if runs and process else "it has ended; it was to serve")
        + f" {_served(record)}; its log: {log}",
        lambda timeout_s: detached.stop(name, record, timeout_s=timeout_s, directory=directory),
    )


def _served(record: Record) -> str:
    """Of processes on this host: the data, how many loaders with how many workers each, and what else was said."""
    data, *options = record.words
    options = options[2:]  # --replicas
    each = ""
    if options[-2:-1] == ["--workers"]:  # of all of them, as `feedline serve` has it
        each = f" with {counted(int(options[-1]) // record.replicas, 'worker')} each"
        options = options[:-2]
    return f"{' '.join([data, *options])}, {counted(record.replicas, 'loader')}{each}"


def _on_ray(name: str) -> Running:
    import feedline.ray

    status = feedline.ray.status(name)

    def stop(timeout_s: float) -> bool:
        feedline.ray.stop(name, timeout_s=timeout_s)
        return True

    return Running("ray", name, status.target if status.serving else "", str(status), stop)


def _credential_files(args: argparse.Namespace) -> dict[str, Any]:
    """Of the options of `add_connection`, those that name files, as they are on Ray's nodes."""
    names = ("ca", "certificate", "key", "server_name", "token_file", "insecure")
    return {name: getattr(args, name) for name in names}


DEFAULT_FILE = Path("docker-compose.yml")
