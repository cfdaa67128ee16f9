"""What libraries print on stderr while one call is made.

libjpeg and libpng print there what is wrong with an image, and OpenCV decodes it nevertheless. Printed, it names no
sample and fills the log with what is harmless; taken down, it can be told from what is not.
"""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

STDERR = 2

_one_at_a_time = threading.Lock()
_notes: list[int] = []  # the descriptor of what is written down, once it is made


def captured(call: Callable[[], Result]) -> tuple[Result, str]:
    """What the call returns, and what was printed meanwhile. Costs some ten microseconds."""
    with _one_at_a_time:  # stderr is the whole process'
        if not _notes:
            _notes.append(os.memfd_create("feedline-stderr", os.MFD_CLOEXEC))
        notes = _notes[0]
        try:
            stderr = os.dup(STDERR)
        except OSError:  # there is none: nothing can be printed
            return call(), ""
        try:
            os.dup2(notes, STDERR)
            result = call()
        finally:
            os.dup2(stderr, STDERR)
            os.close(stderr)
            text = _taken(notes)
        return result, text


def _taken(notes: int) -> str:
    """What was written down, which is then forgotten."""
    nbytes = os.lseek(notes, 0, os.SEEK_CUR)
    if not nbytes:
        return ""
    text = os.pread(notes, nbytes, 0)
    os.lseek(notes, 0, os.SEEK_SET)
    os.ftruncate(notes, 0)
    return text.decode(errors="replace").strip()
