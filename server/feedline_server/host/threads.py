"""Threads that a loader cannot do without, and threads that cannot be started for a while.

An exception that nothing answers is logged with its traceback, whichever thread it ends. If that is a thread without
which the loader would only seem to serve, the loader ends with it: what supervises it starts it anew.
"""

import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

log = structlog.get_logger()

_vital: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def vital(thread: threading.Thread) -> threading.Thread:
    """The thread, which the process cannot do without."""
    _vital.add(thread)
    return thread


def watch(failed: Callable[[str], None]) -> None:
    """From now on `failed` is called, on any thread, with why one of the vital threads ended."""

    def ended(args: threading.ExceptHookArgs) -> None:
        is_vital = args.thread in _vital
        name = args.thread.name if args.thread is not None else "?"
        text = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
        log.error("a thread ended on an unexpected error", thread=name, is_vital=is_vital, traceback=text)
        if is_vital:
            failed(f"the thread {name} ended: {args.exc_type.__name__}: {args.exc_value}")

    threading.excepthook = ended


class Threads(ThreadPoolExecutor):
    """As its base, except that a thread that cannot be started is no error: what it was for waits for another one.

    gRPC's own thread, which takes all calls in, would end over the error.
    """

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            log.warning("no thread for a call, which waits for one", reason=str(error), threads=len(self._threads))
