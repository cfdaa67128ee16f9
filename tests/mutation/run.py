"""Puts one small fault after the other into decision code, and sees whether the unit tests that run it notice.

cosmic-ray makes the mutants (mutants.py), coverage says which tests run which line (covering.py); what is run, where,
and what came of it is here. mutmut 3 leaves out decorated functions, mutates strings too and forks a process in which
gRPC runs; cosmic-ray's own runner has one test command for all mutants.

Results stay in `.mutate/`, so that a run goes on where it was ended. They hold until the module changes; what survived
is tried again when a test changes.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import math
import os
import queue
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import pytest
from covering import Tests, measure, own_folder
from mutants import Mutant, mutants_of

ROOT: Final = Path(__file__).resolve().parents[2]

STATE: Final = ROOT / ".mutate"

EQUIVALENT: Final = Path(__file__).with_name("equivalent.toml")
"""Mutants that no test can catch, each with the reason."""

PATHS: Final = (
    "server/feedline_server/scheduling",
    "server/feedline_server/order",
    "client/feedline/fleet",
    "client/feedline/reading/plan.py",
    "client/feedline/reading/state.py",
    "client/feedline/reading/feed.py",
    "client/feedline/reading/readahead.py",
    "client/feedline/connection/buffers.py",
)
"""The decision code: who is asked, in which order, with which memory."""

TESTS: Final = ("tests/wire", "tests/client", "tests/server")

WANTED: Final = 0.95
"""Of the mutants that are not equivalent."""

TEST_S: Final = 30.0
"""A unit test that takes longer hangs, and has noticed; alone they take up to some seconds."""

START_S: Final = 90.0
"""What pytest may take beside the tests, on a machine that does other things too."""

MEMORY: Final = 16 << 30
"""Of addresses, for each process of a test: a fault may make a loop that never ends and keeps what it makes."""

Outcome = Literal["caught", "hung", "survived"]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one mutant."""

    key: str
    outcome: Outcome
    by: str
    """The test that noticed; for a survivor how many tests did not."""
    tests: str
    """Stands for all tests as they were."""


def main() -> int:
    """Everything; the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("paths", nargs="*", default=PATHS, metavar="PATH", help="modules or folders (default: all)")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH", help="choose only among these unit tests")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many mutants at a time")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after so many, and say what that sample shows"
    )
    parser.add_argument("--again", action="store_true", help="forget all results")
    args = parser.parse_args()

    signal.signal(signal.SIGTERM, _end)
    STATE.mkdir(exist_ok=True)
    results_file = STATE / "results.jsonl"
    if args.again:
        results_file.unlink(missing_ok=True)
    modules = {str(path.relative_to(ROOT)): path.read_text() for path in _modules(args.paths)}
    say(f"{len(modules)} modules; making the mutants")
    mutants = [mutant for path, source in modules.items() for mutant in mutants_of(path, source)]
    known = _known(results_file, _tests_now())
    to_do = [mutant for mutant in mutants if mutant.key not in known]
    random.Random(0).shuffle(to_do)  # what is tried before the end is a fair sample of all
    say(f"{len(mutants)} mutants, {len(to_do)} to try")
    if to_do:
        known |= _try(to_do, modules, args.tests, args.jobs, results_file, args.minutes * 60)
    return _report(mutants, known, whole=tuple(args.paths) == PATHS)


def _end(signum: int, _frame: object) -> None:
    """Leave at once: what is under way is tried again by the next run."""
    for group in list(_GROUPS):
        _kill(group)
    os._exit(128 + signum)


def say(text: str) -> None:
    """One line of progress."""
    print(f"mutate: {text}", flush=True)  # noqa: T201 - a command


def _modules(paths: Sequence[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        whole = path if path.is_absolute() else ROOT / path
        found = sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]
        if not whole.exists():
            raise SystemExit(f"mutate: there is no {path}")
        yield from found


def _tests_now() -> str:
    digest = hashlib.blake2b(digest_size=12)
    for file in sorted((ROOT / "tests").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _known(file: Path, tests: str) -> dict[str, Result]:
    """Results that still hold."""
    if not file.exists():
        return {}
    results = [Result(**json.loads(line)) for line in file.read_text().splitlines()]
    return {result.key: result for result in results if result.outcome != "survived" or result.tests == tests}


# ---- trying ----


def _try(
    mutants: Sequence[Mutant], modules: dict[str, str], tests: Sequence[str], jobs: int, file: Path, limit_s: float
) -> dict[str, Result]:
    trees = [_tree(number) for number in range(jobs)]
    packages = {Path(path).parts[1] for path in modules}
    say("running the unit tests once, to see which lines each runs")
    began = time.monotonic()
    covering = measure(trees[0], _environment(trees[0]), packages, tests)
    say(f"{len(covering.seconds)} tests in {time.monotonic() - began:.0f} s")
    for name in covering.failed:
        say(f"left out, for it fails without a fault: {name}")

    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for tree in trees:
        free.put(tree)
    now, results = _tests_now(), dict[str, Result]()

    def one(mutant: Mutant) -> tuple[Mutant, Result] | None:
        if time.monotonic() - began > limit_s:
            return None
        tree = free.get()
        try:
            outcome, by = _outcome(tree, mutant, covering, modules[mutant.path])
        finally:
            free.put(tree)
        return mutant, Result(mutant.key, outcome, by, now)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool, file.open("a") as lines:
        try:
            for done, (mutant, result) in enumerate(filter(None, pool.map(one, mutants)), 1):
                lines.write(json.dumps(asdict(result)) + "\n")
                lines.flush()
                results[result.key] = result
                if result.outcome == "survived":
                    say(f"survived, {result.by}: {mutant}")
                if done % 20 == 0:
                    say(f"{done} of {len(mutants)} in {(time.monotonic() - began) / 60:.0f} min")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return results


def _tree(number: int) -> Path:
    """A copy of the checkout, with what is not committed, for one mutant at a time."""
    tree = STATE / f"tree-{number}"
    shutil.rmtree(tree, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


def _environment(tree: Path) -> dict[str, str]:
    paths = [tree / "protos", tree / "server", tree / "client", tree / "tests" / "mutation"]
    before = filter(None, [os.environ.get("PYTHONPATH")])
    return os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, paths), *before])}


def _outcome(tree: Path, mutant: Mutant, covering: Tests, source: str) -> tuple[Outcome, str]:
    tests = covering.covering(mutant.path, source, mutant.line)
    own = [name for name in tests if name.startswith(own_folder(mutant.path))]
    module = tree / mutant.path
    module.write_text(mutant.source)
    # Python looks at the time of a file in whole seconds: two mutants may have the same.
    for compiled in module.parent.glob(f"__pycache__/{module.stem}.*"):
        compiled.unlink()
    try:
        for chosen in (own, tests[len(own) :]):
            if chosen and (noticed := _noticed(tree, chosen, sum(covering.seconds[name] for name in chosen))):
                return noticed
    finally:
        module.write_text(source)
        for compiled in module.parent.glob(f"__pycache__/{module.stem}.*"):
            compiled.unlink()
    return "survived", f"{len(tests)} tests"


def _noticed(tree: Path, tests: Sequence[str], seconds: float) -> tuple[Outcome, str] | None:
    """How these tests noticed the fault that is in the tree."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-rfE", f"--timeout={TEST_S}"]
    run = subprocess.Popen(
        [*command, *tests],
        cwd=tree,
        env=_environment(tree),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    _GROUPS.add(run.pid)
    resource.prlimit(run.pid, resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        output, _ = run.communicate(timeout=START_S + 4 * seconds)
    except subprocess.TimeoutExpired:
        output = None
    finally:
        _kill(run.pid)
        run.communicate()
        _GROUPS.discard(run.pid)
    if output is None:
        return "hung", f"{len(tests)} tests"
    if run.returncode == 0:
        return None
    if run.returncode == pytest.ExitCode.USAGE_ERROR:
        if "while loading conftest" in output:  # it breaks what all tests import
            return "caught", "conftest.py"
        raise RuntimeError(output)  # of this program: nothing was run
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return ("hung" if "Failed: Timeout" in output else "caught"), failed[1] if failed else output[-300:]


_GROUPS: Final = set[int]()
"""Process groups of tests that run."""


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


# ---- saying what came of it ----


def _report(mutants: Sequence[Mutant], results: dict[str, Result], *, whole: bool) -> int:
    reasons = {
        (one["file"], one["line"], one["mutant"]): one["reason"]
        for one in tomllib.loads(EQUIVALENT.read_text())["equivalent"]
    }
    outcomes: dict[str, Counter[str]] = {}
    survivors = []
    used = set()
    tried = [mutant for mutant in mutants if mutant.key in results]
    for mutant in tried:
        outcome: str = results[mutant.key].outcome
        listed = (mutant.path, mutant.before, mutant.after)
        if outcome == "survived" and listed in reasons:
            used.add(listed)
            outcome = "equivalent"
        if outcome == "survived":
            survivors.append(mutant)
        outcomes.setdefault(mutant.path, Counter())[outcome] += 1
    for mutant in survivors:
        print(mutant)  # noqa: T201
    kinds = ("caught", "hung", "survived", "equivalent")
    print(f"{'module':<58}" + "".join(f"{kind:>11}" for kind in kinds))  # noqa: T201
    for path, counts in outcomes.items():
        print(f"{path:<58}" + "".join(f"{counts[kind]:>11}" for kind in kinds))  # noqa: T201
    total = sum(outcomes.values(), Counter[str]())
    print(f"{'all':<58}" + "".join(f"{total[kind]:>11}" for kind in kinds))  # noqa: T201
    noticed = total["caught"] + total["hung"]
    counted = noticed + total["survived"]
    say(f"{noticed} of {counted} that are not equivalent were noticed: {noticed / max(counted, 1):.1%}")
    if len(tried) < len(mutants):
        low, high = _interval(noticed, counted)
        say(f"a sample, {len(tried)} of {len(mutants)}: {low:.1%} to {high:.1%} of all (95 % interval)")
        return int(noticed < WANTED * counted)
    wrong = [listed for listed in reasons if listed not in used and (whole or listed[0] in outcomes)]
    for listed in wrong:
        say(f"equivalent.toml lists what is not there, or what a test notices: {listed}")
    return int(noticed < WANTED * counted or bool(wrong))


def _interval(noticed: int, counted: int) -> tuple[float, float]:
    """Of a share that a sample shows (Wilson 1927, the score interval)."""
    if not counted:
        return 0.0, 1.0
    z, share = 1.96, noticed / counted
    middle = share + z * z / (2 * counted)
    spread = z * math.sqrt(share * (1 - share) / counted + z * z / (4 * counted * counted))
    return (middle - spread) / (1 + z * z / counted), (middle + spread) / (1 + z * z / counted)


if __name__ == "__main__":
    sys.exit(main())
