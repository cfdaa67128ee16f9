"""What `feedline bench` foretells, against what is then measured: from half a loader's worth to that of sixteen.

One loader with one worker is measured first, with a transform that waits. From that follows which part of the time a
model would compute with any number of loaders; with some of these it is measured. A busy machine makes a step longer
than was said, so that fewer workers feed it: what is foretold is for the step that was then measured.
"""

import argparse
import contextlib
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from breaking.stage import Stage

from feedline.cli import main as feedline_command

WORTH = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Loaders of one worker that keep the model fed."""

STEP_MS = 25

WITHIN = 0.1

CODE = "import os, time\ndef slowly(x):\n    time.sleep(float(os.environ['SLOW_S']))\n    return x\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser("scripts/verdicts --bench", description=__doc__)
    parser.add_argument(
        "--worth", type=float, nargs="+", default=WORTH, metavar="N", help="loaders' worth (default: 0.5 to 16)"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of each measurement (default 10, as the command's)"
    )
    args = parser.parse_args(argv)
    far = 0
    with tempfile.TemporaryDirectory(prefix="foretold-") as folder:
        served = written(Path(folder))
        print("worth of   wanted   with    step ms   foretold   measured      off")
        for worth in args.worth:
            wanted = measured(served, worth, 1, args.seconds)["workers_wanted"]
            for loaders in sorted({max(math.ceil(worth / 2), 1), math.ceil(worth)}):
                found = measured(served, worth, loaders, args.seconds)
                step_ms = 1000 * found["computed_s"] / found["batches"]
                told = min(loaders / wanted * step_ms / STEP_MS, 1.0)
                off = found["utilisation"] / told - 1
                far += abs(off) > WITHIN
                figures = f"{step_ms:11.1f}{told:11.3f}{found['utilisation']:11.3f}{off:+9.1%}"
                print(f"{worth:8}{wanted:9.2f}{loaders:7}{figures}", flush=True)
    load = Path("/proc/loadavg").read_text().split()[0]
    print(f"{far} off by more than {WITHIN:.0%}, at a load of {load}")
    return 1 if far else 0


def written(folder: Path) -> Path:
    """What is served: a dataset whose transform takes SLOW_S."""
    (folder / "d").mkdir()
    np.save(folder / "d" / "x.npy", np.zeros((4096, 64), np.float32))
    np.save(folder / "d" / "y.npy", np.arange(4096))
    (folder / "mine.py").write_text(CODE)
    (folder / "loader.toml").write_text(
        '[datasets.d]\npath = "d"\n[[datasets.d.transforms]]\ncode = "mine:slowly"\ncolumns = ["x"]\nper = "batch"\n'
    )
    return folder / "loader.toml"


def measured(served: Path, worth: float, loaders: int, seconds: float) -> dict[str, Any]:
    """What `feedline bench` prints of so many loaders."""
    path = os.pathsep.join(filter(None, [str(served.parent), os.environ.get("PYTHONPATH")]))
    stage = Stage(served.parent / f"stage-{worth}-{loaders}", SLOW_S=str(worth * STEP_MS / 1000), PYTHONPATH=path)
    try:
        target = ",".join(loader.address for loader in stage.fleet(loaders, served, "--workers", "1"))
        with contextlib.redirect_stdout(io.StringIO()) as output:
            words = ("--batch-size", "8", "--step-ms", str(STEP_MS), "--seconds", str(seconds), "--json")
            feedline_command(["bench", target, *words, "--timeout-s", "60"])
        found: dict[str, Any] = json.loads(output.getvalue())
    finally:
        if problems := stage.close():
            raise AssertionError("\n".join(problems))
    return found


if __name__ == "__main__":
    sys.exit(main())
