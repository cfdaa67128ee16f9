"""A loader in a process of its own while an example needs it: what `feedline serve PATH` does in a terminal."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

START_S = 100.0
"""A loader that does not listen by then never will; on two busy cores it takes a few seconds, and with a
framework in the dataset's own code up to a minute."""

LOOK_S = 0.02
"""How often a starting loader is looked at; a file's appearance wakes nobody."""


@contextlib.contextmanager
def served(path: Path | str, *arguments: str) -> Iterator[str]:
    """The address of a loader that serves a loader.toml, a folder, a file or an object; it is stopped at the end."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        command = [sys.executable, "-m", "feedline", "serve", str(path), "--workers", "2", "--log-level", "warning"]
        command += ["--listen", "127.0.0.1:0", "--port-file", str(port_file), *arguments]
        loader = subprocess.Popen(command)  # noqa: S603 - our own program
        try:
            yield f"127.0.0.1:{_port(loader, port_file)}"
        finally:
            loader.terminate()
            loader.wait()


def digits(folder: Path) -> Path:
    """The folder, with real handwritten digits in it: views `train` and `validation`, x of shape (8, 8) and y."""
    command = [sys.executable, "-m", "feedline_server", "demo-data", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
    return folder


def _port(loader: "subprocess.Popen[bytes]", port_file: Path) -> int:
    for _ in range(int(START_S / LOOK_S)):
        if port_file.exists():
            return int(port_file.read_text())
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise SystemExit(f"the loader ended with code {loader.wait(LOOK_S)}")
    raise SystemExit(f"the loader did not listen within {START_S} s")
