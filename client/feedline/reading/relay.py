"""A feed's batches for a process that was forked from one with a connection: fetched by a process of its own.

gRPC does not survive a fork: in a child of a process that uses it, it hangs or ends the child (a failed check in its
poller, some runs in a hundred). So the child starts an interpreter anew, which connects and passes batches on through a
pipe. That costs its start, some 0.5 s, and two copies of each batch. It ends with the process that started it.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline.reading.plan import Step
from feedline.reading.readahead import ReadAhead
from feedline.reading.state import State
from feedline_wire.errors import Closed, FeedlineError


class Relay:
    """A copy of a feed in a process of its own. One thread."""

    def __init__(self, feed: Feed) -> None:
        script = f"import sys; sys.path[:] = {sys.path!r}; from feedline.reading.relay import serve; serve()"
        self._process = subprocess.Popen(  # noqa: S603  # this interpreter
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._begun = 0
        self._ask("open", pickle.dumps(feed))

    def fetch(self, step: Step) -> Batch:
        """See `Feed.fetch`."""
        batch = self._ask("fetch", step)
        assert batch is not None
        return batch

    def readahead(self, steps: Iterable[Step], place: State) -> "RelayedReadAhead":
        """See `Feed.readahead`, of a feed at this place. The steps are pickled. Ends what was read ahead before."""
        self._begun += 1
        self._ask("readahead", (place, steps))
        return RelayedReadAhead(self, self._begun)

    def take(self, number: int) -> Batch | None:
        """The next batch of what was begun as number `number`."""
        if number != self._begun:
            raise Closed("this iteration was closed; begin another with iter()")
        return self._ask("take", None)

    def _ask(self, *request: object) -> Batch | None:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            pickle.dump(request, requests, pickle.HIGHEST_PROTOCOL)
            requests.flush()
            answer = pickle.load(answers)  # noqa: S301  # from our own child, through a pipe of its own
        except (EOFError, BrokenPipeError):
            raise Closed(f"the process that fetches batches ended with code {self._process.wait()}") from None
        if isinstance(answer, FeedlineError):
            raise answer
        assert answer is None or isinstance(answer, Batch)
        return answer


@dataclass(frozen=True, slots=True)
class RelayedReadAhead:
    """A `ReadAhead` in another process."""

    relay: Relay
    number: int

    def take(self) -> Batch | None:
        """The next batch; None at the end."""
        return self.relay.take(self.number)

    def close(self) -> None:
        """Nothing: the next that is begun there ends this one."""


def serve() -> None:
    """What the process does: it answers what comes through standard input, until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that it ends with
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed is no answer
    requests: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    threading.Thread(target=_receive, args=(requests,), name="feedline-relay", daemon=True).start()
    feed: Feed | None = None
    ahead: ReadAhead | None = None
    while True:
        kind, wanted = requests.get()
        answer: Batch | FeedlineError | None = None
        try:
            if kind == "open":
                feed = pickle.loads(wanted)  # noqa: S301  # of the parent
            assert feed is not None
            if kind == "fetch":
                answer = feed.fetch(wanted)
            elif kind == "readahead":
                if ahead is not None:
                    ahead.close()
                feed.load_state_dict(wanted[0])
                ahead = feed.readahead(wanted[1])
            elif ahead is not None:
                answer = ahead.take()
        except FeedlineError as error:
            answer = error
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _receive(requests: "SimpleQueue[tuple[str, Any]]") -> None:
    """Requests, read while one is answered: their end is the end of the process that asks."""
    with contextlib.suppress(EOFError):
        while True:
            requests.put(pickle.load(sys.stdin.buffer))  # noqa: S301  # of the parent
    os._exit(0)
