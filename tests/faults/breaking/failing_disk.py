"""A disk that fails when it is told to: a read is EIO, and a page of a mapped file that cannot be read is SIGBUS.

A file system in user space (FUSE), spoken to without a library: a folder of files that are read only. As root, where
the kernel has it; else `why_not` says so.
"""

import contextlib
import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

DEVICE = Path("/dev/fuse")

MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, INIT, OPENDIR, READDIR, RELEASEDIR = 1, 2, 3, 14, 15, 18, 26, 27, 28, 29
BATCH_FORGET, INTERRUPT = 42, 36
"""Operations, by their numbers in linux/fuse.h."""

INVALIDATE = 2
"""A notice to the kernel: what it has of a file is not to be used again, mapped or not."""

IN_HEADER, OUT_HEADER, ATTRIBUTES = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ"), struct.Struct("<6Q10I")

ROOT = 1

MOST_NBYTES = 1 << 20
"""Of a request, and so of what is read at once."""


def why_not() -> str | None:
    """Why there can be none here; None if there can."""
    if os.geteuid() != 0 or not os.access(DEVICE, os.R_OK | os.W_OK):
        return "a disk that fails is a file system of our own, which needs root and /dev/fuse"
    return None


class FailingDisk:
    """Serves files in a folder, on a thread of its own. Reads fail while `fails` is set."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.fails = threading.Event()
        self.failures = 0
        self._names = dict(enumerate(files, ROOT + 1))
        self._files = dict(files)
        self._fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @contextlib.contextmanager
    def mounted(self, folder: Path) -> Iterator[None]:
        """While it lasts, the files are in this folder."""
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"failing", os.fsencode(folder), b"fuse", MS_NOSUID | MS_NODEV, options):
            raise OSError(ctypes.get_errno(), "cannot mount")
        try:
            self._thread.start()
            yield
        finally:
            libc.umount2(os.fsencode(folder), MNT_DETACH)
            self._thread.join(60)
            os.close(self._fd)

    def fail(self) -> None:
        """From now on nothing can be read, what was read before neither."""
        self.fails.set()
        self._forget_pages()

    def be_well(self) -> None:
        """From now on everything can be read again."""
        self.fails.clear()
        self._forget_pages()

    def _forget_pages(self) -> None:
        for node in self._names:
            body = struct.pack("<Qqq", node, 0, 0)  # all of it
            with contextlib.suppress(FileNotFoundError):  # the kernel has nothing of it
                os.write(self._fd, OUT_HEADER.pack(OUT_HEADER.size + len(body), INVALIDATE, 0) + body)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, MOST_NBYTES + 4096)
            except OSError as error:
                if error.errno in {errno.EINTR, errno.ENOENT, errno.EAGAIN}:  # it was interrupted
                    continue
                return  # ENODEV: it was unmounted
            _, operation, unique, node, *_ = IN_HEADER.unpack_from(request)
            if operation in {FORGET, BATCH_FORGET, INTERRUPT}:
                continue
            code, body = self._answer(operation, node, request[IN_HEADER.size :])
            with contextlib.suppress(FileNotFoundError):  # whoever asked has ended
                os.write(self._fd, OUT_HEADER.pack(OUT_HEADER.size + len(body), -code, unique) + body)

    def _answer(self, operation: int, node: int, body: bytes) -> tuple[int, bytes]:
        """The error, or 0, and what is answered."""
        if operation == INIT:
            return 0, struct.pack("<IIII HH II HH I 7I", 7, 31, 0, 0, 1, 1, MOST_NBYTES, 1, 0, 0, 0, *[0] * 7)
        if operation == LOOKUP:
            name = body.rstrip(b"\0").decode()
            found = next((number for number, known in self._names.items() if known == name), None)
            if found is None:
                return errno.ENOENT, b""
            return 0, struct.pack("<QQQQII", found, 0, 3600, 3600, 0, 0) + self._attributes(found)
        if operation == GETATTR:
            return 0, struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if operation in {OPEN, OPENDIR}:
            return 0, struct.pack("<QII", 0, 2, 0)  # pages of an earlier opening may be used
        if operation in {RELEASE, RELEASEDIR}:
            return 0, b""
        if operation in {READ, READDIR}:
            _, offset, size = struct.unpack_from("<QQI", body)
            return self._read(node, offset, size) if operation == READ else (0, self._entries(offset))
        return errno.ENOSYS, b""

    def _read(self, node: int, offset: int, size: int) -> tuple[int, bytes]:
        if self.fails.is_set():
            self.failures += 1
            return errno.EIO, b""
        return 0, self._files[self._names[node]][offset : offset + size]

    def _entries(self, offset: int) -> bytes:
        found = b""
        for place, (number, name) in enumerate([*self._names.items()][offset:], offset + 1):
            raw = name.encode()
            entry = struct.pack("<QQII", number, place, len(raw), stat.S_IFREG >> 12) + raw
            found += entry + b"\0" * (-len(entry) % 8)
        return found

    def _attributes(self, node: int) -> bytes:
        is_folder = node == ROOT
        size = 0 if is_folder else len(self._files[self._names[node]])
        mode = stat.S_IFDIR | 0o755 if is_folder else stat.S_IFREG | 0o644
        return ATTRIBUTES.pack(node, size, size // 512, *[1] * 3, *[0] * 3, mode, 1, 0, 0, 0, 4096, 0)
