"""Structured logs on standard error: for people on a terminal, one JSON object a line for machines.

A line that cannot be written is lost, and nothing else is: a disk that is full, or a reader of the log that has ended,
is no reason to stop serving.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, Literal

STANDARD_ERROR = 2
"""The descriptor."""

LogFormat = Literal["auto", "text", "json"]


class Log:
    """The log of modules that workers load: structlog is loaded with the first line, and takes as long as numpy."""

    def __init__(self) -> None:
        self._later: tuple[LogFormat, str] | None = None

    def configure_later(self, log_format: LogFormat, level: str) -> None:
        """Have the first line call `configure_logs`."""
        self._later = log_format, level

    def __getattr__(self, level: str) -> Any:  # noqa: ANN401 - structlog's function for the level
        import structlog

        if self._later is not None:
            configure_logs(*self._later)
            self._later = None
        return getattr(structlog.get_logger(), level)


log = Log()


def is_text(log_format: LogFormat) -> bool:
    """Whether the log is for people."""
    return log_format == "text" or (log_format == "auto" and sys.stderr.isatty())


def configure_logs(log_format: LogFormat, level: str) -> None:
    """Set how this process logs; `auto` is text on a terminal and JSON elsewhere. Call it before gRPC is imported."""
    import logging

    with _without_rich():
        import structlog

    # gRPC would write a line of its own form for each handshake that fails, and everybody can make handshakes fail.
    # What matters of it is an error of ours too; GRPC_VERBOSITY=ERROR in the environment brings its lines back.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Nothing forks under gRPC, but Python's subprocess tries fork where vfork fails because processes are short; gRPC
    # would stop all of its threads for that, and wait for some that cannot be started.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    text = is_text(log_format)
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if text
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(_Lossy()),  # type: ignore[arg-type]  # the two methods are used
    )


@contextlib.contextmanager
def _without_rich() -> Iterator[None]:
    """Until this ends, rich cannot be imported.

    Keras brings it, and structlog takes twice as long to load with it, for the colours of a traceback. Only for a
    process that runs nobody's code: workers have loaded structlog before (`Log`).
    """
    if "rich" in sys.modules or "structlog" in sys.modules:
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        del sys.modules["rich"]


class _Lossy:
    """Standard error, for whole lines.

    Not `sys.stderr` itself: that keeps what could not be written, raises again at the next line, and makes the exit
    code 120.
    """

    def write(self, text: str) -> int:
        """Write it, or do not."""
        line = text.encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            while line:
                line = line[os.write(STANDARD_ERROR, line) :]
        return len(text)

    def flush(self) -> None:
        """Nothing is kept."""
