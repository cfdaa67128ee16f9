"""All of the table, or some of its rows.

    scripts/benchmark                     everything, in an environment of its own
    scripts/benchmark --rows 1,5          these; the others keep what an earlier run found
    python -m benchmarks.suite --list     what there is

Prints a table and writes results.json and ratios.svg. Rows of an earlier run stay in them, so a run that was cut short
is continued with the rows that are missing.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from benchmarks import against, report
from benchmarks.consumer import ROOT, FailedError
from benchmarks.results import Results
from benchmarks.rows import TITLES, measures
from benchmarks.stage import QUICK, Scale, Stage, say


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=numbers, default=tuple(TITLES), help="which, as in 1,2,5 (default: all)")
    parser.add_argument("--pairs", type=int, default=Scale().pairs, help="rounds of each contest (default %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", help="folder (default %(default)s)")
    parser.add_argument("--scratch", type=Path, help="where the samples are written (default: the temporary folder)")
    parser.add_argument("--quick", action="store_true", help="only see whether it runs; the numbers mean nothing")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="afterwards put these rows into docs/benchmarks.md, its plot and README.md",
    )
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="only compare: these rows of this checkout and of that commit, in turn, as often as --pairs says",
    )
    parser.add_argument("--list", action="store_true", help="say which rows there are, and end")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(f"{row:3}  {title}" for row, title in TITLES.items()))
        return
    # Told to end, it closes what it opened, like everything that ends in good order: loaders, consumers, gigabytes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if asked.against is not None:
        raise SystemExit(against.compare(asked.against, asked.rows, asked.pairs, is_quick=asked.quick))
    scale = QUICK if asked.quick else replace(Scale(), pairs=asked.pairs)
    results, failed = run(asked.rows, scale, asked.out, asked.scratch)
    print(report.as_text(results))
    report.plot(results, asked.out / "ratios.svg")
    if asked.publish:
        report.publish(results, [row for row in asked.rows if row not in failed])
    if failed:
        raise SystemExit(f"no results for rows {', '.join(map(str, failed))}; what happened stands above")


def run(rows: Collection[int], scale: Scale, out: Path, scratch: Path | None) -> tuple[Results, list[int]]:
    """Measure these rows; what they gave is in `out` after each of them. The results, and rows that failed."""
    path = out / "results.json"
    results = Results.read(path)
    failed: list[int] = []
    for theirs, measure in measures(rows):
        say(f"row {', '.join(map(str, theirs))}: {'; '.join(TITLES[row] for row in theirs)}")
        began = time.monotonic()
        lines = []
        try:
            with tempfile.TemporaryDirectory(prefix="feedline-bench-", dir=scratch) as folder:
                for line in measure(Stage(Path(folder), scale), theirs):
                    if line.row in theirs:
                        lines.append(line)
                        say(f"  {report.sentence(line)}")
        except FailedError as error:  # the rows after it may still say something
            say(f"  FAILED: {error}")
            failed += theirs
            continue
        results.put(theirs, lines, seconds=time.monotonic() - began, pairs=scale.pairs)
        results.write(path)
    return results, failed


def numbers(text: str) -> tuple[int, ...]:
    """Row numbers, checked."""
    try:
        rows = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted numbers, as in 1,2,5") from None
    if unknown := [row for row in rows if row not in TITLES]:
        raise argparse.ArgumentTypeError(f"there is no row {unknown[0]}; there are 1 to {max(TITLES)}")
    return rows


if __name__ == "__main__":
    main()
