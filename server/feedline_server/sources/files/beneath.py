"""Opening files below a folder, whatever is put there meanwhile.

The folder is held open, so a sample is read from the folder that the loader opened also when another one has its name
by now. Unless links may lead out of it, the kernel refuses those that do, at every open.
"""

import ctypes
import errno
import os
import weakref
from functools import cached_property

OPENAT2 = 437
"""openat2(2), on every architecture; Linux 5.6."""

RESOLVE_BENEATH = 0x08

FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would wait

FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW = _How(FLAGS, 0, RESOLVE_BENEATH)
_libc = ctypes.CDLL(None, use_errno=True)


class Folder:
    """A folder, held open from the first file on."""

    def __init__(self, path: str, *, follow_links: bool) -> None:
        self.path = path
        self._follow_links = follow_links
        self._opens = _openat2

    @cached_property
    def fd(self) -> int:
        """Its descriptor. Raises OSError."""
        fd = os.open(self.path, FOLDER)
        weakref.finalize(self, os.close, fd)
        return fd

    def open(self, name: str) -> int:
        """A file in it or below, for reading. Raises OSError, with EXDEV where a link leads out of the folder."""
        if self._follow_links:
            return os.open(name, FLAGS, dir_fd=self.fd)
        try:
            return self._opened(name)
        except OSError as error:
            # A link that is absolute, or any link where it is gone a component at a time. It may lead to inside.
            if error.errno not in {errno.EXDEV, errno.ELOOP, errno.ENOTDIR}:
                raise
            base, real = os.path.realpath(self.path), os.path.realpath(f"{self.path}/{name}")
            if not real.startswith(f"{base}/"):
                raise OSError(errno.EXDEV, f"is a link out of {self.path}, to {real}") from error
            return self._opened(real[len(base) + 1 :])

    def _opened(self, name: str) -> int:
        try:
            return self._opens(self.fd, name)
        except OSError as error:
            # Before Linux 5.6, or forbidden to this process by what contains it.
            if self._opens is not _openat2 or error.errno not in {errno.ENOSYS, errno.EPERM}:
                raise
            self._opens = by_components
            return by_components(self.fd, name)


def _openat2(folder: int, name: str) -> int:
    fd: int = _libc.syscall(OPENAT2, folder, os.fsencode(name), ctypes.byref(_HOW), ctypes.sizeof(_HOW))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return fd


def by_components(folder: int, name: str) -> int:
    """The file of this name below an open folder, a component at a time, none of them a link. Raises OSError."""
    *parents, last = name.split("/")
    fd = folder
    try:
        for parent in parents:
            above, fd = fd, os.open(parent, FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            if above != folder:
                os.close(above)
        return os.open(last, FLAGS | os.O_NOFOLLOW, dir_fd=fd)
    finally:
        if fd != folder:
            os.close(fd)
