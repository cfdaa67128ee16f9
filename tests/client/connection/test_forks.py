"""What becomes of a client when its process forks, ends, or is interrupted."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from feedline.testing import FakeLoader, serve

WITHIN_S = 60.0
"""Starting an interpreter takes a second or two on a busy machine; what would hang would hang for 600 (timeout_s)."""

Trainer = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve({"y": np.arange(100)}) as loader:
        yield loader


@pytest.fixture
def trainer(loader: FakeLoader) -> Iterator[Trainer]:
    """A process that runs a script, in which `connection` is connected to the loader."""
    started = []

    def start(script: str) -> "subprocess.Popen[str]":
        opening = f"import os, sys, feedline\nconnection = feedline.connect({loader.address!r}, timeout_s=30)\n"
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", opening + textwrap.dedent(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_forked_child_is_told_to_connect_itself_and_the_parent_goes_on(trainer: Trainer) -> None:
    """A child that used what its parent had buffered would train on the parent's batches."""
    process = trainer(
        """
        feed = connection.feed(batch_size=10, timeout_s=600)
        epoch = iter(feed)
        print(len(next(epoch).ids), flush=True)
        child = os.fork()
        if not child:
            for use in (lambda: next(epoch), lambda: next(iter(feed)), connection.feed, connection.status):
                try:
                    print("child got", use())
                except feedline.Closed as error:
                    print("child:", error)
            feed.close()
            connection.close()
            sys.exit(7)
        print("exit code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        print(len(list(epoch)))
        """
    )

    output, _ = process.communicate(timeout=WITHIN_S)

    told = (
        "child: this connection to the loader was opened before the process forked, and belongs to the parent; "
        "start processes with spawn, and each that is given the feed connects anew; in a PyTorch DataLoader use "
        "feedline.torch.IterableBatches(feed), whose workers may be forked"
    )
    assert output.splitlines() == ["10", told, told, told, told, "exit code 7", "9"]


def test_a_process_ends_although_nobody_closed_anything(trainer: Trainer, loader: FakeLoader) -> None:
    process = trainer(
        """
        epoch = connection.epoch(batch_size=10, timeout_s=600)
        next(epoch)
        print("done")
        """
    )

    output, _ = process.communicate(timeout=WITHIN_S)

    assert (output, process.returncode) == ("done\n", 0)
    loader.wait_until(lambda seen: seen.streams == 0)


def test_a_process_ends_although_a_thread_of_it_waits_for_a_batch(trainer: Trainer, loader: FakeLoader) -> None:
    process = trainer(
        """
        import threading
        next(connection.epoch(batch_size=10, prefetch=1))
        print("ready", flush=True)
        sys.stdin.readline()
        waiting = threading.Thread(target=lambda: next(connection.epoch(1, timeout_s=600)), daemon=True)
        waiting.start()
        waiting.join(0.2)
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    loader.stall()

    process.communicate("go\n", timeout=WITHIN_S)

    assert process.returncode == 0


def test_ctrl_c_leaves_a_wait(trainer: Trainer, loader: FakeLoader) -> None:
    process = trainer(
        """
        next(connection.epoch(batch_size=10, prefetch=1))
        print("ready", flush=True)
        os.read(0, 1)
        print("waiting", flush=True)
        try:
            next(connection.epoch(1, batch_size=10, timeout_s=600))
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    loader.stall()
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "waiting\n"
    loader.wait_until(lambda seen: any(key.epoch == 1 for key in seen.requests))

    process.send_signal(signal.SIGINT)

    output, _ = process.communicate(timeout=WITHIN_S)
    assert (output, process.returncode) == ("interrupted\n", 0)


def test_a_feed_is_taken_along_by_a_spawned_worker(trainer: Trainer) -> None:
    process = trainer(
        """
        import pickle, subprocess
        feed = connection.feed(batch_size=10, seed=3)
        epoch = iter(feed)
        next(epoch)
        worker = "import pickle, sys; feed = pickle.load(sys.stdin.buffer); print(len(list(feed)), feed)"
        print(subprocess.run([sys.executable, "-c", worker], input=pickle.dumps(feed), stdout=-1).stdout.decode())
        """
    )

    output, _ = process.communicate(timeout=WITHIN_S)

    assert output.strip() == "9 <Feed fake/train epoch=1 next=0 buffered=0/16 replicas=1>"


def test_importing_feedline_imports_no_framework() -> None:
    script = (
        "import sys, feedline; "
        "print(sorted({'keras', 'tensorflow', 'torch', 'jax', 'pydantic', 'feedline_server'} & set(sys.modules)))"
    )

    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


@pytest.mark.keras
def test_everything_public_can_be_named() -> None:
    script = (
        "import feedline; "
        "print([name for name in feedline.__all__ if name != 'RemoteSequence' and not getattr(feedline, name)])"
    )

    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
