"""What a loader shows over HTTP, as tests ask for it."""

import urllib.request

from breaking.lines import free_port


def free_address() -> str:
    """For `--metrics-listen`: a port that no outgoing connection of another test takes while the loader is down."""
    return f"127.0.0.1:{free_port('127.0.0.1')}"


def got(address: str, path: str) -> str:
    """The answer, as text."""
    with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
        return str(answer.read().decode())
