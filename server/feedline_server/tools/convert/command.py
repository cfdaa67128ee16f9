"""`feedline convert SRC DST`: what it takes, what it says."""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

from feedline_server.host.progress import Progress

EPILOG = """\
SRC is anything that `feedline serve` takes, a .csv, or an .npz. DST is a folder that is not there yet: .npy columns and
a loader.toml, read where they lie however large they are. Good for many small files, images (decoded and resized as
their declaration says), HDF5 in large chunks, Parquet and compressed .npz, which cost much to read at random.

  images, files named by ids, class folders, HDF5, Arrow: every sample once, by all cores; views, inputs and targets
      stay. Transforms of a declaration are not done: declare them for the new folder, or they would be done twice.
  data.csv   a line of names, then numbers. With --target the others together are x (float32) and it is y.
  data.npz   unpacked; x_train, y_train, x_test, y_test become views.

It happens beside DST, in DST.converting, which takes DST's name when all is there: half of a dataset is never served.
Ended in the middle, the same command goes on where it was (a .csv or .npz begins anew).

examples:
  feedline convert scans/ scans-columns/                 then: feedline serve scans-columns/
  feedline convert loader.toml fast/ --dataset plants --skip-bad
  feedline convert iris.csv iris/ --target species --codes species

exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong usage, 130 Ctrl-C
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    convert = commands.add_parser(
        "convert",
        help="make columns of other kinds of data",
        description="Write a dataset as columns that are read where they lie.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("source", type=Path, metavar="SRC", help="loader.toml, folder, .csv or .npz")
    convert.add_argument("folder", type=Path, metavar="DST", help="folder to write, which is not there yet")
    convert.add_argument("--dataset", metavar="NAME", help="of a loader.toml with several")
    convert.add_argument("--workers", type=int, metavar="N", help="processes (default: the cores of this process)")
    convert.add_argument(
        "--skip-bad", action="store_true", help="leave samples that cannot be read out of all views; they are listed"
    )
    comma = convert.add_argument_group("of a .csv")
    comma.add_argument("--target", metavar="COLUMN", help="is y; all other columns together are x")
    comma.add_argument("--codes", metavar="COLUMNS", type=_names, default=(), help="text becomes numbers: a,b,c")
    comma.add_argument("--float", metavar="COLUMNS", type=_names, default=(), dest="floats", help="read as floats")
    comma.add_argument("--drop", metavar="COLUMNS", type=_names, default=(), help="leave out")
    convert.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Convert and say what was done."""
    from feedline_server.tools.convert.conversion import Converted, convert

    began = time.monotonic()
    suffix = asked.source.suffix.lower()
    done: Converted
    if suffix == ".csv":
        from feedline_server.tools.convert.comma import Wanted, convert_csv

        wanted = Wanted(asked.target, asked.codes, asked.floats, asked.drop)
        done = convert_csv(_there(asked.source), asked.folder, wanted, Progress("bytes"))
    elif suffix == ".npz" and asked.source.is_file():
        from feedline_server.tools.convert.archive import convert_npz

        done = convert_npz(asked.source, asked.folder, Progress("bytes"))
    else:
        from feedline_server.host.logs import configure_logs
        from feedline_server.host.machine import cores
        from feedline_server.settings.settings import load_settings

        settings = load_settings(asked.source, {})
        configure_logs(settings.log_format, settings.log_level)
        datasets = settings.datasets
        name = _chosen(datasets, asked.dataset)
        done = convert(
            name,
            datasets[name],
            asked.folder,
            workers=asked.workers or cores(),
            skip_bad=asked.skip_bad,
            show=Progress("samples"),
        )
    took = time.monotonic() - began
    before = f", {done.continued:,} of them by an earlier run" if done.continued else ""
    print(f"wrote {done.folder}: {done.samples:,} samples{before}, {done.nbytes / 1e6:,.1f} MB in {took:.1f} s")
    for sample, reason in done.bad.items():
        print(f"left out sample {sample}: {reason}")
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _there(source: Path) -> Path:
    from feedline_wire.errors import InvalidRequest

    if not source.is_file():
        raise InvalidRequest(f"{source}: there is no such file")
    return source


def _chosen(datasets: Iterable[str], said: str | None) -> str:
    from feedline_wire.errors import InvalidRequest  # below every command, so that --help and signals wait for nothing

    names = list(datasets)
    if said is None and len(names) == 1:
        return names[0]
    if said not in names:
        raise InvalidRequest(f"name the dataset with --dataset; there is: {', '.join(names)}")
    return said
