"""Which addresses a name has now, asked again and again while the fleet wants to know.

A name service may take seconds to answer, or never; so each name is asked on a thread of its own, which holds no lock
meanwhile and which no reader waits for. A name that cannot be resolved now takes nothing away from what is known.
"""

import importlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable

from feedline.connection.target import Address, Entry, Fleet, Name, Source, entries
from feedline_wire.errors import FeedlineError, InvalidRequest, LoaderUnavailable

EVERY_S = 5.0
"""A loader that was added is used within this. Orchestrators let name servers' answers live about as long, and one
question each five seconds is nothing beside a single batch."""

SOONEST_S = 0.5
"""Between two questions, however many loaders were lost at once: a rolling restart must not hammer a name server."""

ENGINES = {"ray": "feedline.ray"}
"""Which module's `addresses(name)` says where an engine's loaders are. Imported when such a fleet is named."""

log = logging.getLogger("feedline")


def look_up(entry: Entry) -> tuple[Address, ...]:
    """The addresses behind a part of a target now, each once. Blocks. Raises a FeedlineError if there is none."""
    match entry:
        case Address():
            return (entry,)
        case Name(host, port):
            try:
                answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                raise LoaderUnavailable(f"{entry}: the name has no address: {error}") from error
            hosts = [str(answer[4][0]) for answer in answers]
            found = [Address(f"[{at}]:{port}" if ":" in at else f"{at}:{port}", host) for at in hosts]
        case Source(ask):
            found = [address for part in _parts(entry, ask) for address in look_up(part)]
        case Fleet(engine, name):
            at: list[str] = importlib.import_module(ENGINES[engine]).addresses(name)
            found = [address for part in entries(at) for address in look_up(part)]
    return tuple(dict.fromkeys(found))


def _parts(source: Source, ask: Callable[[], Iterable[str]]) -> tuple[Entry, ...]:
    try:
        target = ask()
        return entries(target if isinstance(target, str) else list(target))
    except InvalidRequest:
        raise
    except Exception as error:  # it is the user's function: whatever it raises is why there are no addresses
        raise LoaderUnavailable(f"{source} failed to say where the loaders are: {error!r}") from error


class Watch:
    """Keeps asking for the addresses behind one entry, from `start` to `begin_close`."""

    def __init__(
        self,
        entry: Entry,
        *,
        found: Callable[[Entry, tuple[Address, ...]], None],
        failed: Callable[[Entry, FeedlineError], None],
    ) -> None:
        self.entry = entry
        self._found = found
        self._failed = failed
        self._closing = threading.Event()
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"feedline names {entry}", daemon=True)

    def __repr__(self) -> str:
        return f"<Watch {self.entry}{' closed' if self._closing.is_set() else ''}>"

    def start(self) -> None:
        """Ask for the first time, and then every few seconds."""
        self._thread.start()

    def ask_now(self) -> None:
        """Do not wait for the next time: something changed. Does not wait."""
        self._asked.set()

    def begin_close(self) -> None:
        """Tell the thread to end; does not wait."""
        self._closing.set()
        self._asked.set()

    def finish_close(self, timeout_s: float) -> None:
        """Wait for the thread to end; one that waits for a name server is left behind and ends with that."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                addresses = look_up(self.entry)
            except FeedlineError as error:
                log.debug("cannot say where the loaders are: %s", error)
                self._failed(self.entry, error)
            else:
                self._found(self.entry, addresses)
            self._closing.wait(SOONEST_S)
            self._asked.wait(EVERY_S - SOONEST_S)
            self._asked.clear()
