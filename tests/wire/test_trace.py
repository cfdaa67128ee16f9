"""A traceparent is read as W3C Trace Context has it; what is none says nothing."""

import pytest

from feedline_wire.trace import Trace, fields, parse

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (GOOD, Trace(TRACE_ID, SPAN_ID, "01")),
        (f"01-{TRACE_ID}-{SPAN_ID}-01-what-comes-later", Trace(TRACE_ID, SPAN_ID, "01")),
        (f"00-{TRACE_ID}-{SPAN_ID}-01-more", None),
        (f"ff-{TRACE_ID}-{SPAN_ID}-01", None),
        (f"00-{'0' * 32}-{SPAN_ID}-01", None),
        (f"00-{TRACE_ID}-{'0' * 16}-01", None),
        (GOOD.upper(), None),
        (f" {GOOD}", None),
        (f"{GOOD}\n", None),
        (f"01-{TRACE_ID}-{SPAN_ID}-01-{'x' * 300}", None),
        ("", None),
    ],
)
def test_a_traceparent_is_read_whole_or_not_at_all(text: str, found: Trace | None) -> None:
    assert parse(text) == found


def test_the_log_has_the_names_of_opentelemetry_and_nothing_of_what_is_no_trace() -> None:
    assert fields([("other", "1"), ("traceparent", GOOD)]) == {
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
        "trace_flags": "01",
    }
    assert fields([("traceparent", "\x1b[31m")]) == {}
    assert fields([("traceparent", GOOD.encode())]) == {}
    assert fields([]) == {}
