"""Numbers as people read them."""

from datetime import timedelta


def size(count: float) -> str:
    """Bytes in the largest decimal unit: `1.5 MB`."""
    units = ["TB", "GB", "MB", "kB"]
    if count < 1000:
        return f"{count:.0f} B"
    while (count := count / 1000) >= 999.95 and len(units) > 1:
        units.pop()
    return f"{count:.1f} {units[-1]}"


def many(count: float) -> str:
    """A count with its thousands set apart: `12,345`."""
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """Whole seconds as a clock shows them: `1 day, 2:03:04`."""
    return str(timedelta(seconds=int(seconds)))


def share(part: float) -> str:
    """A part of one in percent: `3.4 %`."""
    return f"{100 * part:.1f} %"
