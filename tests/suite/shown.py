"""What a loader shows over HTTP, as tests ask for it."""

import urllib.request


def got(address: str, path: str) -> str:
    """The answer, as text."""
    with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
        return str(answer.read().decode())
