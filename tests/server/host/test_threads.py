"""Threads that end by mistake are heard of, threads that cannot be started are waited for."""

import threading
from collections.abc import Iterator

import pytest

from feedline_server.host import threads


@pytest.fixture
def failures() -> Iterator[list[str]]:
    before, found = threading.excepthook, []
    threads.watch(found.append)
    yield found
    threading.excepthook = before


def stumble() -> None:
    raise KeyError("a fault of ours")


def run(thread: threading.Thread) -> None:
    thread.start()
    thread.join(30)


def test_the_end_of_a_vital_thread_is_a_failure_and_its_traceback_is_logged(
    failures: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    run(threads.vital(threading.Thread(target=stumble, name="feedline-vital")))

    assert failures == ["the thread feedline-vital ended: KeyError: 'a fault of ours'"]
    said = "".join(capfd.readouterr())  # the log is where the last test of this process had it
    assert "test_threads.py" in said
    assert "in stumble" in said


def test_the_end_of_another_thread_is_logged_only(failures: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    run(threading.Thread(target=stumble, name="feedline-other"))

    assert failures == []
    assert "in stumble" in "".join(capfd.readouterr())


def test_what_no_thread_could_be_started_for_is_done_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """ThreadPoolExecutor raised, which ended gRPC's own thread: no call was taken in any more."""
    with threads.Threads(4) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("no more threads")))
            first = pool.submit(lambda: 1)
        second = pool.submit(lambda: 2)

        assert (first.result(30), second.result(30)) == (1, 2)
