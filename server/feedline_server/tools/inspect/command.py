"""`feedline inspect PATH`: its options, and what was found, for people and as JSON."""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from feedline_wire.command_line import Command, declare_dataset
from feedline_wire.listing import listed, numbered
from feedline_wire.text import Progress, unpacked

if TYPE_CHECKING:
    from feedline_server.tools.inspect.findings import Found

CLASSES = 12
"""Classes that are listed for people; JSON has all."""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options; `feedline inspect --help` (feedline.cli.inspect) explains them."""
    parser.add_argument("path", type=Path, metavar="PATH")
    declare_dataset(parser)
    parser.add_argument("--read", action="store_true")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Look and report; the exit code."""
    from feedline_server.host.logs import configure_logs
    from feedline_server.settings.settings import load_settings
    from feedline_server.tools.inspect.findings import look, read

    own = {"words", "path", "read", "json"}
    said = {name: value for name, value in vars(args).items() if name not in own}
    settings = load_settings(args.path, said, is_serving=False)
    configure_logs(settings.log_format, settings.log_level)
    is_well = True
    for name, config in settings.datasets.items():
        found = look(name, config, settings.datasets.values())
        if args.read:
            found = read(found, Progress("samples", name))
        print(json.dumps(_as_json(found)) if args.json else "\n".join(_described(found)), flush=True)
        is_well = is_well and found.problem is None and not found.bad_samples
    return 0 if is_well else 1


def _described(found: "Found") -> Iterator[str]:
    dataset = found.dataset
    if dataset is None:
        yield f"dataset {found.name} ({found.kind}) cannot be served"
        yield f"  {found.problem}"
        return
    unit = "batches" if dataset.is_batched else "samples"
    yield f"dataset {found.name} ({found.kind}): {dataset.source.samples:,} {unit}"
    yield f"  views        {', '.join(f'{view.name} {view.samples:,}' for view in dataset.views.values())}"
    yield f"  columns      {', '.join(map(str, dataset.columns))}"
    yield f"  batch        {unpacked(dataset.structure)}"
    size = found.nbytes
    yield f"  size         {'differs from sample to sample' if size is None else f'{size / 1e6:,.1f} MB as it is sent'}"
    for column, names in dataset.categories.items():
        yield f"  categories   {column}: {numbered(names)}"
    width = max(map(len, found.classes), default=0)
    for view, counts in found.classes.items():
        samples = listed((f"{name} {count:,}" for name, count in counts.items()), CLASSES)
        yield f"  classes      {view:{width}}  {samples}"
    yield f"  orders       {', '.join(dataset.orders)}"
    yield f"  fingerprint  {found.fingerprint.hex()}"
    yield from (f"  note         {note}" for note in dataset.notes)
    if found.read is not None:
        good = "all well" if not found.bad_samples else f"{found.bad_samples:,} BAD"
        yield f"  read         {found.read:,} {unit}: {good}"
        yield from (f"    {bad.view} sample {bad.sample}: {bad.reason}" for bad in found.bad)
        if found.bad_samples > len(found.bad):
            yield f"    … and {found.bad_samples - len(found.bad):,} more"


def _as_json(found: "Found") -> Mapping[str, object]:
    dataset = found.dataset
    if dataset is None:
        return {"name": found.name, "kind": found.kind, "problem": found.problem}
    return {
        "name": found.name,
        "kind": found.kind,
        "samples": dataset.source.samples,
        "views": {view.name: view.samples for view in dataset.views.values()},
        "columns": [
            {"name": column.name, "dtype": column.dtype.name, "shape": list(column.shape)} for column in dataset.columns
        ],
        "structure": dataset.structure,
        "nbytes": found.nbytes,
        "categories": {column: list(names) for column, names in dataset.categories.items()},
        "classes": {view: dict(counts) for view, counts in found.classes.items()},
        "orders": list(dataset.orders),
        "fingerprint": found.fingerprint.hex(),
        "notes": list(dataset.notes),
        "read": found.read,
        "bad_samples": found.bad_samples,
        "bad": [asdict(bad) for bad in found.bad],
    }


COMMAND = Command("inspect", "show what would be served, without serving it", run, declare)
