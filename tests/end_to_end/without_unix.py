"""A trainer on a platform without what only Unix or Linux has: `python without_unix.py ADDRESS` reads an epoch.

What is imported from elsewhere is imported before, as this platform's; then everything that Windows' Python does not
have is taken away, and feedline is imported and used.
"""

import importlib
import importlib.abc
import importlib.machinery
import pkgutil
import select
import signal
import socket
import sys
from collections.abc import Sequence
from types import ModuleType

MODULES = {"fcntl", "termios", "tty", "pty", "pwd", "grp", "resource", "syslog", "posix", "readline", "curses"}

OS = """
    register_at_fork fork forkpty wait wait3 wait4 waitid memfd_create eventfd eventfd_read eventfd_write pidfd_open
    sched_getaffinity sched_setaffinity sched_yield sendfile preadv pwritev pread pwrite posix_fadvise posix_fallocate
    posix_spawn getuid geteuid getgid getegid getpgid getpgrp setsid setpgid killpg uname mkfifo chown fchown lchown
    statvfs fstatvfs getloadavg openpty ttyname confstr sysconf nice sync WNOHANG O_CLOEXEC O_NOFOLLOW O_DIRECTORY
    O_NONBLOCK O_DIRECT MFD_CLOEXEC MFD_ALLOW_SEALING EFD_NONBLOCK EFD_CLOEXEC
""".split()  # noqa: SIM905  # a table that somebody will compare with the documentation

SOCKET = ["AF_UNIX", "AF_NETLINK", "SO_REUSEPORT", "send_fds", "recv_fds", "socketpair", "MSG_DONTWAIT", "CMSG_LEN"]
SIGNAL = ["SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "pthread_kill", "pthread_sigmask"]
SELECT = ["poll", "epoll"]


DOORS = {"keras", "torch", "jax", "grain", "tf", "tf_keras", "__main__"}
"""What a framework is needed for, and the program itself."""

EPOCHS = 100
"""At most, until batches come by a lane."""


class Absent(importlib.abc.MetaPathFinder):
    """Modules that are not there."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """ModuleNotFoundError for these; others are looked for elsewhere."""
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def take_away() -> None:
    """Make this process such a platform, once what is installed beside feedline is imported."""
    import os

    for name in ("numpy", "grpc", "google.protobuf.internal.builder", "importlib.metadata", "logging", "argparse"):
        importlib.import_module(name)
    for module, names in ((os, OS), (socket, SOCKET), (signal, SIGNAL), (select, SELECT)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Absent())
    sys.platform = "win32"


def main(address: str) -> None:
    """Import all of the client that no framework is needed for, and read an epoch."""
    take_away()
    import feedline

    for room in pkgutil.iter_modules(feedline.__path__):
        if room.name not in DOORS:
            package = importlib.import_module(f"feedline.{room.name}")
            for module in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{package.__name__}."):
                if module.name not in {"feedline.cli.demo_train", "feedline.ray.actors"}:
                    importlib.import_module(module.name)
    with feedline.connect(address) as loader:
        for number in range(EPOCHS):
            ids = [int(sample) for batch in loader.epoch(number, batch_size=10) for sample in batch.ids]
            if loader.stats.replicas[0].lane != "grpc":  # until another lane stands, batches come by gRPC
                break
        sys.stdout.write(f"{loader.stats.replicas[0].lane} {len(ids)} {len(set(ids))}\n")
        sys.stdout.flush()
    from feedline.cli import main as command

    codes = command(["serve", "."]), command(["inspect", address])
    sys.stdout.write(f"{codes}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
