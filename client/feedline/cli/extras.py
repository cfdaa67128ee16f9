"""Whether what a command needs is here, asked before anything heavy is started: an extra, a platform."""

import importlib.util
import sys
from collections.abc import Iterable

from feedline_wire.errors import FeedlineError

SERVER = ("grpc_health", "grpc_reflection", "pydantic", "pydantic_settings", "structlog")
"""What the extra `server` brings."""


class ExtraMissing(FeedlineError, ImportError):
    """A command needs packages that an extra of feedline brings and that are not installed."""


class NotHere(FeedlineError):
    """A command needs another platform."""


def need_server(*modules: str, extra: str) -> None:
    """What a command needs that starts the server's program, and these modules: NotHere or ExtraMissing without."""
    if sys.platform != "linux":
        raise NotHere(
            f"a loader runs on Linux, and this is {sys.platform}: start it in a container (`docker compose up loader`, "
            f"docs/docker.md), in WSL, or on another host; a trainer runs here as it is"
        )
    need((*SERVER, *modules), extra=extra)


def need(modules: Iterable[str], *, extra: str) -> None:
    """ExtraMissing, with the command that installs the extra, unless all of the modules can be imported."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraMissing(
            f"needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed here; "
            f"install with: pip install 'feedline[{extra}]'"
        )
