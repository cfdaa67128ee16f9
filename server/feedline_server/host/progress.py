"""What an opening of data is at: said every ten seconds, and the end of one that does not get on.

What opens notes what it does; that costs less than a microsecond.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from feedline_server.host.logs import log

SAY_S = 10.0
"""How often a long opening is logged: most take less."""


class Progress:
    """What this process is doing. *Thread-safe.*"""

    def __init__(self) -> None:
        self.doing = ""
        self.since = time.monotonic()

    def note(self, doing: str) -> None:
        """It is doing this now."""
        self.doing, self.since = doing, time.monotonic()


OPENING = Progress()
"""Of this process."""


@contextmanager
def watched(dataset: str, limit_s: float, expired: Callable[[str], None], say_s: float = SAY_S) -> Iterator[None]:
    """While a dataset is opened, log what that is at. Once nothing was noted for `limit_s`, call `expired` with it."""
    done = threading.Event()
    started = time.monotonic()

    def watch() -> None:
        while True:
            left_s = OPENING.since + limit_s - time.monotonic()
            if done.wait(min(say_s, max(left_s, 0))):
                return
            if time.monotonic() >= OPENING.since + limit_s:
                expired(OPENING.doing)
                return
            if time.monotonic() - started >= say_s:
                log.info("opening", dataset=dataset, at=OPENING.doing, for_s=round(time.monotonic() - started))

    OPENING.note("its folder")
    watcher = threading.Thread(target=watch, name="feedline-opening", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
