"""A network of its own for a trainer, joined to this host by a virtual cable, whose packets can be dropped silently.

As root, with `ip` and `nft` or `iptables`. Nothing of the host's own network is touched but for the cable's end.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass


def why_not() -> str | None:
    """Why there can be none here; None if there can."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        return f"a network namespace whose packets are dropped needs {' and '.join(missing)}"
    name = f"feedline-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


@dataclass(frozen=True, slots=True)
class Namespace:
    """The network: processes started with `command` before their own are in it."""

    name: str
    outside: str
    """This host's address, as seen from it."""

    @property
    def command(self) -> list[str]:
        """What is put before a command line, for it to run there."""
        return ["ip", "netns", "exec", self.name]

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Drop every packet that comes in, silently, for as long as this lasts."""
        self.run("nft", "add", "table", "inet", "breaking")
        try:
            for hook in ("input", "output"):
                self.run(
                    "nft", f"add chain inet breaking {hook} {{ type filter hook {hook} priority 0; policy drop; }}"
                )
            yield
        finally:
            self.run("nft", "delete", "table", "inet", "breaking")

    def run(self, *command: str) -> None:
        """Run something there."""
        _run(*self.command, *command)


@contextlib.contextmanager
def opened(name: str) -> Iterator[Namespace]:
    """Make it and, afterwards, remove it."""
    cable = f"fl{secrets.token_hex(4)}"  # an interface's name has at most 15 characters
    block = secrets.randbelow(200)
    net = Namespace(name, f"10.231.{block}.1")
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", f"{cable}a", "type", "veth", "peer", "name", f"{cable}b", "netns", name)
        _run("ip", "address", "add", f"{net.outside}/30", "dev", f"{cable}a")
        _run("ip", "link", "set", f"{cable}a", "up")
        net.run("ip", "address", "add", f"10.231.{block}.2/30", "dev", f"{cable}b")
        net.run("ip", "link", "set", f"{cable}b", "up")
        net.run("ip", "link", "set", "lo", "up")
        yield net
    finally:
        subprocess.run(["ip", "link", "delete", f"{cable}a"], check=False, capture_output=True)
        _run("ip", "netns", "delete", name)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
