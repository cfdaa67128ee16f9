"""Tests of the frameworks' doors, with other versions of the frameworks and of Python: `scripts/matrix`.

A cell is a clean environment and the tests that are run in it. What came of each is kept in build/matrix, so a run that
is ended goes on where it was, and a cell that passed, or that cannot be installed, is not run again without --again.
"""

import argparse
import datetime
import fcntl
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]

KEPT = ROOT / "build" / "matrix"
"""Results, logs, and the environments of cells that failed."""

PAGE = ROOT / "docs" / "versions.md"

BEGIN, END = "<!-- matrix: written by scripts/matrix --publish -->", "<!-- matrix: end -->"

WITHIN_S = 3600
"""For the tests of one cell; the longest take 5 minutes on two quiet cores."""

PYTHONS = ("3.11", "3.13")

KERAS = {
    "keras-3.8": "keras==3.8.*",  # the oldest that RemoteSequence works with
    "keras-3.12": "keras==3.12.*",
    "keras": "keras",
}
BACKENDS = {
    "tensorflow": ("tensorflow-cpu>=2.16",),
    "jax": ("jax>=0.4.30",),
    "torch": ("torch==2.13.0",),  # as in pyproject.toml
}
LEGACY = {"tf_keras": ("tf_keras", "tensorflow"), "tf_keras-2.16": ("tf_keras==2.16.*", "tensorflow==2.16.*")}
"""Keras 2, beside the TensorFlow of its version: the newest, and the oldest that brings Keras 3."""
OF_ITS_DAY = {("keras-3.8", "jax"): ("jax==0.5.*",)}
"""Where an old Keras does not work with the newest of a backend, also without feedline: jax.spmd_mode is gone."""
TORCH = {"torch": "torch==2.13.0", "torch-2.9": "torch==2.9.*"}
LIBRARIES = {
    "libraries": ("accelerate", "keras", "lightning", "torchdata", "transformers"),
    # The newest of November 2025.
    "libraries-2025": (
        "accelerate==1.12.*",
        "keras==3.12.*",
        "lightning==2.5.*",
        "torchdata==0.11.*",
        "transformers==4.57.*",
    ),
}
JAX = {"jax": ("jax", "grain", "keras"), "jax-0.8": ("jax==0.8.*", "grain==0.2.15", "keras==3.12.*")}  # likewise


@dataclass(frozen=True, slots=True)
class Cell:
    """An environment and what is run in it."""

    name: str
    python: str
    """Major and minor version."""
    packages: tuple[str, ...]
    """What pip installs beside feedline and its tests' tools."""
    tests: tuple[str, ...]
    """Arguments of pytest."""
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a cell."""

    result: str
    """`passed`, `FAILED`, `skipped` or `none` (there is no such combination of packages)."""
    why: str
    versions: str
    date: str
    commit: str


# ---- deciding ----


def cells() -> Iterator[Cell]:
    """All cells of the matrix."""
    for (keras, requirement), (backend, needs), python in product(KERAS.items(), BACKENDS.items(), PYTHONS):
        yield Cell(
            f"{keras} {backend} py{python}",
            python,
            (requirement, *OF_ITS_DAY.get((keras, backend), needs)),
            ("tests/client/keras", *(["tests/client/tf"] if backend == "tensorflow" else [])),
            (("KERAS_BACKEND", backend),),
        )
    for (legacy, needs), python in product(LEGACY.items(), PYTHONS):
        yield Cell(
            f"{legacy} py{python}", python, needs, ("tests/client/tf_keras", "tests/client/tf"),
            (("TF_USE_LEGACY_KERAS", "1"),),
        )  # fmt: skip
    for (torch, requirement), (libraries, needs), python in product(TORCH.items(), LIBRARIES.items(), PYTHONS):
        examples = "lightning_trainer or pytorch"
        yield Cell(
            f"{torch} {libraries} py{python}",
            python,
            (requirement, *needs),
            ("tests/client/torch", "tests/examples", "-k", f"not test_examples or {examples}"),
        )
    for (jax, needs), python in product(JAX.items(), PYTHONS):
        yield Cell(
            f"{jax} grain py{python}",
            python,
            needs,
            ("tests/client/jax", "tests/client/grain", "tests/examples", "-k", "not test_examples or jax_training"),
        )


def chosen(of: Iterable[Cell], words: Sequence[str], python: str | None = None) -> list[Cell]:
    """The cells whose names have all of these words, on this Python. Raises ValueError for a word that none has."""
    every = list(of)
    known = {word for cell in every for word in cell.name.split()}
    if unknown := [word for word in words if word not in known]:
        raise ValueError(f"no cell has the word {' or '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [cell for cell in every if set(words) <= set(cell.name.split()) and python in (None, cell.python)]


def to_run(of: Iterable[Cell], outcomes: Mapping[str, Outcome], *, again: bool) -> list[Cell]:
    """Those whose outcome is not known yet, or may be another one now."""
    return [
        cell
        for cell in of
        if again or cell.name not in outcomes or outcomes[cell.name].result not in {"passed", "none"}
    ]


def why_not_installed(pip: str) -> tuple[str, str]:
    """The result, and why, where pip ended with an error after it wrote this."""
    conflicts = [line.strip() for line in pip.splitlines() if re.match(r" +\S+ \S+ depends on ", line)]
    if "ResolutionImpossible" in pip:
        return "none", "; ".join(dict.fromkeys(conflicts)) or "the packages conflict"
    if missing := re.search(r"No matching distribution found for (.+)", pip):
        return "none", f"there is no {missing[1].strip()} for this Python"
    return "FAILED", f"pip: {pip.strip().splitlines()[-1] if pip.strip() else 'nothing said'}"


def brings_cuda(report: Mapping[str, Any]) -> list[str]:
    """CUDA's packages in a report of `pip install --dry-run`: gigabytes that these tests have no use for."""
    names = (str(each["metadata"]["name"]) for each in report["install"])
    return sorted(name for name in names if name.startswith(("nvidia-", "cuda-")))


def table(of: Iterable[Cell], outcomes: Mapping[str, Outcome]) -> str:
    """A table in Markdown."""
    lines = ["| cell | installed | result | on |", "| --- | --- | --- | --- |"]
    for cell in of:
        if (found := outcomes.get(cell.name)) is None:
            lines.append(f"| {cell.name} | | not run | |")
        else:
            result = {"none": "there is none"}.get(found.result, found.result)
            lines.append(
                f"| {cell.name} | {found.versions} | {result}{f': {found.why}' if found.why else ''} | {found.date} |"
            )
    return "\n".join(lines)


def published(page: str, new: str) -> str:
    """The page with the new table in place of the old one, without where the logs are.

    Of a cell of which nothing is known here, the old line stays: it was run elsewhere.
    """
    before, _, rest = page.partition(BEGIN)
    old, _, after = rest.partition(END)
    known = {line.split(" | ")[0]: line for line in old.splitlines()}
    lines = [
        known.get(line.split(" | ")[0], line) if line.endswith("| | not run | |") else line for line in new.splitlines()
    ]
    table = re.sub(r"; see [^ |]+", "", "\n".join(lines))
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


# ---- acting ----


def run(cell: Cell, *, within: Path | None, keep: bool, cuda: bool, through: Sequence[str]) -> Outcome:
    """Make the cell's environment, run its tests, and remove the environment if they passed.

    With `within` that environment is taken as it is, and gets the cell's packages. pytest runs at the end of `through`.
    """
    place = within or KEPT / cell.name.replace(" ", "-")
    log = KEPT / f"{cell.name.replace(' ', '-')}.log"
    interpreter = os.environ.get("PYTHON") or f"python{cell.python}"

    def outcome(result: str, why: str = "") -> Outcome:
        commit = _said(["git", "rev-parse", "--short", "HEAD"])
        return Outcome(result, why, _versions(place, cell), datetime.date.today().isoformat(), commit)

    if missing := [test for test in cell.tests if test.startswith("tests/") and not (ROOT / test).exists()]:
        return outcome("skipped", f"there is no {', '.join(missing)}")
    python = str(place / "bin" / "python")
    with log.open("w") as out:
        with _alone("installing"):
            if within is None:
                shutil.rmtree(place, ignore_errors=True)
                if not _made(interpreter, place, out):
                    return outcome("skipped", f"there is no {interpreter} here")
            what = [
                "--editable", f"{ROOT}[server,h5,arrow,images,sealed,top]", "--group", f"{ROOT}/pyproject.toml:tools",
                "scikit-learn", *cell.packages,
            ]  # fmt: skip
            install = [str(_pip(out)), "--python", python, "install", "--quiet"]
            if not cuda and any(package.startswith("torch") for package in cell.packages):
                plan = place / "plan.json"
                if _ended([*install, "--dry-run", "--report", str(plan), *what], out, within_s=1800) != 0:
                    return outcome(*why_not_installed(log.read_text()))
                if brings_cuda(json.loads(plan.read_text())):
                    return outcome(
                        "skipped", "pip finds no CPU build of it here, and --cuda, which takes GBs, was not given"
                    )
            if _ended([*install, *what], out, within_s=7200) != 0:
                return outcome(*why_not_installed(log.read_text()))
        code = _ended(
            [
                *through, python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=15", "--tier", "all",
                # Of its own: pytest removes old ones of others at its end, and fails where another run does so too.
                "--basetemp", str(log.with_suffix(".tmp")), "-m", "not gpu", *cell.tests,
            ],
            out,
            within_s=WITHIN_S,
            environment=dict(cell.environment),
        )  # fmt: skip
    shutil.rmtree(log.with_suffix(".tmp"), ignore_errors=True)
    summaries = re.findall(r"^=* ?(\d+ \w+.*) in [\d.]+s", log.read_text(), re.MULTILINE)
    summary = summaries[-1] if summaries else f"pytest ended with {code}"
    if within is not None:
        summary += ", beside other packages"
    found = outcome(
        "passed" if code == 0 else "FAILED", summary if code == 0 else f"{summary}; see {log.relative_to(ROOT)}"
    )
    if code == 0 and within is None and not keep:
        shutil.rmtree(place)
    return found


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """Blocks until no other run of this program is inside the same block: two may go on side by side."""
    with (KEPT / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made(interpreter: str, place: Path, out: TextIO) -> bool:
    """Whether an environment could be made."""
    try:
        return _ended([interpreter, "-m", "venv", "--without-pip", str(place)], out, within_s=1800) == 0
    except FileNotFoundError:
        return False


def _pip(out: TextIO) -> Path:
    """The pip that installs into all environments, in one of its own. pip knows dependency groups from 25.1 on."""
    place = KEPT / "pip"
    pip = place / "bin" / "pip"
    if not pip.exists():
        _ended([sys.executable, "-m", "venv", "--clear", str(place)], out, within_s=1800)
        _ended([str(pip), "install", "--quiet", "--upgrade", "pip>=25.1"], out, within_s=1800)
    return pip


def _ended(
    command: Sequence[str], out: TextIO, *, within_s: float, environment: Mapping[str, str] | None = None
) -> int:
    """The exit status of a command; it is ended with this process, and when it takes too long."""
    out.write(f"$ {' '.join(command)}\n")
    out.flush()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=os.environ | dict(environment or {})
    )
    try:
        return process.wait(within_s)
    except subprocess.TimeoutExpired:
        out.write(f"\ntook more than {within_s:.0f} s\n")
        return 124
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _said(command: Sequence[str]) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _versions(place: Path, cell: Cell) -> str:
    """The Python of an environment and what it has of the packages that the cell asks for."""
    names = [re.split(r"[=<>~!]", package)[0] for package in cell.packages]
    script = (
        "import platform, sys\nfrom importlib.metadata import PackageNotFoundError, version\n"
        "found = ['Python ' + platform.python_version()]\n"
        "for name in sys.argv[1:]:\n"
        "    try: found.append(name + ' ' + version(name))\n"
        "    except PackageNotFoundError: pass\n"
        "print(', '.join(found))"
    )
    python = place / "bin" / "python"
    return _said([str(python), "-c", script, *names]) if python.exists() else ""


def _read() -> dict[str, Outcome]:
    file = KEPT / "results.json"
    return {name: Outcome(**fields) for name, fields in json.loads(file.read_text()).items()} if file.exists() else {}


def _write(outcomes: Mapping[str, Outcome]) -> None:
    written = KEPT / "results.json.new"
    written.write_text(json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()}, indent=1))
    written.replace(KEPT / "results.json")


def main() -> int:
    """What scripts/matrix does."""
    parser = argparse.ArgumentParser(prog="scripts/matrix", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only cells whose names have all of these words")
    parser.add_argument("--list", action="store_true", help="print the table of what is known, and run nothing")
    parser.add_argument("--again", action="store_true", help="run cells that passed, too")
    parser.add_argument("--in", dest="within", type=Path, metavar="VENV", help="run in this environment, made before")
    parser.add_argument("--keep", action="store_true", help="keep the environments of cells that passed")
    parser.add_argument("--cuda", action="store_true", help="also where pip finds only a CUDA build of torch")
    parser.add_argument(
        "--through", default="", metavar="COMMAND", help="run the tests at the end of it: 'nice', 'taskset -c 0'"
    )
    parser.add_argument("--publish", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    args = parser.parse_args()
    python = None
    if os.environ.get("PYTHON"):  # it is what runs this
        python = ".".join(platform.python_version_tuple()[:2])
    if args.within:
        asked = "import sys; print('%d.%d' % sys.version_info[:2])"
        python = _said([str(args.within / "bin" / "python"), "-c", asked])
    try:
        wanted = chosen(cells(), args.words, python)
    except ValueError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    KEPT.mkdir(parents=True, exist_ok=True)
    if not args.list:
        for cell in to_run(wanted, _read(), again=args.again):
            print(f"== {cell.name}: {', '.join(cell.packages)}", flush=True)  # noqa: T201
            found = run(cell, within=args.within, keep=args.keep, cuda=args.cuda, through=shlex.split(args.through))
            with _alone("writing"):
                _write(_read() | {cell.name: found})
            print(f"== {found.result}: {found.versions}: {found.why}", flush=True)  # noqa: T201
    outcomes = _read()
    if args.publish:
        PAGE.write_text(published(PAGE.read_text(), table(cells(), outcomes)))
    print(table(wanted, outcomes))  # noqa: T201
    return int(any(outcomes[cell.name].result == "FAILED" for cell in wanted if cell.name in outcomes))


if __name__ == "__main__":
    sys.exit(main())
