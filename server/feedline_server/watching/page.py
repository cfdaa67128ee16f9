"""The page of one loader: what `Status` says, drawn in a browser that needs nothing from elsewhere.

It is told every two seconds; nothing is kept for it here but points of the last quarter of an hour, however many look.
"""

import json
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from feedline_server.scheduling.catalog import Catalog
from feedline_server.scheduling.scheduler import Scheduler
from feedline_server.watching.batch import batch_values, evidence_values, refused
from feedline_server.watching.events import Events
from feedline_server.watching.http import Reply, Route
from feedline_server.watching.observer import Observer
from feedline_wire.errors import FeedlineError
from feedline_wire.stages import STAGES
from feedline_wire.status import read_status
from feedline_wire.view import Values, view

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}


def routes(observer: Observer, scheduler: Scheduler, catalog: Catalog) -> dict[str, Route]:
    """What the page asks for, by path."""

    def of_batch(datasets: frozenset[str] | None, query: Mapping[str, str]) -> Reply:
        offset = int(_number(query.get("offset", "")))
        try:
            return _json(batch_values(scheduler, catalog, datasets, query.get("view", ""), max(offset, 0)))
        except FeedlineError as error:
            return Reply(refused(error).encode(), "text/plain; charset=utf-8", HTTPStatus.BAD_REQUEST)

    def of_sample(datasets: frozenset[str] | None, query: Mapping[str, str]) -> Reply:
        found = observer.evidence(datasets, query.get("id", ""))
        if found is None:
            return Reply(b"It is not kept any more.", "text/plain; charset=utf-8", HTTPStatus.NOT_FOUND)
        return _json(evidence_values(found))

    return {
        **{path: _file(*file) for path, file in FILES.items()},
        "/view.json": lambda datasets, _: _json(now(observer, catalog, datasets)),
        "/batch.json": of_batch,
        "/sample.json": of_sample,
    }


def now(observer: Observer, catalog: Catalog, datasets: frozenset[str] | None) -> Values:
    """What the page shows but for its charts and batches, for who may have these datasets."""
    found = view({"": read_status(observer.status(datasets))})
    served = catalog.seen_by(datasets).served
    found["views"] = [
        f"{name}/{one}" for name, of in served.items() if not of.dataset.is_stream for one in of.dataset.views
    ]
    found["errors"] = observer.failures(datasets)
    found["bad_samples"] = observer.bad_samples(datasets)
    return found


def events(observer: Observer, catalog: Catalog) -> Events:
    """What pages are told: `now`, and the points of the charts that came since the last event that each has."""
    life = secrets.token_hex(4)  # a page that was told of another life of this loader begins anew

    def made(datasets: frozenset[str] | None, last: str) -> tuple[str, Values]:
        of, _, at = last.partition(":")
        goes_on = of == life
        since = _number(at) if goes_on else 0.0
        points = observer.points(datasets, since)
        since = points[-1]["at"] if points else since
        values = {"now": now(observer, catalog, datasets), "stages": STAGES, "points": points, "goes_on": goes_on}
        return f"{life}:{since!r}", values

    return Events(made)


def _file(name: str, content_type: str) -> Route:
    content = (Path(__file__).parent / "static" / name).read_bytes()
    return lambda datasets, query: Reply(content, content_type)


def _json(values: Values) -> Reply:
    return Reply(json.dumps(values).encode(), "application/json")


def _number(text: str) -> float:
    """A number that arrived; 0 for what is none."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if 0 <= number < 2**53 else 0.0
