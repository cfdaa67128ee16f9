"""`feedline inspect PATH`: what it takes, and what was found, in words and as JSON."""

import argparse
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feedline_server.tools.inspect.findings import Found
    from feedline_wire.structure import Structure
    from feedline_wire.tensors import Column

EPILOG = """\
PATH is what `feedline serve` takes. Nothing listens: the datasets are opened as a loader would open them, and what they
hold is told: samples, views, columns, classes with their counts, size, fingerprint, and what is wrong.
With --read every sample is read and transformed once, and those that cannot be are listed with the reason.

examples:
  feedline inspect ./scans                    a folder
  feedline inspect loader.toml --read         is every file of it well?
  feedline inspect my_classes:training_generator --view validation=validation_generator
                                              Python as it is
  feedline inspect 127.0.0.1:50051            a running loader instead

exit codes: 0 all is well, 1 something is not (the reason is printed), 2 wrong usage, 130 Ctrl-C
"""

CLASSES = 12
"""Classes that are listed in words; JSON has all."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    inspect = commands.add_parser(
        "inspect",
        help="show what would be served",
        description="Show what would be served, without serving it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("path", type=Path, metavar="PATH", help="loader.toml, folder, file or module:name")
    inspect.add_argument(
        "--view", dest="views", action="append", metavar="VIEW=OBJECT", help="another view of a Python object's dataset"
    )
    inspect.add_argument("--steps-per-epoch", type=int, metavar="N", help="batches that make up a generator's epoch")
    inspect.add_argument("--read", action="store_true", help="read every sample, and list those that are bad")
    inspect.add_argument("--json", action="store_true", help="print one JSON object a dataset and line")
    inspect.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Look and report."""
    from feedline_server.host.logs import configure_logs
    from feedline_server.host.progress import Progress
    from feedline_server.settings.settings import load_settings
    from feedline_server.tools.inspect.findings import look, read

    settings = load_settings(asked.path, {"views": asked.views, "steps_per_epoch": asked.steps_per_epoch})
    configure_logs(settings.log_format, settings.log_level)
    is_well = True
    for name, config in settings.datasets.items():
        found = look(name, config)
        if asked.read:
            found = read(found, Progress("samples", name))
        print(json.dumps(_as_json(found)) if asked.json else "\n".join(_described(found)), flush=True)
        is_well = is_well and found.is_well
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
    yield f"  batch        {_in_words(dataset.structure)}"
    size = found.nbytes
    yield f"  size         {'differs from sample to sample' if size is None else f'{size / 1e6:,.1f} MB as it is sent'}"
    if found.classes:
        listed = ", ".join(f"{name} {count:,}" for name, count in islice(found.classes.items(), CLASSES))
        more = f", … ({len(found.classes)} in all)" if len(found.classes) > CLASSES else ""
        yield f"  classes      {listed}{more}"
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
        "columns": [_column(column) for column in dataset.columns],
        "structure": dataset.structure,
        "nbytes": found.nbytes,
        "classes": dict(found.classes),
        "orders": list(dataset.orders),
        "fingerprint": found.fingerprint.hex(),
        "notes": list(dataset.notes),
        "read": found.read,
        "bad_samples": found.bad_samples,
        "bad": [{"view": bad.view, "sample": bad.sample, "reason": bad.reason} for bad in found.bad],
    }


def _column(column: "Column") -> Mapping[str, object]:
    return {"name": column.name, "dtype": column.dtype.name, "shape": list(column.shape)}


def _in_words(structure: "Structure") -> str:
    if isinstance(structure, str):
        return structure
    if isinstance(structure, dict):
        return "{" + ", ".join(f"{name}: {_in_words(part)}" for name, part in structure.items()) + "}"
    return f"({', '.join(map(_in_words, structure))}{',' * (len(structure) == 1)})"
