"""Whether an extra is installed, asked before anything heavy is started."""

import importlib.util
from collections.abc import Iterable

from feedline_wire.errors import FeedlineError

SERVER = ("grpc_health", "grpc_reflection", "pydantic", "pydantic_settings", "structlog")
"""What the extra `server` brings."""


class ExtraMissing(FeedlineError, ImportError):
    """A command needs packages that an extra of feedline brings and that are not installed."""


def need(modules: Iterable[str], *, extra: str) -> None:
    """ExtraMissing, with the command that installs the extra, unless all of the modules can be imported."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraMissing(
            f"needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed here; "
            f"install with: pip install 'feedline[{extra}]'"
        )
