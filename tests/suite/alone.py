"""Runs tests marked `alone` one by one, after all others, when pytest-xdist runs several processes.

Such a test measures the machine (memory, clocks, descriptors, CPU time), so its neighbours would be in the measurement.
All other tests of a file run in one process, so that what its fixtures start is started once.
"""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

ALONE: Final = "alone"
"""The marker, and the name of the unit of work that holds all these tests."""

LONG: Final = ("tests/faults/", "tests/end_to_end/", "tests/client/keras/", "tests/examples/", "tests/client/cli/")
"""Folders whose files take longest. They begin first, or one process would work on one when the others are done."""


def begin_with(units: Iterable[str]) -> list[str]:
    """Units of work in the order in which they are handed out: long files, others, and tests alone."""

    def rank(unit: str) -> int:
        if unit == ALONE:
            return len(LONG) + 1
        return next((place for place, folder in enumerate(LONG) if unit.startswith(folder)), len(LONG))

    return sorted(units, key=rank)


# ---- pytest ----

_FOLDER: Final = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()
"""Where processes that run tests write down which are alone: only they collect, and only the one above hands out."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the tests that are alone last."""
    alone = [item for item in items if item.get_closest_marker(ALONE)]
    last = set(alone)
    items[:] = [item for item in items if item not in last] + alone
    if folder := getattr(config, "workerinput", {}).get("alone"):
        Path(folder, config.workerinput["workerid"]).write_text(json.dumps([item.nodeid for item in alone]))  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells a process that will run tests where to write."""
    if _FOLDER not in node.config.stash:
        node.config.stash[_FOLDER] = tempfile.TemporaryDirectory(prefix="feedline-alone-")
    node.workerinput["alone"] = node.config.stash[_FOLDER].name


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes what was written."""
    if folder := config.stash.get(_FOLDER, None):
        folder.cleanup()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadScopeScheduling | None":
    """Takes the place of pytest-xdist's `loadfile`."""
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class FilesThenAlone(LoadScopeScheduling):
        """Hands out files to all processes; when all are done and one process is left, what must be alone."""

        def _split_scope(self, nodeid: str) -> str:
            return ALONE if nodeid in self._alone else nodeid.partition("::")[0]

        def _assign_work_unit(self, node: Any) -> None:
            for unit in begin_with(self.workqueue):
                self.workqueue.move_to_end(unit)
            if not self._only_alone_is_left() or self._is_by_itself(node):
                super()._assign_work_unit(node)

        def _reschedule(self, node: Any) -> None:
            if node.shutting_down or not self._only_alone_is_left():
                super()._reschedule(node)
            elif len(self._running()) > 1:
                node.shutdown()  # it finishes what it has; its shared loaders are gone before the others are measured

        def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
            super().mark_test_complete(node, item_index, duration)
            self._release_alone()

        def schedule(self) -> None:
            self._alone = frozenset[str]().union(*map(_written, Path(config.stash[_FOLDER].name).iterdir()))
            super().schedule()
            self._release_alone()

        def _release_alone(self) -> None:
            for node in self._running():
                if self._only_alone_is_left() and self._is_by_itself(node):
                    self._assign_work_unit(node)

        def _only_alone_is_left(self) -> bool:
            return list(self.workqueue) == [ALONE]

        def _running(self) -> list[Any]:
            return [node for node in self.nodes if not node.shutting_down]

        def _is_by_itself(self, node: Any) -> bool:
            # A process keeps its last test until it is told what follows, so that one may still be to do.
            others = sum(self._pending_of(self.assigned_work[other]) for other in self.nodes if other is not node)
            return others == 0 and self._pending_of(self.assigned_work[node]) <= 1

    return FilesThenAlone(config, log)


def _written(file: Path) -> list[str]:
    nodeids: list[str] = json.loads(file.read_text())
    return nodeids
