"""What a target names: data on this host, or loaders. Pure; nothing is looked at."""

import os
import re
from typing import Any, TypeGuard

_SCHEMES = re.compile(r"(dns|ipv4|ipv6|unix|ray):|[A-Za-z][A-Za-z0-9+.-]*://")
"""What begins with one of these is no path, although it may hold a `/`."""

_OBJECT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""`module:name`. After the colon of an address come digits."""


def is_object(text: str) -> bool:
    """The text is `module:name`."""
    return _OBJECT.fullmatch(text) is not None


def is_data(target: Any) -> TypeGuard["str | os.PathLike[str]"]:  # noqa: ANN401 - whatever a user gives as target
    """The target is a path or `module:name` on this host: a Path, or a text with `/`, or that begins with `.` or `~`.

    Names with a scheme (`dns:`, `unix:`, …) and `host:DIGITS` are addresses, lists and functions name loaders.
    """
    if isinstance(target, os.PathLike):
        return True
    if not isinstance(target, str) or _SCHEMES.match(target):
        return False
    return target.startswith((".", "~")) or "/" in target or is_object(target)
