"""What a loader that dies, drains or is stopped costs a trainer: utilisation, against a run in which nothing happens.

Two real loaders of one dataset, and a trainer in a process of its own whose step takes a given time, as on an
accelerator: it waits for a batch, checks it, and is busy until the step's time is over. Utilisation is the time it is
busy over all of the time (MLPerf Storage's AU). In mid-run one loader is killed (kill -9), told to end (SIGTERM) or
stopped (SIGSTOP, for five seconds); what is dead is started again, at its address, while the trainer goes on.
Undisturbed and disturbed runs take turns, so that a machine that gets slower halfway does not decide; ratios are taken
pair by pair. Every batch's content is checked, and every run must have given the same bytes.

    python benchmarks/utilisation.py                          about six minutes
    python benchmarks/utilisation.py --faults kill --pairs 7

Needs the server extra.
"""

import argparse
import contextlib
import hashlib
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from feedline import Batch

ROW_NBYTES = 4096
SAMPLES = 16384
STOPPED_S = 5.0

FAULTS = ("kill", "term", "stop")


def train(address: str, asked: argparse.Namespace) -> dict[str, Any]:
    """So many steps; tells each third that it has come to, and counts busy and waiting seconds."""
    import feedline

    busy_s, longest_s = 0.0, 0.0
    content = hashlib.blake2b()
    with feedline.connect(address) as loader:
        feed = loader.feed(batch_size=asked.rows, seed=1)
        until = time.monotonic() + 30
        while sum(one.answered > 0 for one in loader.stats.replicas) < 2:
            feed.fetch(feed.plan.step(0, 0))
            if time.monotonic() > until:
                raise SystemExit("the loaders did not both answer")

        def batches() -> Iterator[Any]:
            while True:
                yield from feed

        coming = batches()
        for _ in range(32):
            next(coming)
        began = time.perf_counter()
        for number in range(asked.steps):
            if number % (asked.steps // 3) == 0:
                print(f"third {number // (asked.steps // 3)}", flush=True)
            before = time.perf_counter()
            batch = next(coming)
            got = time.perf_counter()
            longest_s = max(longest_s, got - before)
            check(batch)
            content.update(batch.ids)
            time.sleep(max(got + asked.step_ms / 1000 - time.perf_counter(), 0))
            busy_s += time.perf_counter() - got
        wall_s = time.perf_counter() - began
        stats = loader.stats
    return {
        "utilisation": busy_s / wall_s,
        "longest_s": longest_s,
        "mb_per_s": asked.steps * asked.rows * ROW_NBYTES / wall_s / 1e6,
        "content": content.hexdigest(),
        "retried": stats.retried,
        "hedged": stats.hedged,
    }


def check(batch: "Batch") -> None:
    """Raise unless every row is that of its id, from its first value to its last."""
    x = batch["x"]
    if not (np.array_equal(batch["y"], batch.ids) and (x == batch.ids[:, None]).all()):
        raise SystemExit("a batch arrived with wrong content")


class Loader:
    """A loader in a process of its own, at an address that it keeps."""

    def __init__(self, folder: Path, workers: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._command = [sys.executable, "-m", "feedline_server", "serve", str(folder), "--listen", self.address]
        self._command += ["--workers", str(workers), "--log-level", "error"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command)

    def wait_until_it_answers(self) -> None:
        import feedline

        with feedline.connect(self.address, timeout_s=60):
            pass

    def disturb(self, fault: str) -> None:
        """In the middle of a run."""
        match fault:
            case "kill":
                self.process.kill()
            case "term":
                self.process.terminate()
            case "stop":
                self.process.send_signal(signal.SIGSTOP)
                time.sleep(STOPPED_S)
                self.process.send_signal(signal.SIGCONT)
                return
        self.process.wait(30)
        self.start()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def run(loaders: list[Loader], fault: str | None, asked: argparse.Namespace) -> dict[str, Any]:
    for loader in loaders:
        loader.wait_until_it_answers()
    target = ",".join(loader.address for loader in loaders)
    command = [sys.executable, __file__, "--address", target, "--rows", str(asked.rows)]
    command += ["--step-ms", str(asked.step_ms), "--steps", str(asked.steps)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        last = ""
        for last in trainer.stdout:
            if fault is not None and last == "third 1\n":
                loaders[0].disturb(fault)
    if trainer.returncode:
        raise SystemExit(f"the trainer ended with {trainer.returncode}")
    result: dict[str, Any] = json.loads(last)
    return result


@contextlib.contextmanager
def two_loaders(workers: int) -> Iterator[list[Loader]]:
    with tempfile.TemporaryDirectory(prefix="feedline-bench-") as scratch:
        folder = Path(scratch) / "samples"
        folder.mkdir()
        ids = np.arange(SAMPLES)
        np.save(folder / "x.npy", np.repeat(ids.astype(np.float32)[:, None], ROW_NBYTES // 4, axis=1))
        np.save(folder / "y.npy", ids)
        loaders = [Loader(folder, workers) for _ in range(2)]
        try:
            yield loaders
        finally:
            for loader in loaders:
                loader.end()


def compare(asked: argparse.Namespace) -> None:
    table = {}
    contents = set()
    median: Callable[[list[float]], float] = statistics.median
    print(f"{'fault':<7}{'utilisation':>12}{'undisturbed':>13}{'ratio':>8}{'(min - max)':>18}{'longest wait':>14}")
    with two_loaders(asked.workers) as loaders:
        for fault in asked.faults:
            pairs = [(run(loaders, None, asked), run(loaders, fault, asked)) for _ in range(asked.pairs)]
            contents.update(result["content"] for pair in pairs for result in pair)
            ratios = [disturbed["utilisation"] / undisturbed["utilisation"] for undisturbed, disturbed in pairs]
            table[fault] = row = {
                "utilisation": median([disturbed["utilisation"] for _, disturbed in pairs]),
                "undisturbed": median([undisturbed["utilisation"] for undisturbed, _ in pairs]),
                "ratio": median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "longest_s": max(disturbed["longest_s"] for _, disturbed in pairs),
                "mb_per_s": median([undisturbed["mb_per_s"] for undisturbed, _ in pairs]),
                "asked_again": max(disturbed["retried"] + disturbed["hedged"] for _, disturbed in pairs),
            }
            spread = f"({min(ratios):.3f} - {max(ratios):.3f})"
            print(
                f"{fault:<7}{row['utilisation']:>12.3f}{row['undisturbed']:>13.3f}{row['ratio']:>8.3f}{spread:>18}"
                f"{row['longest_s']:>12.2f} s",
                flush=True,
            )
    if len(contents) > 1:
        raise SystemExit("the runs did not all give the same batches")
    if asked.json:
        asked.json.write_text(json.dumps(table, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS, help="(default: all)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind, in turn (default 3)")
    parser.add_argument("--steps", type=int, default=1200, help="steps of a run (default 1200)")
    parser.add_argument("--step-ms", type=float, default=15.0, help="what a step takes (default 15)")
    parser.add_argument("--rows", type=int, default=256, help="rows of 4 KiB in a batch (default 256: 1 MiB)")
    parser.add_argument("--workers", type=int, default=1, help="of each loader (default 1)")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    parser.add_argument("--address", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.address:
        print(json.dumps(train(asked.address, asked)))
    else:
        compare(asked)


if __name__ == "__main__":
    main()
