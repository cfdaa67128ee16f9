"""A trainer's own metrics, for Prometheus: `feedline.metrics.serve(9101)`.

Loaders serve the same of all trainers that read from them (`--metrics-listen`); this is for a trainer that is scraped
itself. Nothing is counted for it: a scrape reads `feed.stats` of every feed of this process.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from feedline.watching.waits import ALL, FeedStatistics
from feedline_wire import prometheus
from feedline_wire.errors import InvalidRequest
from feedline_wire.prometheus import Metric
from feedline_wire.stages import STAGES

DEADLINE_S = 10.0
"""For a scraper's next byte."""


class MetricsServer:
    """Serves until `close`, or the process ends. Made by `serve`."""

    def __init__(self, host: str, port: int) -> None:
        try:
            self._server = ThreadingHTTPServer((host, port), _Handler)
        except (OSError, OverflowError) as error:  # the latter: no port has such a number
            raise InvalidRequest(
                f"metrics cannot be served at {host}:{port}: {getattr(error, 'strerror', None) or error}"
            ) from error
        self.address = "{}:{}".format(*self._server.server_address[:2])
        """Where: with port 0 any free one was taken."""
        self._thread = threading.Thread(target=self._server.serve_forever, name="feedline metrics", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<MetricsServer {self.address}>"

    def close(self) -> None:
        """Serve no more. Idempotent."""
        self._server.shutdown()
        self._server.server_close()


def serve(port: int, host: str = "127.0.0.1") -> MetricsServer:
    """Serve this trainer's metrics at `http://host:port/metrics`. Does not block.

    Open to whoever reaches the address, and not encrypted. Raises InvalidRequest if it cannot be listened on.
    """
    return MetricsServer(host, port)


def scrape() -> bytes:
    """The metrics of every feed of this process, as text."""
    batches = Metric("feedline_trainer_batches_total", "counter", "Batches that this trainer was given.")
    rows = Metric("feedline_trainer_rows_total", "counter", "Rows of these.")
    meaning = "Seconds that this trainer waited for batches, by what it waited for."
    waits = Metric("feedline_trainer_wait_seconds_total", "counter", meaning)
    sums: dict[tuple[object, ...], tuple[dict[str, object], list[FeedStatistics]]] = {}
    for one in list(ALL):
        sums.setdefault(tuple(one.labels.values()), (one.labels, []))[1].append(one.statistics())
    for labels, found in sums.values():
        batches.add(sum(one.batches for one in found), **labels)
        rows.add(sum(one.rows for one in found), **labels)
        for stage in STAGES:
            waits.add(sum(one.stages.get(stage, 0.0) for one in found), **labels, stage=stage)
    return prometheus.text((batches, rows, waits))


class _Handler(BaseHTTPRequestHandler):
    timeout = DEADLINE_S
    server_version, sys_version = "feedline", ""

    def do_GET(self) -> None:
        """Answer a scrape."""
        is_known = self.path.partition("?")[0] == "/metrics"
        body = scrape() if is_known else b"there is: /metrics\n"
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", prometheus.CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base has it
        """Nothing: a scrape each few seconds is no news."""
