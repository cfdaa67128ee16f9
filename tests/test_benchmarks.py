"""The benchmark suite runs, decides rightly, and the documents show what it found.

Its numbers are not tested: machines that run tests are busy.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_the_suite_runs_and_merges_its_rows_into_what_an_earlier_run_found(tmp_path: Path) -> None:
    earlier = {
        "machine": {},
        "rows": {"12": {"lines": [], "date": "2026-01-01 00:00", "seconds": 1, "pairs": 5, "load": [0.5]}},
    }
    (tmp_path / "results.json").write_text(json.dumps(earlier))

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.suite", "--quick", "--rows", "4", "--out", str(tmp_path)],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=110,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert set(rows) == {"4", "12"}
    assert rows["12"]["date"] == "2026-01-01 00:00"
    by_lane = {line["what"].split()[0]: line for line in rows["4"]["lines"]}
    assert set(by_lane) == {"grpc", "tcp", "shm"}
    assert by_lane["tcp"]["ours"]["value"] > 0
    assert by_lane["tcp"]["ratio"]["median"] == pytest.approx(
        by_lane["tcp"]["ours"]["value"] / by_lane["tcp"]["peer"]["value"]
    )
    assert "tcp lane, 4 KiB rows, 4 MiB batches" in done.stdout


def test_the_documents_show_the_published_results_and_nothing_else() -> None:
    from benchmarks import report

    for document, text in report.documents().items():
        assert document.read_text() == text, f"{document} differs; python -m benchmarks.report writes it"


def test_every_line_that_the_readme_shows_was_measured() -> None:
    from benchmarks import report
    from benchmarks.results import Results

    published = Results.read(ROOT / "docs/benchmarks/results.json")

    assert set(report.HIGHLIGHTS) <= {(line.row, line.what) for line in published.lines if line.ratio is not None}


def test_rows_that_are_published_leave_the_others_as_they_were_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new checkout holds no earlier run: publishing one row there took the other thirteen out of the documents."""
    from benchmarks import report
    from benchmarks.lines import Line
    from benchmarks.results import Results, machine

    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "PUBLISHED", tmp_path / "docs/benchmarks")
    for document in ("README.md", "docs/benchmarks.md"):
        (tmp_path / document).parent.mkdir(exist_ok=True)
        (tmp_path / document).write_text(f"before\n{report.BEGIN}\n{report.END}\nafter\n")
    monkeypatch.setattr("benchmarks.results.machine", lambda: machine() | {"kernel": "6.1"})
    once, again = Results(machine()), Results(machine())
    once.put([4, 7], [Line(4, "once", "GB/s"), Line(7, "once", "GB/s")], seconds=1, pairs=5)
    monkeypatch.setattr("benchmarks.results.machine", lambda: machine() | {"kernel": "6.2"})
    again.put([7, 8], [Line(7, "again", "GB/s"), Line(8, "never said", "GB/s")], seconds=1, pairs=5)

    report.publish(once, [4, 7])
    report.publish(again, [7])

    published = Results.read(tmp_path / "docs/benchmarks/results.json")
    assert [(line.row, line.what) for line in published.lines] == [(4, "once"), (7, "again")]
    shown = (tmp_path / "docs/benchmarks.md").read_text()
    assert "### 4." in shown
    assert "| again |" in shown
    assert "### 8." not in shown
    assert shown.count("on another machine: kernel 6.1") == 1


def test_a_row_that_was_measured_with_other_packages_says_so_and_readme_names_those_of_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import report
    from benchmarks.lines import Line
    from benchmarks.results import Results, machine

    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "PUBLISHED", tmp_path / "docs/benchmarks")
    for document in ("README.md", "docs/benchmarks.md"):
        (tmp_path / document).parent.mkdir(exist_ok=True)
        (tmp_path / document).write_text(f"before\n{report.BEGIN}\n{report.END}\nafter\n")

    def measured(row: int, packages: dict[str, str]) -> Results:
        monkeypatch.setattr("benchmarks.results.machine", lambda: machine() | {"packages": packages})
        results = Results(machine())
        results.put([row], [Line(row, "it", "GB/s")], seconds=1, pairs=5)
        return results

    report.publish(measured(3, {"feedline": "0.1.0", "grain": "0.2.18", "numpy": "2.1.3"}), [3])
    report.publish(measured(18, {"feedline": "0.3.0", "numpy": "2.1.3", "ray": "2.60.0"}), [18])

    shown = (tmp_path / "docs/benchmarks.md").read_text()
    readme = (tmp_path / "README.md").read_text()
    assert "; feedline 0.3.0, numpy 2.1.3, ray 2.60.0." in shown
    assert shown.count("; with feedline 0.1.0, grain 0.2.18.") == 1
    assert "; feedline 0.1.0, grain 0.2.18, numpy 2.1.3." in readme


def test_ratios_are_taken_round_by_round() -> None:
    from benchmarks.pairs import Ratio, ratio

    assert ratio([2.0, 1.0, 6.0], [1.0, 1.0, 2.0]) == Ratio(median=2.0, least=1.0, most=3.0)


def test_the_interval_of_a_median_holds_it_and_is_narrow_where_the_rounds_agree() -> None:
    from benchmarks.pairs import interval

    assert interval([1.0] * 11) == (1.0, 1.0)
    assert interval([0.5, 0.9, 0.95, 0.97, 0.99, 1.0, 1.01, 1.03, 1.05, 1.1, 3.0]) == (0.95, 1.05)


def test_contestants_take_turns() -> None:
    from benchmarks.pairs import rounds

    turns: list[str] = []

    taken = rounds({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 3)

    assert turns == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(each) for name, each in taken.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("sign", "must", "value", "is_met"),
    [(">=", 2.0, 2.0, True), (">=", 2.0, 1.99, False), ("<=", 0.25, 0.25, True), ("<=", 0.25, 0.26, False)],
)
def test_a_bound_is_met_at_its_edge(sign: str, must: float, value: float, is_met: bool) -> None:
    from benchmarks.lines import Bound

    assert Bound(sign, must).is_met_by(value) is is_met  # type: ignore[arg-type]  # a Literal


def test_a_line_comes_back_from_json_as_it_was() -> None:
    from benchmarks.lines import Bound, Line, Side
    from benchmarks.pairs import Ratio

    line = Line(
        4, "tcp lane", "GB/s", Side("feedline", 2.0), Side("raw TCP", 2.5), Ratio(0.8, 0.7, 0.9), Bound(">=", 0.75)
    )
    absent = Line(4, "shm lane", "GB/s", bound=Bound(">=", 1.5), why_not="no shm lane")

    assert Line.from_json(json.loads(json.dumps(line.as_json()))) == line
    assert Line.from_json(json.loads(json.dumps(absent.as_json()))) == absent
    assert line.is_met is True
    assert absent.is_met is None


@pytest.mark.skipif(sys.platform != "linux", reason="splice is Linux'")
def test_a_way_passes_everything_unchanged_and_as_late_as_it_was_told() -> None:
    from benchmarks.way import way

    sent = np.random.default_rng(0).bytes(3_000_001)

    def echo(listener: socket.socket) -> None:
        with listener.accept()[0] as here:
            while data := here.recv(1 << 16):
                here.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = threading.Thread(target=echo, args=(listener,), daemon=True)
        there.start()
        with way(f"127.0.0.1:{listener.getsockname()[1]}", delay_ms=50) as one:
            host, _, port = one.address.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10) as trainer:
                began = time.monotonic()
                sending = threading.Thread(target=trainer.sendall, args=(sent,), daemon=True)
                sending.start()
                first = trainer.recv(1)
                took_s = time.monotonic() - began
                rest = trainer.makefile("rb").read(len(sent) - 1)
                sending.join(10)
                trainer.shutdown(socket.SHUT_WR)
                end = trainer.recv(1)
            passed = one.passed()
        there.join(10)

    assert first + rest == sent
    assert took_s >= 0.1  # there and back
    assert end == b""  # that the other side has ended is passed on too
    assert passed.nbytes == 2 * len(sent)


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux'")
def test_a_thin_line_lets_so_many_bytes_a_second_pass() -> None:
    from benchmarks import loopback
    from benchmarks.consumer import MissingError

    nbytes = 4 << 20

    def receive(listener: socket.socket, got: list[int]) -> None:
        with listener.accept()[0] as here:
            got += [len(here.makefile("rb").read()), time.monotonic_ns()]

    got: list[int] = []
    try:
        with loopback.alone(), socket.create_server(("127.0.0.2", 0)) as listener:
            loopback.thin(20, ["127.0.0.2"])
            there = threading.Thread(target=receive, args=(listener, got), daemon=True)
            there.start()
            began_ns = time.monotonic_ns()
            with socket.create_connection(listener.getsockname(), timeout=10) as sender:
                sender.sendall(bytes(nbytes))
            there.join(10)
    except MissingError as error:
        pytest.skip(str(error))

    received, ended_ns = got
    assert received == nbytes
    assert ended_ns - began_ns >= (nbytes - loopback.BURST_NBYTES) / 20e6 * 1e9


def test_wrong_content_is_found(tmp_path: Path) -> None:
    from benchmarks.content import Content, WrongContentError, write

    folder = write(tmp_path / "rows", rows=40, row_nbytes=64)
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    content = Content.of(folder)
    changed = [x.copy() for _ in range(3)]
    changed[0][5, -1] ^= 1  # a row's end
    changed[1][0, 20] ^= 1  # in the middle of the row that is summed
    changed[2][[3, 4]] = changed[2][[4, 3]]  # a row in another's place, so that its label is another's

    content.check(x, y)
    for damaged in changed:
        with pytest.raises(WrongContentError):
            content.check(damaged, y)


@pytest.mark.parametrize(("fed", "expected"), [(0, 0), (1, 1), (5, 5), (6, 6), (8, 8), (40, 32)])
def test_the_number_of_accelerators_is_the_largest_that_is_fed(fed: int, expected: int) -> None:
    from benchmarks.rows.accelerators import _most

    assert _most(lambda count: count <= fed, 32) == expected


def test_what_two_checkouts_measured_is_compared_line_by_line() -> None:
    from benchmarks.against import table

    def found(value: float, by_peer: float, *more: str) -> dict[tuple[int, str], dict[str, object]]:
        line = {"ours": {"value": value}, "ratio": {"median": by_peer}}
        return dict.fromkeys([(1, "remote"), *((8, what) for what in more)], line)

    lines = list(
        table([found(2.0, 3.0, "new"), found(3.0, 3.0, "new")], [found(2.0, 2.0), found(2.0, 4.0)], "9fa8a45b")
    )

    assert [line.split()[:3] for line in lines[1:]] == [["1", "remote", "1.25"], ["8", "new", "not"]]
    assert lines[1].split()[6] == "1.12"
