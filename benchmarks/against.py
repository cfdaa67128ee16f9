"""This checkout against another commit of it: what each line came to, here by there.

    scripts/benchmark --against 3dd1ead --rows 1,8 --pairs 11

Of rows 1, 4, 7, 8 and 19 loaders and trainers of both checkouts run at once and take turns of a second on the same
samples, which are checked. Other rows are measured whole by each checkout, one after the other and again; beside each
line stands how its ratio to its peer changed, which is more steady. Both run in the same environment, which must have
what the other commit needs.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import delay, lanes
from benchmarks.consumer import ROOT
from benchmarks.pairs import interval, ratio
from benchmarks.rows import far, limits, local, remote
from benchmarks.stage import QUICK, Contestant, Scale, Stage, say

Found = dict[tuple[int, str], dict[str, Any]]
"""By row and what was measured: a line as it stands in results.json."""

IN_TURN: Final = {
    1: [("tcp", row, batch // row) for row, batch in remote.BATCHES],
    4: [(lane, row, limits.BATCH_NBYTES // row) for row in limits.ROWS_NBYTES for lane in lanes.LANES],
    7: [(lane, delay.ROW_NBYTES, batch // delay.ROW_NBYTES) for batch in far.BATCHES_NBYTES for lane in delay.LANES],
    8: [(lane, row, rows) for row, rows in local.SMALL for lane in ("tcp", "shm")],
    19: [("tcp", 4096, 16)],
}
"""Rows of the table that move bytes and nothing else: by lane, bytes of a row and rows of a batch. 7 is at 20 ms; in
place of 19, what starts cost, batches of 64 KiB."""


def compare(commit: str, rows: Sequence[int], rounds: int, *, is_quick: bool) -> int:
    """Run and print; the exit code."""
    with tempfile.TemporaryDirectory(prefix="against-") as folder:
        other = unpacked(commit, Path(folder) / commit)
        together = [row for row in rows if row in IN_TURN]
        if together:
            print(f"{'row':>3}  {'what':44} {f'here / {commit[:7]}, 95 % interval':>30}   CPU s/GB of trainer + loader")
        stage = Stage(Path(folder), QUICK if is_quick else replace(Scale(), pairs=rounds))
        for row in together:
            for line in in_turn(stage, row, other):
                print(line, flush=True)
        if whole := [row for row in rows if row not in IN_TURN]:
            one_after_the_other(whole, commit, other, rounds, is_quick=is_quick)
    return 0


def one_after_the_other(rows: Sequence[int], commit: str, other: Path, rounds: int, *, is_quick: bool) -> None:
    """Each checkout measures these rows, as often as `rounds`; print a line for each that both have."""
    here: list[Found] = []
    there: list[Found] = []
    options = ["--rows", ",".join(map(str, rows)), *(["--quick"] if is_quick else [])]
    for number in range(rounds):
        for found, tree in ((here, ROOT), (there, other)):
            say(f"round {number + 1} of {rounds}: {tree}")
            found.append(lines_of(tree, options, other.with_name(f"{number}-{tree.name}")))
    print("\n".join(table(here, there, commit)))


def in_turn(stage: Stage, row: int, other: Path) -> Iterator[str]:
    """A line for each contest between the code here and that of another checkout."""
    for lane, row_nbytes, rows in IN_TURN[row][: 1 if stage.scale.is_quick else None]:
        what = f"{lane} lane, {row_nbytes:,} B rows, batches of {rows:,}"
        say(f"  {what}")
        folder = stage.samples(row_nbytes, local.SMALL_NBYTES if row == 8 else None)
        with ExitStack() as running:
            contestants = {}
            for name, code in (("here", ROOT), ("there", other)):
                if row == 7:
                    there = delay.reached(running, folder, stage.scratch, lane, far.DELAY_MS, code=code)
                    contestants[name] = there["far"].contestant
                else:
                    address, pid = lanes.loader(running, folder, stage.scratch, lane, code=code)
                    contestants[name] = Contestant("feedline_loader", {"address": address}, (pid,), code)
            pace = replace(stage.scale.pace, settle_s=delay.SETTLE_S) if row == 7 else None
            taken = stage.contest(folder, rows, contestants, pace).taken
        each = [a.gb_per_s / b.gb_per_s for a, b in zip(taken["here"], taken["there"], strict=True)]
        least, most = interval(each)
        cpu = ", ".join(
            f"{median(one.trainer_cpu_s_per_gb for one in side):.3f} + "
            f"{median(one.loader_cpu_s_per_gb for one in side):.3f}"
            for side in (taken["here"], taken["there"])
        )
        yield f"{row:3}  {what:44} {f'{median(each):.3f} ({least:.3f} – {most:.3f})':>30}   {cpu}"


def unpacked(commit: str, tree: Path) -> Path:
    """The files of a commit, in `tree`."""
    archive = tree.with_suffix(".tar")
    subprocess.run(["git", "-C", str(ROOT), "archive", "--output", str(archive), commit], check=True)
    with tarfile.open(archive) as files:
        files.extractall(tree, filter="data")
    return tree


def lines_of(tree: Path, options: Sequence[str], out: Path) -> Found:
    """What a run in that tree measured."""
    path = os.pathsep.join(str(tree / one) for one in ("protos", "server", "client"))
    command = [sys.executable, "-m", "benchmarks.suite", *options, "--pairs", "1", "--out", str(out)]
    done = subprocess.run(
        command, cwd=tree, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{tree}: the benchmark ended with {done.returncode}; it printed:\n{done.stdout}")
    rows = json.loads((out / "results.json").read_text())["rows"]
    lines = [(int(row), line) for row, value in rows.items() for line in value["lines"]]
    return {(row, line["what"]): line for row, line in lines if line["ours"] and line["ratio"]}


def table(here: Sequence[Found], there: Sequence[Found], commit: str) -> Iterator[str]:
    """A line for each that both have measured."""
    yield f"{'row':>3}  {'what':60} {'here / ' + commit[:7]:>24}   its ratio to the peer, by that of {commit[:7]}"
    for row, what in here[0]:
        if not all((row, what) in found for found in there):
            yield f"{row:3}  {what[:60]:60} {'not measured there':>24}"
            continue
        if not all((row, what) in found for found in here):
            continue
        ours, theirs = ([found[row, what] for found in side] for side in (here, there))
        by_value = ratio([one["ours"]["value"] for one in ours], [one["ours"]["value"] for one in theirs])
        by_peer = ratio([one["ratio"]["median"] for one in ours], [one["ratio"]["median"] for one in theirs])
        yield f"{row:3}  {what[:60]:60} {by_value!s:>24}   {by_peer}"
