"""What is shown over HTTP: the fleet's metrics, and the decision as JSON for what scales by other means."""

import json
from collections.abc import Iterator
from http import HTTPStatus

from feedline_autoscale.controller import Controller, Decided
from feedline_server.watching.http import Reply, Route
from feedline_wire import prometheus
from feedline_wire.prometheus import CONTENT_TYPE, Metric
from feedline_wire.view import Values


def routes(controller: Controller) -> dict[str, Route]:
    """What is shown, by path. 503 until something is known of the fleet."""

    def of_metrics() -> Reply:
        return Reply(prometheus.text(metrics(controller.decided)), CONTENT_TYPE)

    def of_fleet() -> Reply:
        if (decided := controller.decided) is None:
            return Reply(b'{"replicas": null}', "application/json", HTTPStatus.SERVICE_UNAVAILABLE)
        return Reply(json.dumps(values(decided)).encode(), "application/json")

    # A token that is for some datasets only is let in as well: there is nothing of any dataset in numbers of workers.
    return {"/metrics": lambda _datasets, _query: of_metrics(), "/fleet.json": lambda _datasets, _query: of_fleet()}


def values(decided: Decided) -> Values:
    """The decision, and what it was made of."""
    look, made = decided.seen.look, decided.recommendation
    return {
        "replicas": made.replicas,
        "reason": made.reason,
        "there": look.replicas,
        "workers": look.workers,
        "demand_workers": round(look.demand, 3),
        "waiting_share": round(look.waiting_share, 4),
        "trainers": look.trainers,
        "knocking": look.knocking,
        "unanswered": look.unanswered,
        "is_known": look.is_known,
        "problems": dict(decided.seen.problems),
    }


def metrics(decided: Decided | None) -> Iterator[Metric]:
    """For a scrape."""
    up = Metric("feedline_fleet_known", "gauge", "1 while something could be seen of the fleet at the last look.")
    yield up.add(decided is not None and decided.seen.look.is_known)
    if decided is None:
        return
    look, made = decided.seen.look, decided.recommendation
    of_fleet = {
        "recommended_replicas": (made.replicas, "Loaders that the fleet should have."),
        "replicas": (look.replicas, "Loaders that answer and do not drain."),
        "workers": (look.workers, "Worker processes of these."),
        "demand_workers": (
            look.demand,
            "Worker-seconds a second that trainers would use if they never waited for workers.",
        ),
        "waiting_ratio": (look.waiting_share, "Of the time of the trainer that waits most, what it waited."),
        "trainers": (look.trainers, "Trainers connected."),
        "knocking": (look.knocking, "Hosts whose trainers ask for a loader where none is."),
        "unanswered_addresses": (look.unanswered, "Addresses at which no loader answers."),
        "look_seconds": (decided.seen.took_s, "That the last look took: names, and the answers of all loaders."),
    }
    for name, (value, meaning) in of_fleet.items():
        yield Metric(f"feedline_fleet_{name}", "gauge", meaning).add(value)
    yield Metric("feedline_fleet_looks_total", "counter", "Looks at the fleet.").add(decided.looks)
