"""A plugin for pytest that writes what each test took, and which failed: `-p times --times=FILE`."""

import json
from collections import defaultdict
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--times`."""
    parser.addoption("--times", type=Path, help="write what each test took to this file")


def pytest_configure(config: pytest.Config) -> None:
    """Begins to listen."""
    if config.option.times:
        config.pluginmanager.register(_Times(config.option.times))


class _Times:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._failed: set[str] = set()
        self._skipped: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.failed:
            self._failed.add(report.nodeid)
        if report.skipped:
            self._skipped.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        left_out = self._failed | self._skipped
        passed = {name: seconds for name, seconds in self._seconds.items() if name not in left_out}
        self._file.write_text(json.dumps({"passed": passed, "failed": sorted(self._failed)}))
