"""This checkout against another commit of it: rows of the benchmark, in turn, and what each line came to by the other.

    scripts/benchmark --against 3dd1ead --rows 1,8 --pairs 3

Both run in the same environment, on the same machine, one after the other and again, as often as `--pairs` says, so a
machine that gets slower slows both. Beside each line stands how its ratio to its peer changed, which is more steady.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.consumer import ROOT
from benchmarks.pairs import ratio
from benchmarks.stage import say

Found = dict[tuple[int, str], dict[str, Any]]
"""By row and what was measured: a line as it stands in results.json."""


def compare(commit: str, options: Sequence[str], rounds: int) -> int:
    """Run and print; the exit code. `options` are those of the suite."""
    with tempfile.TemporaryDirectory(prefix="against-") as folder:
        other = unpacked(commit, Path(folder) / commit)
        here: list[Found] = []
        there: list[Found] = []
        for number in range(rounds):
            for found, tree in ((here, ROOT), (there, other)):
                say(f"round {number + 1} of {rounds}: {tree}")
                found.append(lines_of(tree, options, Path(folder) / f"{number}-{tree.name}"))
    print("\n".join(table(here, there, commit)))
    return 0


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
