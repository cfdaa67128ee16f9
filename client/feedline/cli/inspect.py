"""`feedline inspect`: what would be served of data here, or what loaders serve and what they are doing.

Data is looked at by the server's program. Each address of a target is queried by itself: one that does not answer
hides nothing of the others.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from feedline.cli.arguments import add_connection, credentials
from feedline.cli.serve import become_server
from feedline.connection.credentials import Credentials
from feedline.connection.description import DatasetInfo, Description
from feedline.connection.target import Address, entries
from feedline.fleet.fleet import Fleet
from feedline.fleet.resolve import look_up
from feedline.local import data as local
from feedline_wire.command_line import DATASET, Command, declare_dataset
from feedline_wire.elementwise import Cast, Elementwise, Normalise, OneHot, Scale
from feedline_wire.errors import FeedlineError, InvalidRequest
from feedline_wire.listing import numbered
from feedline_wire.status import LoaderStatus, Reading
from feedline_wire.text import duration, many, size, unpacked

EPILOG = """\
Of a path or module:name: what `feedline serve` would serve of it, without serving it: samples, views, columns, classes
with their counts, size, fingerprint, and what is wrong. With --read every sample is read and transformed once, and
those that cannot be are listed with the reason.
Of every address: version, replica and limits; what it is doing now: workers, memory lent to batches, trainers; and its
datasets: views, columns (dtype and shape of a sample, ? where it varies), batch structure, orders and fingerprint.
TARGET is data here if it has a / or begins with . or ~ or is there. With --json it is one JSON object a line for each
dataset or loader; of loaders with the names of loader.proto and sizes in bytes.

examples:
  feedline inspect ./scans --read                      what would be served of a folder, and is all of it well?
  feedline inspect my_classes:training_generator       Python as it is
  feedline inspect 127.0.0.1:50051
  feedline inspect loader-1:50051,loader-2:50051       also says whether both serve the same data
  feedline inspect loader:50051 --json | jq .datasets.digits.views
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """One loader, as it answered."""

    address: str
    description: Description
    status: LoaderStatus


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("target", metavar="TARGET", help="a path or module:name; or loaders: host:port,… or dns:///…")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    data = parser.add_argument_group("of data here")
    data.add_argument("--read", action="store_true", help="read every sample, and list those that are bad")
    declare_dataset(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Look at the data, or ask every address, and print what is found; the exit code."""
    if is_data(args.target, Path(args.target).exists()):
        become_server(args)
    if given := [name for name in ("read", *DATASET) if getattr(args, name) not in {None, False}]:
        raise InvalidRequest(f"what is said of data ({given[0]}) is for data here, and {args.target} is a loader")
    if ":" not in args.target:
        raise InvalidRequest(
            f"{args.target}: there is no such file or folder, and it is no loader's address, such as loader:50051"
        )
    seen, problems = asked(args.target, args.timeout_s, Credentials(**credentials(args)).completed())
    for one in seen:
        print(json.dumps(as_json(one)) if args.json else described(one), flush=True)
    problems += differences(seen)
    for problem in problems:
        print(f"feedline inspect: {problem}", file=sys.stderr)
    return 1 if problems else 0


def is_data(target: str, exists: bool) -> bool:
    """Whether a target is data on this host, a path or `module:name`, and not loaders."""
    return exists or local.is_data(target) or target.endswith(".toml")


def resolved(target: str) -> tuple[list[Address], list[str]]:
    """Every address behind the target's names, and what is wrong with names that have none."""
    addresses: list[Address] = []
    problems: list[str] = []
    for entry in entries(target):
        try:
            addresses += look_up(entry)
        except FeedlineError as error:
            problems.append(str(error))
    return list(dict.fromkeys(addresses)), problems


def asked(target: str, timeout_s: float, credentials: Credentials) -> tuple[list[Seen], list[str]]:
    """Every loader of a target that answers, and what is wrong with the others. They are asked side by side."""
    addresses, problems = resolved(target)
    seen: list[Seen] = []
    with ThreadPoolExecutor(max_workers=len(addresses) or 1) as threads:
        for answer in [threads.submit(ask, address, timeout_s, credentials) for address in addresses]:
            try:
                seen.append(answer.result())
            except FeedlineError as error:
                problems.append(str(error))
    return seen, problems


def ask(address: Address, timeout_s: float, credentials: Credentials) -> Seen:
    """What the loader at one address answers. Raises LoaderUnavailable after `timeout_s`."""
    fleet = Fleet((address,), credentials)
    try:
        return Seen(address.at, fleet.join(timeout_s), fleet.status(timeout_s))
    finally:
        fleet.close()


def differences(loaders: Iterable[Seen]) -> Iterator[str]:
    """A sentence for each dataset of which two loaders have no version in common: trainers can use one of them only."""
    first: dict[str, Seen] = {}
    for loader in loaders:
        for name, dataset in loader.description.datasets.items():
            known = first.setdefault(name, loader)
            there = known.description.datasets[name]
            both = ({one.fingerprint for one in each.description.versions(name)} for each in (known, loader))
            if not set.intersection(*both):
                yield (
                    f"dataset {name!r} has the fingerprint {there.fingerprint.hex()} at {known.address} and "
                    f"{dataset.fingerprint.hex()} at {loader.address}: serve the same data and specification at both"
                )


def described(loader: Seen) -> str:
    """The loader for people."""
    found, status = loader.description, loader.status
    state = "draining" if status.draining else "serving"
    lanes = [f"{lane} (port {at})" if at.isdigit() else lane for lane, at in found.lanes.items()]
    rows = {
        "version": f"{found.version}, replica {found.replica}",
        "limits": f"{size(found.max_batch_nbytes)} a batch, {found.max_window} batches wanted by a trainer at once",
        "lanes": ", ".join(["grpc", *lanes]),
        **({"short of": f"{status.short_of}: trainers wait for this loader"} if status.short_of else {}),
        **{name: _reading(counter) for name, counter in status.counters.of.items()},
        "trainers": str(len(status.trainers)),
    }
    width = max(map(len, rows))
    lines = [f"loader at {loader.address}: {state}", *(f"{name:<{width}}  {text}" for name, text in rows.items())]
    for trainer in status.trainers:
        lines.append(
            f"  {trainer.peer}: {'; '.join(_reading(one) for one in trainer.counters.of.values() if one.value)}"
        )
    for dataset in found.datasets.values():
        lines += _of_dataset(dataset)
        lines += [
            f"  and before   {one.fingerprint.hex()}, for trainers that began with it (`feedline reload`)"
            for one in found.older.get(dataset.name, ())
        ]
    return "\n".join(lines)


def _reading(counter: Reading) -> str:
    """A counter's value with its unit and meaning."""
    match counter.unit:
        case "s":
            seconds = f"{counter.value:.1f} s" if counter.value < 60 else duration(counter.value)
            return f"{seconds} {counter.meaning}"
        case "bytes":
            return f"{size(int(counter.value))} {counter.meaning}"
        case unit:
            return f"{many(int(counter.value))} {unit} {counter.meaning}"


def _of_dataset(dataset: DatasetInfo) -> list[str]:
    unit = "batches made by its own code" if dataset.is_batched else "samples"
    if dataset.is_stream:
        unit = "batches an epoch, a stream: nothing can be asked for twice"
    # Of a stream that never ends it is not known how many there are.
    sizes = {name: many(samples) if samples else "without end" for name, samples in dataset.views.items()}
    views = ", ".join(f"{name} {text}" for name, text in sizes.items())
    late = "; ".join(f"{column}: {_declared(operation)}" for column, operation in dataset.deferred)
    return [
        f"dataset {dataset.name}: {many(dataset.samples) if dataset.samples else 'endless'} {unit}",
        f"  views        {views}",
        f"  columns      {', '.join(map(str, dataset.columns))}",
        *([f"  travel as    {', '.join(map(str, dataset.arriving))}", f"  done late    {late}"] if late else []),
        f"  batch        {unpacked(dataset.structure)}",
        *(f"  categories   {column}: {numbered(names)}" for column, names in dataset.categories.items()),
        f"  orders       {', '.join(dataset.orders)}",
        f"  fingerprint  {dataset.fingerprint.hex()}",
    ]


def as_json(loader: Seen) -> dict[str, object]:
    """The loader as plain values: the names of the contract (loader.proto), sizes in bytes."""
    found, status = loader.description, loader.status
    return {
        "address": loader.address,
        "version": found.version,
        "replica": found.replica,
        "limits": {"max_batch_bytes": found.max_batch_nbytes, "max_window": found.max_window},
        "lanes": ["grpc", *found.lanes],
        "datasets": {
            name: {
                **_dataset_as_json(dataset),
                "older": [one.fingerprint.hex() for one in found.older.get(name, ())],
            }
            for name, dataset in found.datasets.items()
        },
        "status": {
            "draining": status.draining,
            "short_of": status.short_of,
            **status.counters,
            "trainers": [{"peer": trainer.peer, **trainer.counters} for trainer in status.trainers],
        },
    }


def _dataset_as_json(dataset: DatasetInfo) -> dict[str, object]:
    return {
        "samples": dataset.samples,
        "fingerprint": dataset.fingerprint.hex(),
        "views": dict(dataset.views),
        "columns": [
            {"name": column.name, "dtype": column.dtype.name, "shape": list(column.shape)} for column in dataset.columns
        ],
        "structure": dataset.structure,
        "categories": {column: list(names) for column, names in dataset.categories.items()},
        "orders": list(dataset.orders),
        "late": [
            {"column": column, "operation": _name(operation), **asdict(operation)}
            for column, operation in dataset.deferred
        ],
        "batched": dataset.is_batched,
        "stream": dataset.is_stream,
    }


def _declared(operation: Elementwise) -> str:
    """As it is declared: `scale divide_by=255`, without defaults."""
    defaults = {field.name: field.default for field in fields(operation)}
    given = {name: value for name, value in asdict(operation).items() if value != defaults[name]}
    return " ".join([_name(operation), *(f"{name}={value}" for name, value in given.items())])


def _name(operation: Elementwise) -> str:
    return {Cast: "cast", Scale: "scale", Normalise: "normalise", OneHot: "one_hot"}[type(operation)]


COMMAND = Command(
    "inspect",
    "show what would be served of data here, or what loaders serve and do",
    run,
    declare,
    EPILOG,
    ("all is well", "something is not, one did not answer, or two serve different data"),
)
