"""A loader's log says whose stream a line is about: trainer, rank, dataset, key, and the trainer's trace."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import feedline
from feedline_wire.key import from_text

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten samples, each in a file of its own."""
    (tmp_path / "d").mkdir()
    for number in range(10):
        np.save(tmp_path / "d" / f"s{number}.npy", np.zeros(3, np.float32))
    names = [f"s{number}" for number in range(10)]
    (tmp_path / "d" / "partition.json").write_text(json.dumps({"train": names}))
    (tmp_path / "d" / "labels.json").write_text(json.dumps(dict.fromkeys(names, 0)))
    return tmp_path / "d"


def test_lines_of_a_stream_say_whose_it_is_and_which_key_failed(data: Path, start_loader: Callable[..., Any]) -> None:
    loader = start_loader(data, "--workers", "1", "--log-format", "json")
    with feedline.connect(loader.address, timeout_s=60, traceparent=TRACEPARENT) as connection:
        feed = connection.feed(batch_size=1, order="sequential", rank=1, world=2)
        key = feed.key(feed.plan.step(0, 4))  # the last sample, of the second rank: those before it were sent
        (data / "s9.npy").write_bytes(b"no array")
        with pytest.raises(feedline.DataError):
            list(feed)
    loader.stop()
    found = lines(loader.log)

    trace = {"trace_id": TRACE_ID, "span_id": SPAN_ID, "trace_flags": "01"}
    (connected,) = [line for line in found if line["event"] == "trainer connected"]
    assert trace.items() <= connected.items()
    (reads,) = [line for line in found if line["event"] == "a trainer reads"]
    assert (trace | {"dataset": "d", "view": "train", "rank": 1, "world": 2}).items() <= reads.items()
    assert len(reads["trainer"]) == 8
    (failed,) = [line for line in found if line["event"] == "a batch is answered with an error"]
    whose = {name: reads[name] for name in ("peer", "client", "trainer", "rank", "dataset", "view")}
    assert (trace | whose).items() <= failed.items()
    assert from_text(failed["key"]) == key
    assert "s9.npy" in failed["error"]
    (left,) = [line for line in found if line["event"] == "trainer left"]
    assert (trace | whose | {"batches": 4}).items() <= left.items()


def test_a_trace_of_the_environment_is_carried_and_what_is_none_is_passed_over(
    hundred_and_one: Path, start_loader: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = start_loader(hundred_and_one, "--workers", "1", "--log-format", "json")
    for text in (TRACEPARENT, "rubbish"):
        monkeypatch.setenv("TRACEPARENT", text)
        with feedline.connect(loader.address, timeout_s=60) as connection:
            next(iter(connection.feed(batch_size=1)))
    loader.stop()
    connected = [line for line in lines(loader.log) if line["event"] == "trainer connected"]

    assert [line.get("trace_id") for line in connected] == [TRACE_ID, None]


def test_a_traceparent_that_is_none_is_refused_where_it_is_given() -> None:
    with pytest.raises(feedline.InvalidRequest, match=r"traceparent is 'abc'; wanted that of W3C Trace Context: 00-"):
        feedline.connect("127.0.0.1:1", traceparent="abc")
    with pytest.raises(feedline.InvalidRequest, match=r"traceparent is 7; wanted that of W3C Trace Context: 00-"):
        feedline.connect("127.0.0.1:1", traceparent=7)  # type: ignore[arg-type]
