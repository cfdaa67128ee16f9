"""Which trace a trainer's work belongs to: a W3C traceparent (https://www.w3.org/TR/trace-context/).

A trainer sends it as metadata of its calls; a loader writes it into the log lines of that stream. It decides nothing.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

HEADER = "traceparent"
"""The metadata's name, which is also that of tracing libraries. In the environment: TRACEPARENT."""

LONGEST = 256
"""Characters: the form of today has 55, and those to come only add to it."""

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")


class Trace(NamedTuple):
    """The names that logs give to its parts (OpenTelemetry, trace context in non-OTLP log formats)."""

    trace_id: str
    span_id: str
    trace_flags: str


def parse(text: str) -> Trace | None:
    """The parts of a traceparent; None if it is none."""
    found = _FORM.fullmatch(text) if len(text) <= LONGEST else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Trace(trace_id, span_id, flags)


def fields(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """What a call's metadata says of its trace, for the log; empty if it says nothing that can be read."""
    sent = next((value for name, value in metadata if name == HEADER), "")
    trace = parse(sent) if isinstance(sent, str) else None
    return {} if trace is None else trace._asdict()
