"""What `auto` chooses is a table: what the machine has, what was said, and how many loaders and workers that is."""

from pathlib import Path

import pytest

from feedline_server.host.machine import Resources, resources
from feedline_server.running.sizing import Sizing, described, shares, size, sized
from feedline_server.settings.settings import AUTO, InvalidSettings, load_settings

GIB = 1 << 30


def cores(*counts: int) -> tuple[tuple[int, ...], ...]:
    """Nodes with so many cores."""
    firsts = [sum(counts[:at]) for at in range(len(counts))]
    return tuple(tuple(range(first, first + count)) for first, count in zip(firsts, counts, strict=True))


@pytest.mark.parametrize(
    ("nodes", "quota", "memory_gib", "replicas", "workers", "pins"),
    [
        pytest.param((2,), None, 16, 1, 2, 0, id="a small machine: both cores are workers'"),
        pytest.param((16,), None, 64, 1, 15, 0, id="one of 16 is the front's"),
        pytest.param((64,), None, 256, 2, 62, 0, id="64 cores are more than one front process sends for"),
        pytest.param((64, 64), None, 1024, 4, 124, 4, id="128 cores, two nodes: two loaders for each"),
        pytest.param((24, 24), None, 256, 2, 46, 2, id="two nodes: a loader for each"),
        pytest.param((8, 8, 8, 8), None, 256, 4, 28, 4, id="four nodes"),
        pytest.param((64, 64), 6.5, 1024, 1, 6, 0, id="a quota of 6.5 cores on 128: no node is ours"),
        pytest.param((64, 64), 16.0, 1024, 1, 15, 0, id="a quota of 16"),
        pytest.param((2,), 0.5, 16, 1, 1, 0, id="half a core"),
        pytest.param((16,), 32.0, 64, 1, 15, 0, id="a quota of more than there is"),
        pytest.param((6, 2), None, 64, 1, 7, 0, id="a cpuset that has little of a node"),
        pytest.param((60, 68), None, 1024, 4, 124, 4, id="nodes that differ"),
        pytest.param((64,), None, 4, 1, 24, 0, id="4 GiB are memory for 24 workers"),
    ],
)
def test_what_is_chosen(
    nodes: tuple[int, ...], quota: float | None, memory_gib: int, replicas: int, workers: int, pins: int
) -> None:
    machine = Resources(cores(*nodes), quota, memory_gib * GIB)

    found = size(machine, workers=AUTO, replicas=AUTO, memory=GIB)

    if memory_gib == 4:
        replicas = 2
    assert (found.replicas, found.workers, len(found.cores)) == (replicas, workers, pins)
    assert sum(shares(found)) == workers
    assert min(shares(found)) >= 1
    assert set().union(*found.cores) in (set(), set(range(sum(nodes))))


@pytest.mark.parametrize(
    ("said", "replicas", "workers"),
    [
        ({"replicas": AUTO, "workers": 12}, 4, 12),
        ({"replicas": AUTO, "workers": 3}, 3, 3),
        ({"replicas": 1, "workers": AUTO}, 1, 127),
        ({"replicas": 8, "workers": AUTO}, 8, 120),
    ],
)
def test_what_was_said_stays(said: dict[str, int], replicas: int, workers: int) -> None:
    found = size(Resources(cores(64, 64), None, 1024 * GIB), memory=GIB, **said)

    assert (found.replicas, found.workers) == (replicas, workers)


def test_as_many_loaders_as_there_is_memory_for_batches() -> None:
    found = size(Resources(cores(64, 64), None, 1024 * GIB), workers=AUTO, replicas=AUTO, memory=3 << 20)

    assert (found.replicas, found.cores) == (3, ())


def test_workers_follow_the_cores_of_their_node() -> None:
    found = size(Resources(cores(40, 24), None, 512 * GIB), workers=AUTO, replicas=AUTO, memory=GIB)

    assert found.cores == (tuple(range(40)), tuple(range(40, 64)))
    assert shares(found) == [39, 23]


def test_it_is_said_what_was_chosen_and_why() -> None:
    two_nodes = size(Resources(cores(64, 64), None, 1024 * GIB), workers=AUTO, replicas=AUTO, memory=GIB)
    limited = size(Resources(cores(64, 64), 6.5, 1024 * GIB), workers=AUTO, replicas=AUTO, memory=GIB)
    tight = size(Resources(cores(64), None, 4 * GIB), workers=AUTO, replicas=1, memory=GIB)

    assert described(two_nodes) == [
        "replicas = 4: 2 NUMA nodes, of which each loader keeps to one, and more than 48 cores in a node",
        "workers = 124: 128 cores, less one for each of 4 front processes",
        "loader 0 keeps to cores 0-63",
        "loader 1 keeps to cores 0-63",
        "loader 2 keeps to cores 64-127",
        "loader 3 keeps to cores 64-127",
    ]
    assert described(limited) == [
        "replicas = 1: 6.5 cores of CPU time, too little of each NUMA node for a loader of its own",
        "workers = 6: 6.5 cores of CPU time",
    ]
    assert described(tight) == ["workers = 24: 4 GiB of memory, less `memory`, at 128 MiB each"]


def test_numbers_that_were_said_are_not_looked_into(columns_folder: Path) -> None:
    settings = load_settings(columns_folder, {"workers": 3, "replicas": 2})

    assert sized(settings) == (settings, Sizing(2, 3))


@pytest.mark.parametrize("words", [{"workers": "auto"}, {"replicas": "AUTO"}, {"workers": "auto", "replicas": "auto"}])
def test_auto_becomes_numbers_before_anything_is_done_with_it(columns_folder: Path, words: dict[str, str]) -> None:
    settings, sizing = sized(load_settings(columns_folder, words))

    assert (settings.workers, settings.replicas) == (sizing.workers, sizing.replicas)
    assert min(settings.workers, settings.replicas) >= 1
    assert len(sizing.reasons) == len(words)


@pytest.mark.parametrize("wrong", [0, "0", -1, "many", True, 1.5])
def test_what_is_no_number_is_refused_with_what_may_be_said(columns_folder: Path, wrong: object) -> None:
    with pytest.raises(
        InvalidSettings, match=r"command line: replicas: found .*; wanted a whole number of 1 or more, or auto"
    ):
        load_settings(columns_folder, {"replicas": wrong})


def test_nodes_are_those_of_the_cores_that_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, listed in {"node0": "0-3,8-11", "node1": "4-7,12-15", "node2": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(f"{listed}\n")
    nothing = tmp_path / "nothing"

    def seen(*allowed: int) -> tuple[tuple[int, ...], ...]:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(allowed))
        return resources(nothing, nothing, tmp_path).nodes

    assert seen(*range(16)) == ((0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15))
    assert seen(2, 3, 4) == ((2, 3), (4,))
    assert seen(0, 1) == ((0, 1),)
    assert seen(0, 99) == ((0, 99),)  # a core of which the machine tells no node
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert resources(nothing, nothing, nothing).nodes == ((0, 1),)
