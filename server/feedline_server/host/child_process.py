"""Child processes: programs of ours that are run in a process of their own, mostly to run the operator's code.

No child outlives the process that started it, also after a kill -9 of that one. The kernel ends the child together
with the thread that started it (parent-death signal). What the child has started is in its process group, which is
ended when the child is reaped, or else by the guard (`group_guard`).

`multiprocessing.Process` would import the loader's main module again in each child, and its helper process outlives a
kill -9 (docs/design.md).
"""

import contextlib
import ctypes
import errno
import faulthandler
import functools
import io
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Never

from feedline_server.host import group_guard

USER_CODE_ENVIRONMENT = {
    # The pool has one worker a core; libraries that start a thread a core inside each would fight over them.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # Sets of text would be in another order in every process: `list(set(names))` gives classes their numbers.
    "PYTHONHASHSEED": "0",
}
"""The environment of children that run the operator's code, where the loader's own does not say otherwise."""

WORKER = ("-m", "feedline_server.workers.worker")
"""What Python runs as a worker. It is named here because rooms below workers/ have one look at the operator's code."""

REST_S = 5
"""The rest of a message comes at once after its beginning; its child is stopped, or worse, where it takes this long."""

TAKEN_S = 60
"""A child that takes so long to read what it is sent will not; it imports modules first, which is slow on a busy
machine."""

_ENDING = (signal.SIGINT, signal.SIGTERM)

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when the thread that started it ends."""


GRACE_S = 20.0
"""What is to end by itself when its time is over, and cannot even do that, is killed so much later."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended."""

    code: int
    """The exit code; negative for a signal."""
    report: str
    """Where each of its threads was when it crashed; empty if it did not."""

    def __str__(self) -> str:
        if self.code >= 0:
            return f"exit code {self.code}"
        hints = {
            signal.SIGKILL: ": killed, for instance for want of memory",
            signal.SIGBUS: ": a file it had mapped became shorter, or its disk cannot read it",
            signal.SIGSEGV: ": a crash in compiled code",
        }
        number = signal.Signals(-self.code)
        return f"signal {number.name}{hints.get(number, '')}"


class ChildProcess:
    """A running child, in a process group of its own. The thread that starts it must live as long as the child."""

    def __init__(self, program: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start Python with these arguments; what it runs calls `connect_to_parent` first.

        `environment` holds variables for the child where the environment of this process does not have them.
        """
        with contextlib.ExitStack() as undo:  # of what a shortage of descriptors or processes ends half way
            self._start(program, environment, undo)
            undo.pop_all()

    def _start(self, program: Sequence[str], environment: Mapping[str, str] | None, undo: contextlib.ExitStack) -> None:
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        for option, seconds in ((socket.SO_RCVTIMEO, REST_S), (socket.SO_SNDTIMEO, TAKEN_S)):
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))
        with theirs:
            self._report = os.memfd_create("feedline-report", os.MFD_CLOEXEC)
            undo.callback(os.close, self._report)
            descriptors = (theirs.fileno(), self._report)
            self._process = subprocess.Popen(  # noqa: S603 - our own program, with numbers
                [sys.executable, *program, *map(str, descriptors), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env={**(environment or {}), **os.environ},
                process_group=0,  # also keeps Ctrl-C on the terminal away: the parent decides when its children end
            )
        undo.callback(self._process.wait)
        undo.callback(self._process.kill)
        self.pidfd = os.pidfd_open(self.pid)
        """Readable once it has ended."""
        undo.callback(os.close, self.pidfd)
        _guard.add(self.pid)
        self.connection: Connection[Any, Any] = Connection(ours.detach())
        self._exit: Exit | None = None

    def __repr__(self) -> str:
        return f"<ChildProcess {self.pid} {self._exit or 'runs'}>"

    @property
    def pid(self) -> int:
        """Its process id, which is that of its group."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def has_ended(self, timeout_s: float) -> bool:
        """Blocks until it has ended, `timeout_s` at most."""
        ended = select.poll()
        ended.register(self.pidfd, select.POLLIN)
        return bool(ended.poll(max(timeout_s, 0.0) * 1000))

    def close(self) -> Exit:
        """End it with its whole process group, if it has not ended, and release what it took here. Idempotent."""
        if self._exit is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)  # before it is reaped: until then the number is its own
            code = self._process.wait()
            _guard.remove(self.pid)
            self.connection.close()
            os.close(self.pidfd)
            with os.fdopen(self._report, "rb") as report:
                report.seek(0)
                self._exit = Exit(code, report.read().decode(errors="replace"))
        return self._exit


_report_fd = -1
"""Where this child reports a crash."""


def connect_to_parent() -> "Connection[Any, Any]":
    """Become the child of the process that started this one; the connection to it. Call it before anything slow."""
    global _report_fd
    socket_fd, _report_fd, parent = map(int, sys.argv[-3:])
    del sys.argv[1:]  # the operator's modules read theirs there
    end_with(parent)
    for fd in (socket_fd, _report_fd):
        os.set_inheritable(fd, False)
    faulthandler.enable(_report_fd)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # or what the operator's code prints is lost when this is killed
    connection: Connection[Any, Any] = Connection(socket_fd)
    # Blocked meanwhile: what is sent to a fork before it is the operator's would be handled as if it were ours.
    os.register_at_fork(
        before=functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK, _ENDING),
        after_in_parent=functools.partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _ENDING),
        after_in_child=functools.partial(_become_the_operators, connection),
    )
    return connection


def _become_the_operators(connection: "Connection[Any, Any]") -> None:
    """Run in what the operator's code forks: it is none of ours.

    Where such code returns twice, from os.fork, the second return must neither answer nor write to a batch: the
    connection is closed there, and memory is mapped with MADV_DONTFORK.
    """
    connection.close()
    faulthandler.disable()
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)  # terminate() of the operator's code ends it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def give_up_after(seconds: float) -> None:
    """End this child unless it calls `stay` in time; its report then says where all its threads were."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=_report_fd)


def stay() -> None:
    """Take back what `give_up_after` announced."""
    faulthandler.cancel_dump_traceback_later()


def leave(code: int) -> Never:
    """End this child at once.

    Unlike `sys.exit` it waits for no thread and no exit handler of the operator's modules, and collects no garbage.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_with(parent: int) -> None:
    """Have the kernel kill this process when the thread of `parent` that started it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(0)


class _Guard:
    """The process that ends the children's groups when this process is killed; it runs while there are children."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._pipe = -1

    def add(self, group: int) -> None:
        """Guard a group."""
        with self._lock:
            self._groups.add(group)
            try:
                os.write(self._pipe, b"%d\n" % group)
            except OSError:  # there is none yet, or it was killed
                try:
                    self._start()
                except BaseException:
                    self._groups.discard(group)
                    self._stop()
                    raise

    def remove(self, group: int) -> None:
        """The group has ended."""
        with self._lock:
            self._groups.discard(group)
            with contextlib.suppress(OSError):
                os.write(self._pipe, b"-%d\n" % group)
            if not self._groups:
                self._stop()

    def _start(self) -> None:
        self._stop()
        reader, self._pipe = os.pipe2(os.O_CLOEXEC)
        os.write(self._pipe, b"".join(b"%d\n" % group for group in self._groups))
        with os.fdopen(reader, "rb") as groups:
            ended = subprocess.run(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", group_guard.__file__, str(os.getpid())],  # whose it is, for people
                stdin=groups,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
                check=False,
            )
        if ended.returncode:
            raise OSError(errno.EAGAIN, "the process that ends what workers leave behind cannot be started")

    def _stop(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


_guard = _Guard()
