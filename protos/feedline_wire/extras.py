"""Packages that an extra of feedline brings: whether they are here, and the command that installs them.

The command fits how feedline was installed: it names the checkout where that is its source.
"""

import importlib.util
from collections.abc import Iterable

from feedline_wire.errors import FeedlineError


class ExtraMissing(FeedlineError, ImportError):
    """Packages are needed that an extra of feedline brings and that are not installed."""


def need(modules: Iterable[str], *, extra: str) -> None:
    """Raises ExtraMissing, with the command that installs the extra, unless all of the modules can be imported."""
    if missing := [name for name in modules if not is_here(name)]:
        raise ExtraMissing(
            f"needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed here; "
            f"install with: {pip_install(extra)}"
        )


def is_here(name: str) -> bool:
    """A module can be imported, as far as can be told without importing it."""
    spec = importlib.util.find_spec(name)
    # Without an origin it is a folder of that name where modules are looked for: Ray's own /tmp/ray, seen from /tmp.
    return spec is not None and spec.origin is not None


def pip_install(extra: str) -> str:
    """The command that installs an extra beside this feedline: `pip install 'feedline[h5]'`."""
    import shlex
    from importlib.metadata import PackageNotFoundError, distribution  # 20 ms, which workers do without

    try:
        written = distribution("feedline").read_text("direct_url.json")
    except PackageNotFoundError:
        written = None
    return f"pip install {shlex.quote(f'{requirement(written)}[{extra}]')}"


def requirement(direct_url: str | None) -> str:
    """What pip is given: the checkout that feedline was installed from, if it still exists, else feedline's name.

    `direct_url` is the text of direct_url.json (PEP 610), which pip writes unless an index was the source.
    """
    import json
    from pathlib import Path
    from urllib.parse import unquote, urlsplit

    source = json.loads(direct_url or "{}")
    folder = unquote(urlsplit(source.get("url", "")).path)
    return folder if "dir_info" in source and (Path(folder) / "pyproject.toml").is_file() else "feedline"
