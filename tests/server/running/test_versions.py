"""How long an older version of the data is served."""

from types import SimpleNamespace
from typing import Any

from feedline_server.running.versions import KEEP_S, LOOK_S, Versions
from feedline_server.scheduling.catalog import Catalog, Served

OLD, NEW = b"old", b"new"


class Bench:
    """One dataset in two versions; `used` are those that trainers are on, `now` is the clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.used: set[tuple[str, bytes]] = set()
        self.withdrawn: list[tuple[str, bytes]] = []
        self.catalog = Catalog({"d": served(OLD)}, max_batch_nbytes=1)
        scheduler: Any = SimpleNamespace(versions_in_use=lambda: self.used)
        pool: Any = SimpleNamespace(withdraw=self.withdrawn.append)
        settings: Any = SimpleNamespace(datasets={})
        self.versions = Versions(settings, self.catalog, scheduler, pool, now=lambda: self.now)

    @property
    def served(self) -> list[bytes]:
        return [one.fingerprint for _, one in self.catalog.versions]


def served(fingerprint: bytes) -> Served:
    return Served(None, fingerprint)  # type: ignore[arg-type]  # what is in it does not matter here


def test_the_only_version_is_not_looked_after() -> None:
    bench = Bench()

    assert bench.versions.look() is None
    assert bench.served == [OLD]


def test_an_older_version_is_let_go_of_ten_minutes_after_its_last_trainer_has_left() -> None:
    bench = Bench()
    bench.catalog.add("d", served(NEW))
    bench.used = {("d", OLD)}
    for bench.now in (0.0, 10_000.0):
        assert bench.versions.look() == LOOK_S
    assert bench.served == [OLD, NEW], "a trainer is on it, however long"

    bench.used = set()
    for bench.now in (10_001.0, 10_000.0 + KEEP_S):
        assert bench.versions.look() == LOOK_S
    assert bench.served == [OLD, NEW]
    bench.now = 10_001.0 + KEEP_S
    bench.versions.look()

    assert bench.served == [NEW]
    assert bench.withdrawn == [("d", OLD)], "its workers let go of it, and of its files"
    assert bench.versions.look() is None


def test_a_trainer_that_comes_back_in_time_has_its_version_for_as_long_again() -> None:
    bench = Bench()
    bench.catalog.add("d", served(NEW))
    for used, at in ((set(), 0.0), ({("d", OLD)}, KEEP_S - 1), (set(), KEEP_S), (set(), 2 * KEEP_S - 1)):
        bench.used, bench.now = used, at
        bench.versions.look()
    assert bench.served == [OLD, NEW]

    bench.now = 2 * KEEP_S
    bench.versions.look()

    assert bench.served == [NEW]
