"""What a start ends with that cannot succeed next time either: wrong settings, data or arguments, a missing package.

Some engines restart what ends with any code but 0 (`on-failure` of Docker), others have a code for what is not to be
restarted (`RestartPreventExitStatus` of systemd). FEEDLINE_PERMANENT_EXIT_CODE says which it is here. What may pass by
itself, such as a port that is in use, ends with 1 as ever.
"""

import errno
import os
import sys

from feedline_wire.errors import DataError, FeedlineError, InvalidRequest
from feedline_wire.extras import ExtraMissing

VARIABLE = "FEEDLINE_PERMANENT_EXIT_CODE"

CANNOT_BEGIN = 78
"""What one of several loaders ends with towards the command that started it: EX_CONFIG of sysexits.h."""


PASSING = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTCONN}
    | {errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}
)
"""What a file system or a machine says that may be well again in a minute."""


def is_permanent(error: FeedlineError) -> bool:
    """Only a change of settings, data or the environment helps, not another start."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in PASSING:
            return False
        cause = cause.__cause__
    return isinstance(error, InvalidRequest | DataError | ExtraMissing)


def exit_code(otherwise: int) -> int:
    """What a start that cannot succeed ends with: what the operator has chosen, which is said, or `otherwise`."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit() and int(text) <= 255):  # more than a process can end with
        _say(f"environment: {VARIABLE}: found {text!r}; wanted an exit code, 0..255")
        return otherwise
    _say(f"another start would end the same way; exit code {text} ({VARIABLE}): change it, then start it again")
    return int(text)


def _say(words: str) -> None:
    print(f"feedline serve: {words}", file=sys.stderr, flush=True)  # noqa: T201 - the end of a command line program
