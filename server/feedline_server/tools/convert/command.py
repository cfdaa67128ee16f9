"""`feedline convert SRC DST`: its options, and what it prints."""

import argparse
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from feedline_wire.command_line import DATASET, Command, declare_dataset
from feedline_wire.errors import InvalidRequest
from feedline_wire.text import Progress, size

if TYPE_CHECKING:
    from feedline_server.tools.convert.destination import Converted

COLUMNS = ("target", "codes", "floats", "drop")
CSV = ("delimiter", "decimal")
"""Options by what they are for."""

EPILOG = """\
SRC is anything that `feedline serve` takes, a .csv, or an .npz. DST is a folder that is not there yet: .npy columns and
a loader.toml (of an .npz just the columns), read where they lie however large they are. Good for many small files,
images (decoded and resized as their declaration says), HDF5 in large chunks, Parquet and compressed .npz, which cost
much to read at random.

  images, files named by ids, class folders, HDF5, Arrow: every sample once, by all cores; views, inputs and targets
      stay. Transforms of a declaration are not done: declare them for the new folder, or they would be done twice.
  data.csv   a line of names, then numbers.
  data.npz   unpacked; x_train, y_train, x_test, y_test become views.

It happens beside DST, in DST.converting, which takes DST's name when all is there: half of a dataset is never served.
Ended in the middle, the same command goes on where it was (a .csv or .npz begins anew).

examples:
  feedline convert scans/ scans-columns/                 then: feedline serve scans-columns/
  feedline convert loader.toml fast/ --dataset plants --skip-bad
  feedline convert iris.csv iris/ --target species --codes species
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("source", type=Path, metavar="SRC", help="loader.toml, folder, .csv or .npz")
    parser.add_argument("folder", type=Path, metavar="DST", help="folder to write, which is not there yet")
    parser.add_argument("--dataset", metavar="NAME", help="of a loader.toml with several")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: the cores of this process)")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave samples that cannot be read out of all views; they are listed"
    )
    declare_dataset(parser)
    columns = parser.add_argument_group("columns")
    names = re.compile("[^,]+").findall
    columns.add_argument("--target", metavar="COLUMN", help="is y; all other columns together are x, float32")
    columns.add_argument("--codes", metavar="COLUMNS", type=names, default=[], help="text becomes numbers: a,b,c")
    columns.add_argument("--float", metavar="COLUMNS", type=names, default=[], dest="floats", help="read as floats")
    columns.add_argument("--drop", metavar="COLUMNS", type=names, default=[], help="leave out")
    csv = parser.add_argument_group("of a .csv")
    csv.add_argument("--delimiter", metavar="SIGN", help="what is between two columns (default ,); tab for a tab")
    csv.add_argument("--decimal", metavar="SIGN", help="what is before the fraction of a number (default .)")


def run(args: argparse.Namespace) -> int:
    """Convert and report; the exit code."""
    began = time.monotonic()
    done = _converted(args)
    took = time.monotonic() - began
    before = f", {done.continued:,} of them by an earlier run" if done.continued else ""
    print(f"wrote {args.folder}: {done.samples:,} samples{before}, {size(done.nbytes)} in {took:.1f} s")
    for sample, reason in done.bad.items():
        print(f"left out sample {sample}: {reason}")
    return 0


def _converted(args: argparse.Namespace) -> "Converted":
    from feedline_server.tools.convert.columns import ColumnOptions

    columns = ColumnOptions(args.target, tuple(args.codes), tuple(args.floats), tuple(args.drop))
    match args.source.suffix.lower():
        case ".csv":
            from feedline_server.tools.convert.from_csv import CsvForm, convert_csv

            if not args.source.is_file():
                raise InvalidRequest(f"{args.source}: there is no such file")
            _check_unused(args, "a .csv", "dataset", "skip_bad")
            delimiter = "\t" if args.delimiter == "tab" else args.delimiter or ","
            form = CsvForm(delimiter, args.decimal or ".")
            return convert_csv(args.source, args.folder, columns, Progress("bytes"), form)
        case ".npz" if args.source.is_file():
            from feedline_server.tools.convert.from_npz import convert_npz

            _check_unused(args, "an .npz", "dataset", "skip_bad", *COLUMNS, *CSV)
            return convert_npz(args.source, args.folder, Progress("bytes"))
    _check_unused(args, "a dataset", *CSV)
    from feedline_server.host.logs import configure_logs
    from feedline_server.host.machine import cores
    from feedline_server.settings.settings import load_settings
    from feedline_server.tools.convert.from_dataset import convert

    settings = load_settings(args.source, {name: getattr(args, name) for name in DATASET}, is_serving=False)
    configure_logs(settings.log_format, settings.log_level)
    names = list(settings.datasets)
    name = names[0] if args.dataset is None and len(names) == 1 else args.dataset
    if name not in names:
        raise InvalidRequest(f"name the dataset with --dataset; there is: {', '.join(names)}")
    return convert(
        name,
        settings.datasets[name],
        args.folder,
        workers=args.workers or cores(),
        skip_bad=args.skip_bad,
        columns=columns,
        show=Progress("samples"),
    )


def _check_unused(args: argparse.Namespace, source: str, *names: str) -> None:
    """InvalidRequest if an option is set that means nothing of such a source."""
    if used := [name for name in names if getattr(args, name)]:
        option = {"floats": "--float"}.get(used[0], f"--{used[0].replace('_', '-')}")
        raise InvalidRequest(
            f"{option} is not for {source}; leave it out: `feedline convert --help` says what it is for"
        )


COMMAND = Command("convert", "write a dataset as columns that are read where they lie", run, declare, EPILOG)
