"""What loaders and their trainers do, as plain values: `feedline top`, its JSON and the page show the same of them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from feedline_wire import loader_pb2 as pb
from feedline_wire.figures import trainings
from feedline_wire.status import LoaderStatus, figures_of, readers_of, replicas_of
from feedline_wire.verdict import Verdict, decide

Values = dict[str, Any]
"""Numbers, text, and lists and tables of them."""


def view(statuses: Mapping[str, LoaderStatus]) -> Values:
    """Of these loaders, by their addresses: `loaders`, `trainers` and `verdicts`, the one that waits most first."""
    return {
        "loaders": [_loader(address, status) for address, status in statuses.items()],
        "trainers": _trainers(statuses),
        "verdicts": [{"training": name, **asdict(verdict)} for name, verdict in verdicts(statuses)],
    }


def verdicts(statuses: Mapping[str, LoaderStatus]) -> list[tuple[str, Verdict]]:
    """The verdict on each training, by the name of its view; the one that waits most comes first."""
    replicas = replicas_of(statuses)
    groups = trainings(readers_of(statuses.values()))
    found = [(group[0].name, decide(group, replicas)) for group in groups]
    if not found and replicas:
        found = [("", decide([], replicas))]
    return sorted(found, key=lambda one: -one[1].waiting_share)


def _loader(address: str, status: LoaderStatus) -> Values:
    now, recent, seconds = status.counters, status.recent, status.recent_s
    workers, batches = now.get("workers", 0), recent.get("batches", 0)
    return {
        "address": address,
        "replica": status.replica,
        "version": status.version,
        "state": "draining" if status.draining else f"short of {status.short_of}" if status.short_of else "serving",
        "workers": workers,
        "busy": min(recent.get("assembling_s", 0.0) / (seconds * workers), 1.0) if seconds and workers else 0.0,
        "arena_bytes": now.get("arena_bytes", 0),
        "arena_lent": now.get("arena_lent", 0),
        "bytes_per_s": recent.get("bytes", 0) / seconds if seconds else 0.0,
        "batch_s": recent.get("assembling_s", 0.0) / batches if batches else 0.0,
        "batches": now.get("batches", 0),
        "trainers": len(status.trainers),
        "bad_samples": now.get("bad_samples", 0),
        "worker_deaths": now.get("workers_restarted", 0),
    }


def _trainers(statuses: Mapping[str, LoaderStatus]) -> list[Values]:
    """Each reader once: all its loaders are told the same, the latest of it is what had most batches."""
    latest: dict[str, pb.Reader] = {}
    for status in statuses.values():
        for trainer in status.trainers:
            for reader in trainer.readers:
                known = latest.get(reader.trainer)
                if known is None or reader.total_batches > known.total_batches:
                    latest[reader.trainer] = reader
    found = [_trainer(reader) for reader in latest.values()]
    return sorted(found, key=lambda one: (one["dataset"], one["view"], one["rank"], one["trainer"]))


def _trainer(reader: pb.Reader) -> Values:
    figures = figures_of(reader)
    elapsed_s = figures.elapsed_s
    rate = figures.batches / elapsed_s if elapsed_s else 0.0
    left = max(reader.steps - reader.step - 1, 0)
    return {
        "trainer": reader.trainer,
        "dataset": reader.dataset,
        "view": reader.view,
        "rank": reader.rank,
        "world": reader.world,
        "lane": reader.lane,
        "epoch": reader.epoch,
        "step": reader.step,
        "steps": reader.steps,
        "left_s": left / rate if rate and reader.steps else None,
        "samples_per_s": reader.rows / elapsed_s if elapsed_s else 0.0,
        "waiting_share": figures.share,
        "waits": {stage: min(seconds / elapsed_s, 1.0) for stage, seconds in figures.waited.items() if elapsed_s},
    }
