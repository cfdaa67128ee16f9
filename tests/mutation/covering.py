"""Which unit tests run which line, measured once for all mutants."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coverage import CoverageData

HERE: Final = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Tests:
    """The unit tests of a tree, what each takes, and what each runs."""

    seconds: Mapping[str, float]
    """By node id. Those that fail without a fault are not among them."""
    failed: Sequence[str]
    _lines: Mapping[str, Mapping[int, Sequence[str]]]

    def covering(self, path: str, source: str, line: int) -> list[str]:
        """The tests that run this line of a module, those of its own folder first, quick ones before others.

        What runs when the module is imported is covered by every test that runs any line of it.
        """
        lines = self._lines.get(path, {})
        names = {name for number in statement_lines(source, line) for name in lines.get(number, ()) if name}
        if not names:
            names = {name for found in lines.values() for name in found if name}
        known = {name for name in names if name in self.seconds}
        own = own_folder(path)
        return sorted(known, key=lambda name: (not name.startswith(own), self.seconds[name], name))


def own_folder(path: str) -> str:
    """Where a module's own tests are: `tests/` mirrors the packages."""
    side, _, rest = path.partition("/")
    return f"tests/{side}/{str(Path(rest).parent).partition('/')[2]}/"


def statement_lines(source: str, line: int) -> range:
    """The lines of the innermost statement, or head of a compound statement, that a line is part of."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and node.lineno <= line:
            body: list[ast.stmt] = getattr(node, "body", [])
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            if node.lineno <= line <= last:
                found = range(node.lineno, last + 1)
    return found


def measure(tree: Path, environment: Mapping[str, str], packages: Iterable[str], tests: Sequence[str]) -> Tests:
    """Run the unit tests of a tree once. Takes some minutes."""
    times, data = tree / "times.json", tree / ".coverage"
    command = [sys.executable, "-m", "pytest", "--tier", "unit", "-q", "-p", "no:cacheprovider", "-p", "times"]
    command += [f"--cov={package}" for package in packages]
    command += ["--cov-context=test", "--cov-report=", f"--times={times}", *tests]
    run = subprocess.run(command, cwd=tree, env=dict(environment), capture_output=True, text=True, check=False)
    if not times.exists():
        raise RuntimeError(f"the tests do not run:\n{run.stdout}{run.stderr}")
    outcomes = json.loads(times.read_text())
    coverage = CoverageData(str(data))
    coverage.read()
    lines = {
        str(Path(file).relative_to(tree)): {
            line: [name.rpartition("|")[0] for name in names]
            for line, names in coverage.contexts_by_lineno(file).items()
        }
        for file in coverage.measured_files()
    }
    return Tests(outcomes["passed"], outcomes["failed"], lines)
