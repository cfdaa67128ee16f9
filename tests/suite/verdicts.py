"""Slow trainings with one cause each, drawn at random, and whether the verdict on each names its cause.

Real loaders and trainers, in processes of their own. Sizes, steps, workers, transforms, replicas and lanes are drawn
from a seed; what holds the training back is one of CAUSES, by a margin that is drawn as well. Both the trainer and
`feedline why` are asked. Each result is a line of a file, so a run that was ended goes on where it was.
"""

import argparse
import contextlib
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from breaking.lines import Lines
from breaking.stage import Loader, Stage
from ports import free_port

from feedline.cli import main as feedline_command

ROOT = Path(__file__).resolve().parents[2]

SETUPS = 60

WANTED = 0.95
"""Of the verdicts are to be right."""

SECONDS = 6.0
"""Of reading before anybody is asked: some hundred batches."""

TRAINER_S = 90.0
"""A trainer that has not said anything by then is stuck: on two busy cores it takes some ten seconds."""

ROWS = 4096

CODE = """
import os, time
SLOW_S = float(os.environ.get("SLOW_S", "0"))

def slowly(x):
    time.sleep(SLOW_S)
    return x

def each_slowly(x):
    time.sleep(SLOW_S)
    return x

def busily(x):
    until = time.thread_time() + SLOW_S
    while time.thread_time() < until:
        pass
    return x

def quickly(x):
    return x

class Waits:
    def __len__(self):
        return 4096
    def __getitem__(self, i):
        time.sleep(SLOW_S)
        return ROW, i

class Works(Waits):
    def __getitem__(self, i):
        return busily(ROW), i

import numpy as np
ROW = np.zeros(int(os.environ.get("ROW_NBYTES", "4096")), np.uint8)
"""

TRAINER = """\
import json, select, sys, time
import feedline

spec = json.loads(sys.argv[1])
feed = feedline.connect(spec["target"], timeout_s=60).feed(**spec["feed"])
worked_s, steps = 0.0, 0
while True:
    for batch in feed:
        began = time.monotonic()
        if not steps:
            print("reading", flush=True)
        time.sleep(spec["step_s"])
        worked_s, steps = worked_s + time.monotonic() - began, steps + 1
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                sys.exit()
            verdict = feed.why()
            said = {name: getattr(verdict, name) for name in verdict.__slots__}
            print(json.dumps(said | {"step_s": worked_s / steps}), flush=True)
"""


@dataclass(slots=True)
class SetUp:
    """One slow training, as it was drawn, and what the verdict on it is to say."""

    cause: str
    """The key in CAUSES."""
    expected: str
    """The verdict's cause."""
    stage: str = ""
    words: list[str] = field(default_factory=list)
    """In its sentence; `{slow}` stands for the address of the last replica."""
    is_counted: bool = False
    """The number of further workers is to be right as well."""
    workers: int = 1
    replicas: int = 1
    args: list[str] = field(default_factory=list)
    """Of the loaders."""
    slow_s: list[float] = field(default_factory=lambda: [0.0])
    """SLOW_S of each replica."""
    row_nbytes: int = 4096
    batch_size: int = 16
    step_s: float = 0.01
    data: str = "columns"
    """What is served: columns, hdf5, or an object of CODE."""
    transforms: list[dict[str, Any]] = field(default_factory=list)
    feed: dict[str, Any] = field(default_factory=dict)
    world: int = 1
    line: float = 0.0
    """Bytes a second that the line of the last rank lets through; 0: there is none."""


Draw = random.Random


# ---- what is drawn ----


def common(draw: Draw, cause: str, expected: str) -> SetUp:
    """Sizes, workers, replicas and a lane, none of which hold anything up."""
    lanes = draw.choice([[], ["--no-shm-lane"], ["--no-shm-lane", "--no-tcp-lane"]])
    transforms = draw.choice([[], [own("quickly")], [{"name": "cast", "dtype": "float32"}]])
    return SetUp(
        cause,
        expected,
        workers=draw.randint(1, 4),
        replicas=draw.choice([1, 1, 2]),
        args=lanes,
        row_nbytes=draw.choice([256, 1024, 4096, 8192]),
        batch_size=draw.choice([4, 8, 16, 32]),
        step_s=draw.uniform(0.01, 0.04),
        transforms=[dict(one) for one in transforms],
    )


def own(name: str, per: str = "batch") -> dict[str, Any]:
    """A transform of CODE."""
    return {"code": f"mine:{name}", "per": per}


def short(draw: Draw, one: SetUp) -> float:
    """Worker-seconds a batch that are too many for its workers."""
    return one.workers * one.replicas * draw.uniform(1.5, 3.0) * one.step_s


def more_workers(one: SetUp, step_s: float) -> tuple[int, int]:
    """The least and the most further workers that are right, where a step took the trainer so long by its own clock.

    A worker's time for a batch is what it sleeps and a little. What a step takes is measured: on a busy machine it is
    up to twice what was drawn, and then fewer workers do.
    """
    more = one.slow_s[0] / step_s - one.workers * one.replicas
    return max(math.floor(0.7 * more), 1), max(math.ceil(1.3 * more), 1) + 1


def slow_transform(draw: Draw) -> SetUp:
    """One of two functions is slow: a batch or a sample at a time."""
    one = common(draw, "slow transform", "workers")
    seconds = short(draw, one)
    if draw.random() < 0.3:
        # As many as the machine has processors may really be busy, and others have some of these.
        one.workers, one.replicas, one.slow_s = 1, 1, [one.step_s * draw.uniform(1.5, 2.5)]
        name = "busily"
        one.transforms.append(own(name))
    elif draw.random() < 0.5:
        name = "slowly"
        one.slow_s = [seconds]
        one.transforms.append(own(name))
    else:
        name = "each_slowly"
        one.slow_s = [seconds / one.batch_size]
        one.transforms.append(own(name, "sample"))
    one.stage, one.words = f"mine:{name}", [f"`mine:{name}` on ", "all busy: "]
    return one


def too_few_workers(draw: Draw) -> SetUp:
    """Every worker is busy; how many more would do is to be right."""
    one = common(draw, "too few workers", "workers")
    one.slow_s, one.is_counted = [short(draw, one)], True
    one.transforms.append(own("slowly"))
    one.stage, one.words = "mine:slowly", ["more worker", "more replica"]
    return one


def slow_storage(draw: Draw) -> SetUp:
    """Reading waits."""
    one = common(draw, "slow disk", "storage")
    one.slow_s, one.data, one.transforms = [short(draw, one) / one.batch_size], "Waits", []
    one.stage, one.words = "storage", ["for storage: the workers of "]
    return one


def slow_own_reading(draw: Draw) -> SetUp:
    """The operator's own code computes while it reads."""
    one = common(draw, "own code reads slowly", "workers")
    one.workers, one.replicas, one.transforms = 1, 1, []
    one.slow_s, one.data = [one.step_s * draw.uniform(1.5, 2.5) / one.batch_size], "Works"
    one.stage, one.words = "read", ["reading on 1 loader with 1 worker, all busy: "]
    return one


def cold_chunks(draw: Draw) -> SetUp:
    """Each row has a compressed chunk of HDF5 decoded, of which few are kept."""
    one = common(draw, "cold HDF5 chunks", "workers")
    one.workers, one.replicas, one.transforms, one.data = 1, 1, [], "hdf5"
    one.batch_size, one.step_s = draw.choice([16, 32]), draw.uniform(0.0, 0.002)
    one.stage, one.words = "read", ["reading on 1 loader with 1 worker, all busy: ", "`feedline convert`"]
    return one


def thin_line(draw: Draw) -> SetUp:
    """Bytes arrive more slowly than they are wanted."""
    one = common(draw, "thin line", "line")
    one.args = draw.choice([["--no-shm-lane", "--no-tcp-lane"], ["--no-shm-lane"]])
    one.replicas, one.transforms = 1, [own("quickly")]
    one.row_nbytes, one.batch_size = draw.choice([8192, 16384]), draw.choice([16, 32])
    one.line = one.row_nbytes * one.batch_size / one.step_s / draw.uniform(1.5, 4.0)
    one.words = ["the line: batches stand ready"]
    return one


def small_arena(draw: Draw) -> SetUp:
    """Workers are there, but no room for their batches."""
    one = common(draw, "small arena", "memory")
    room = draw.choice([2, 3])  # batches; one may take half of the arena
    one.workers, one.replicas = math.ceil(2.7 * room), 1
    one.args, one.transforms = ["--memory", "2MiB", *one.args], [own("slowly")]
    one.batch_size, one.row_nbytes = 16, (2 << 20) // 16 // room * 15 // 16
    one.slow_s = [one.step_s * draw.uniform(1.5 * room, 0.75 * one.workers)]
    one.words = ["for memory: keys wait for room in the 2.1 MB of 1 loader"]
    return one


def slow_replica(draw: Draw) -> SetUp:
    """All would do if one were not so much slower."""
    one = common(draw, "slow replica", "replica")
    one.replicas, one.workers = draw.choice([2, 3]), draw.randint(1, 2)
    usual_s = one.step_s * one.replicas * one.workers / 1.2
    one.slow_s = [*[usual_s] * (one.replicas - 1), usual_s * draw.uniform(4.0, 8.0)]
    one.transforms.append(own("slowly"))
    one.words = ["the replica {slow}: a batch takes it "]
    return one


def slow_rank(draw: Draw) -> SetUp:
    """One rank's line is thin."""
    one = common(draw, "slow rank", "rank")
    one.args = ["--no-shm-lane", "--no-tcp-lane"]
    one.replicas, one.workers, one.world = 1, 2, draw.choice([2, 3])
    one.row_nbytes, one.batch_size, one.step_s = 16384, 16, draw.uniform(0.04, 0.08)
    one.line = one.row_nbytes * one.batch_size / one.step_s / draw.uniform(2.0, 4.0)
    one.words = [f"Rank {one.world - 1} of {one.world} waited "]
    return one


def slow_trainer(draw: Draw) -> SetUp:
    """The loaders could give several times as much."""
    one = common(draw, "slow trainer", "trainer")
    one.step_s = draw.uniform(0.06, 0.15)
    one.batch_size = draw.choice([4, 8, 16])
    one.slow_s = [one.step_s * one.workers * one.replicas * draw.uniform(0.05, 0.4)]
    one.transforms.append(own("slowly"))
    one.words = ["The trainer is the limit"]
    return one


def late_transforms(draw: Draw) -> SetUp:
    """The trainer does what is heavy itself."""
    one = common(draw, "late transforms", "late transforms")
    one.step_s = draw.uniform(0.0, 0.004)
    one.row_nbytes, one.batch_size = draw.choice([1024, 2048]), draw.choice([32, 64])
    one.transforms = [{"name": "one_hot", "classes": draw.choice([128, 256]), "late": True}]
    one.words = ["late = false"]
    return one


def short_window(draw: Draw) -> SetUp:
    """Each batch is asked for when the one before was taken: it takes longer than a step, and workers are idle."""
    one = common(draw, "short window", "window")
    one.workers, one.replicas = draw.randint(3, 4), 1
    one.slow_s = [one.step_s * draw.uniform(1.5, 2.0)]
    one.transforms.append(own("slowly"))
    one.feed = {"prefetch": 1}
    one.words = ["prefetch"]
    return one


CAUSES: dict[str, Callable[[Draw], SetUp]] = {
    "slow transform": slow_transform,
    "slow disk": slow_storage,
    "thin line": thin_line,
    "small arena": small_arena,
    "slow replica": slow_replica,
    "slow rank": slow_rank,
    "slow trainer": slow_trainer,
    "too few workers": too_few_workers,
    "cold HDF5 chunks": cold_chunks,
    "own code reads slowly": slow_own_reading,
    "late transforms": late_transforms,
    "short window": short_window,
}
"""The first nine are the prepared slow trainings."""


def set_up(seed: str, number: int) -> SetUp:
    """Which one has this number: every cause once in as many numbers as there are causes."""
    cause = list(CAUSES)[number % len(CAUSES)]
    return CAUSES[cause](random.Random(f"{seed}/{number}"))


# ---- what is run ----


def written(folder: Path, one: SetUp) -> Path | str:
    """What its loaders serve."""
    folder.mkdir()
    (folder / "mine.py").write_text(CODE)
    if one.data in {"Waits", "Works"}:
        return f"mine:{one.data}"
    if one.data == "hdf5":
        write_chunks(folder / "d.h5")
        return folder / "d.h5"
    (folder / "d").mkdir()
    # Sparse: rows of zeros take no disk.
    np.lib.format.open_memmap(folder / "d" / "x.npy", "w+", np.uint8, (ROWS, one.row_nbytes)).flush()
    np.save(folder / "d" / "y.npy", np.arange(ROWS))
    lines = ["[datasets.d]", 'path = "d"']
    for transform in one.transforms:
        lines += ["[[datasets.d.transforms]]", 'columns = ["x"]']
        lines += [f"{key} = {json.dumps(value)}" for key, value in transform.items()]
    (folder / "loader.toml").write_text("\n".join(lines) + "\n")
    return folder / "loader.toml"


def write_chunks(path: Path) -> None:
    """A gigabyte in chunks of 64 rows, all the same, so that it is written in a second."""
    import h5py

    rows, width, chunks = 64, 4096, 4096
    chunk = zlib.compress(np.random.default_rng(0).integers(0, 2, (rows, width), np.uint8).tobytes(), 1)
    with h5py.File(path, "w") as file:
        x = file.create_dataset(
            "x", (rows * chunks, width), np.uint8, chunks=(rows, width), compression="gzip", compression_opts=1
        )
        for number in range(chunks):
            x.id.write_direct_chunk((number * rows, 0), chunk)
        file["y"] = np.arange(rows * chunks)


def run(one: SetUp, folder: Path) -> dict[str, Any]:
    """Do it: the verdicts of the trainers and of `feedline why`, the slow replica's address, what `top` sees."""
    data = written(folder / "data", one)
    path = os.pathsep.join([str(folder / "data"), *filter(None, [os.environ.get("PYTHONPATH")])])
    stage = Stage(folder / "stage", ROW_NBYTES=str(one.row_nbytes), PYTHONPATH=path)
    with contextlib.ExitStack() as open_ones:
        open_ones.callback(close, stage)
        loaders, lines = started(stage, one, data, open_ones)
        addresses = [loader.address for loader in loaders]
        own_targets = [",".join(addresses)] * one.world
        if lines is not None:
            own_targets[-1] = lines.address
        trainers = [open_ones.enter_context(trainer(one, target, rank)) for rank, target in enumerate(own_targets)]
        for each in trainers:
            assert line_from(each) == "reading"
        # All read for as long: on a busy machine one rank may begin so much later that the others know nothing of it.
        time.sleep(SECONDS)
        for each in trainers:
            assert each.stdin is not None
            each.stdin.write("why\n")
            each.stdin.flush()
        said: list[dict[str, Any]] = [json.loads(line_from(each)) for each in trainers]
        with contextlib.redirect_stdout(io.StringIO()) as output:
            feedline_command(["why", own_targets[0], "--json"])
        outside = json.loads(output.getvalue().splitlines()[0])
        with contextlib.redirect_stdout(io.StringIO()) as output:
            feedline_command(["top", own_targets[0], "--once", "--json"])
        seen = json.loads(output.getvalue())
        for each in trainers:
            assert each.stdin is not None
            each.stdin.close()
        for each in trainers:
            each.wait(TRAINER_S)
    return {"verdicts": [*said, outside], "slow": addresses[-1], "seen": seen}


def close(stage: Stage) -> None:
    """End its loaders."""
    if problems := stage.close():
        raise AssertionError("\n".join(problems))


def started(
    stage: Stage, one: SetUp, data: Path | str, open_ones: contextlib.ExitStack
) -> tuple[list[Loader], Lines | None]:
    """Its loaders, and the line of the last rank."""
    args = ["--workers", str(one.workers), *one.args]
    if not one.line:
        loaders = []
        for slow_s in [*one.slow_s, *one.slow_s * one.replicas][: one.replicas]:
            stage._environment["SLOW_S"] = str(slow_s)
            loaders.append(stage.loader(data, *args))  # type: ignore[arg-type]  # `mine:Object` is no path
        return loaders, None
    hosts = ("127.0.0.1", "127.0.0.2")
    ports = [free_port(*hosts), *([] if "--no-tcp-lane" in args else [free_port(*hosts)])]
    args += ["--tcp-port", str(ports[1])] if ports[1:] else []
    loader = stage.loader(data, *args, address=f"127.0.0.1:{ports[0]}")  # type: ignore[arg-type]
    lines = open_ones.enter_context(Lines("127.0.0.2", *ports))
    lines.slow(one.line, 0.0)
    return [loader], lines


@contextlib.contextmanager
def trainer(one: SetUp, target: str, rank: int) -> Any:
    """A rank that trains until its standard input ends, and says why it waits at each line of it."""
    feed = {"batch_size": one.batch_size, "rank": rank, "world": one.world, **one.feed}
    spec = {"target": target, "step_s": one.step_s, "feed": feed}
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, json.dumps(spec)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def line_from(process: "subprocess.Popen[str]") -> str:
    """What a trainer says next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"a trainer ended with {process.wait()}"
    return line.strip()


def wrong(one: SetUp, found: dict[str, Any], step_s: float) -> list[str]:
    """What a verdict says that is not so; nothing if all is right. `step_s`: what a step took the trainer."""
    problems = []
    least, most = more_workers(one, step_s)
    if found["cause"] != one.expected:
        problems.append(f"the cause is {found['cause']!r}, not {one.expected!r}")
    elif found["stage"] != one.stage and one.stage:
        problems.append(f"the stage is {found['stage']!r}, not {one.stage!r}")
    elif one.is_counted and not least <= found["more_workers"] <= most:
        problems.append(f"{found['more_workers']} more workers, not {least} to {most} of steps of {step_s:.3f} s")
    return problems


# ---- the program ----


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not in the file yet, and say what was wrong; the exit code."""
    parser = argparse.ArgumentParser(
        "scripts/verdicts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", default="0", help="what is drawn (default 0)")
    parser.add_argument("--setups", type=int, default=SETUPS, metavar="N", help=f"how many (default {SETUPS})")
    parser.add_argument(
        "--only", metavar="WHICH", help="numbers or causes with commas: 3,17 or 'slow disk'; they are run again"
    )
    parser.add_argument("--results", type=Path, help="a line of JSON for each (default build/verdicts-SEED.jsonl)")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # loaders and trainers are ended, as by Ctrl-C
    results = args.results or ROOT / "build" / f"verdicts-{args.seed}.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    known = read(results)
    numbers = (
        chosen(args.only, args.setups, args.seed) if args.only else [n for n in range(args.setups) if n not in known]
    )
    for number in numbers:
        one = set_up(args.seed, number)
        known[number] = result = judged(number, one)
        with results.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(line_of(result), flush=True)
    return summary([known[number] for number in sorted(known) if number in {*numbers, *range(args.setups)}], results)


def read(results: Path) -> dict[int, dict[str, Any]]:
    """The last result of each number."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {one["number"]: one for one in map(json.loads, lines)}


def chosen(only: str, setups: int, seed: str) -> list[int]:
    """The numbers that `--only` means."""
    words = only.split(",")
    numbers = {int(word) for word in words if word.isdecimal()}
    if unknown := [word for word in words if not word.isdecimal() and word not in CAUSES]:
        raise SystemExit(f"--only: no cause is called {unknown[0]!r}; there are: {', '.join(CAUSES)}")
    return [
        n
        for n in range(max(setups, *numbers, 0) + 1)
        if n in numbers or (set_up(seed, n).cause in words and n < setups)
    ]


def judged(number: int, one: SetUp) -> dict[str, Any]:
    """A set-up's result: as it is written into the file."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="verdicts-") as folder:
        try:
            found = run(one, Path(folder))
        except Exception as error:
            found = {"verdicts": [], "slow": "", "error": f"{type(error).__name__}: {error}"}
    one.words = [word.format(slow=found["slow"]) for word in one.words]
    problems = [found["error"]] if "error" in found else []
    for who, verdict in zip(
        [f"rank {rank}" for rank in range(one.world)] + ["feedline why"], found["verdicts"], strict=False
    ):
        missing = [f"{word!r} is not in its sentence" for word in one.words if word not in verdict["sentence"]]
        step_s = found["verdicts"][0]["step_s"]
        problems += [f"{who}: {problem}" for problem in wrong(one, verdict, step_s) or missing]
    load = Path("/proc/loadavg").read_text().split()[0]
    return {
        "number": number, "cause": one.cause, "problems": problems, "load": float(load),
        "seconds": round(time.monotonic() - began, 1), "set_up": asdict(one), **found,
    }  # fmt: skip


def line_of(result: dict[str, Any]) -> str:
    """A result for people."""
    head = f"{result['number']:3} {result['cause']}, load {result['load']:.0f}, {result['seconds']:.0f} s: "
    sentence = result["verdicts"][0]["sentence"] if result["verdicts"] else ""
    if not result["problems"]:
        return head + f"right: {sentence}"
    details = {name: value for name, value in result["set_up"].items() if name not in {"cause", "words"}}
    problems = "\n".join(f"  {problem}" for problem in result["problems"])
    return f"{head}WRONG\n{problems}\n  {sentence}\n{textwrap.indent(json.dumps(details), '  ')}"


def summary(results: list[dict[str, Any]], file: Path) -> int:
    """Print how many were right, by cause; the exit code."""
    right = [one for one in results if not one["problems"]]
    of_all, of_right = (Counter(one["cause"] for one in many) for many in (results, right))
    print()
    for cause, count in of_all.items():
        print(f"{cause:24} {of_right[cause]} of {count}")
    loads = [one["load"] for one in results] or [0.0]
    share = len(right) / len(results) if results else 0.0
    print(
        f"right: {len(right)} of {len(results)}, {100 * share:.1f} % (wanted {100 * WANTED:g} %), "
        f"at loads of {min(loads):.0f} to {max(loads):.0f}; {file}"
    )
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
