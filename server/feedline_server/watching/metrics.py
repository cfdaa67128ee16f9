"""What a scrape of one loader says: its counters, and how trainers fare, as they say it.

Nothing is counted here: a scrape reads what is counted anyway. What a trainer says is under labels that are bounded.
"""

from collections.abc import Iterator

from feedline_server.watching.observer import Observer
from feedline_wire import prometheus
from feedline_wire.demand import demand_here
from feedline_wire.lane import LANES
from feedline_wire.prometheus import Metric
from feedline_wire.stages import OF_LOADER, STAGES
from feedline_wire.status import LoaderStatus, read_status, readers_of, replicas_of

COUNTERS = {
    "batches": ("feedline_batches_total", "Batches sent."),
    "failures": ("feedline_failures_total", "Keys answered with an error."),
    "bad_samples": ("feedline_bad_samples_total", "Samples that could not be read, left out or replaced."),
    "workers_restarted": ("feedline_worker_deaths_total", "Workers that ended and were replaced."),
    "assembling_s": ("feedline_worker_busy_seconds_total", "Seconds that workers spent on batches."),
}
GAUGES = {
    "workers": ("feedline_workers", "Worker processes."),
    "workers_busy": ("feedline_workers_busy", "Workers that assemble now."),
    "uptime_s": ("feedline_uptime_seconds", "Since the loader began."),
    "waited_s": ("feedline_oldest_key_seconds", "How long the oldest key has waited for this loader."),
}


def scrape(observer: Observer, datasets: frozenset[str] | None) -> bytes:
    """All metrics, for who may have these datasets; None: all."""
    status = read_status(observer.status(datasets))
    return prometheus.text([*_of_loader(status), *_of_trainers(observer, datasets)])


def _of_loader(status: LoaderStatus) -> Iterator[Metric]:
    now = status.counters
    info = Metric("feedline_loader_info", "gauge", "1, with what this loader is.")
    yield info.add(1, replica=status.replica, version=status.version)
    for name, (metric, meaning) in COUNTERS.items():
        yield Metric(metric, "counter", meaning).add(now[name])
    for name, (metric, meaning) in GAUGES.items():
        yield Metric(metric, "gauge", meaning).add(now[name])
    yield Metric("feedline_draining", "gauge", "1 while it takes no new work.").add(status.draining)
    yield Metric("feedline_trainers", "gauge", "Trainers connected.").add(len(status.trainers))
    lanes = {lane: now[f"bytes_{lane}"] for lane in LANES}
    sent = Metric("feedline_bytes_total", "counter", "Bytes of batches sent, by lane.")
    for lane, nbytes in {"grpc": now["bytes"] - sum(lanes.values()), **lanes}.items():
        sent.add(nbytes, lane=lane)
    yield sent
    arena = Metric("feedline_arena_bytes", "gauge", "Memory for batches: lent to them, kept for who asks next, free.")
    lent, kept = now["arena_lent"], now["arena_kept"]
    yield arena.add(lent, state="lent").add(kept, state="kept").add(now["arena_bytes"] - lent - kept, state="free")
    short = Metric("feedline_short_seconds_total", "counter", "Seconds in which keys waited for workers or memory.")
    yield short.add(now["short_of_workers_s"], of="workers").add(now["short_of_memory_s"], of="memory")
    stages = Metric("feedline_stage_seconds_total", "counter", "Seconds of batches in each stage of the loader.")
    for stage in OF_LOADER:
        stages.add(now[f"{stage}_s"], stage=stage)
    yield stages
    demand = demand_here(readers_of([status]), replicas_of({"": status})[0])
    meaning = "Worker-seconds a second that trainers would use of this loader if none waited for workers."
    yield Metric("feedline_demand_workers", "gauge", meaning).add(demand)


def _of_trainers(observer: Observer, datasets: frozenset[str] | None) -> Iterator[Metric]:
    batches = Metric("feedline_trainer_batches_total", "counter", "Batches that a rank was given, by any loader.")
    rows = Metric("feedline_trainer_rows_total", "counter", "Rows of these.")
    meaning = "Seconds that a rank waited for batches, by what it waited for."
    waits = Metric("feedline_trainer_wait_seconds_total", "counter", meaning)
    for (dataset, view, rank), total in observer.totals(datasets):
        of = {"dataset": dataset, "view": view, "rank": rank}
        batches.add(total.batches, **of)
        rows.add(total.rows, **of)
        for stage, us in zip(STAGES, total.waited_us, strict=True):
            waits.add(us / 1e6, **of, stage=stage)
    yield from (batches, rows, waits)
