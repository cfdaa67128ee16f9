"""Structured logs on standard error: for people on a terminal, one JSON object a line for machines.

The law: a line that cannot be written is lost, and nothing else is. A disk that is full, or a reader of the log that
has ended, is no reason to stop serving.
"""

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import structlog

STANDARD_ERROR = 2
"""The descriptor."""

LogFormat = Literal["auto", "text", "json"]


class Log:
    """A log that loads structlog with its first line: that takes as long as loading numpy, and a worker says little."""

    def __init__(self) -> None:
        self._later: tuple[LogFormat, str] | None = None

    def configure_later(self, log_format: LogFormat, level: str) -> None:
        """Have the first line configure the logs of this process, as `configure_logs` would now."""
        self._later = log_format, level

    def info(self, event: str, **more: object) -> None:
        """A line of this level; `more` are its fields."""
        self._logger().info(event, **more)

    def warning(self, event: str, **more: object) -> None:
        """A line of this level; `more` are its fields."""
        self._logger().warning(event, **more)

    def _logger(self) -> "structlog.typing.FilteringBoundLogger":
        import structlog

        if self._later is not None:
            configure_logs(*self._later)
            self._later = None
        logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
        return logger


log = Log()
"""Of the modules that workers load."""


def configure_logs(log_format: LogFormat, level: str) -> None:
    """Set how this process logs; `auto` is text on a terminal and JSON elsewhere. Call it before gRPC is imported."""
    import logging

    import structlog

    # Each handshake that fails would be a line of gRPC's own form among ours, and anybody can make handshakes fail.
    # What matters of it is an error of ours too; GRPC_VERBOSITY=ERROR in the environment brings its own words back.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
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


class _Lossy:
    """Standard error, for whoever writes whole lines.

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
