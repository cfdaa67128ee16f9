"""How many loaders and workers for this machine, where the operator leaves it to us (`auto`), and on which cores.

A decision on values, each with its reason; reading them from the machine is in `host/machine.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from feedline_server.host import machine
from feedline_server.host.machine import Resources
from feedline_server.settings.settings import AUTO, LEAST_MEMORY, Settings
from feedline_wire.text import counted

WORKERS_A_FRONT = 48
"""Workers that one front process gives work to and sends for, of batches that take 10 ms or more (docs/autoscale.md has
what was measured). Cheaper batches reach its limit sooner."""

CORES_A_NODE = 4
"""Where this process has fewer of a NUMA node, nodes get no loader of their own: a front would take too much of one."""

ROOMY = 8
"""Cores for a loader from which its front process has one of its own; on fewer that would be too large a part."""

WORKER_NBYTES = 128 << 20
"""Memory of one worker: 20 MB of its own with numpy alone, and as much again as the usual libraries for images."""

Cores = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sizing:
    """What was chosen."""

    replicas: int
    workers: int
    """Of all of them."""
    cores: tuple[Cores, ...] = ()
    """Of each loader, which it and its workers keep to; empty: the kernel chooses."""
    reasons: tuple[str, ...] = ()
    """A sentence for each choice."""


def sized(settings: Settings) -> tuple[Settings, Sizing]:
    """The settings with numbers for `auto`, and what was chosen."""
    if AUTO not in {settings.workers, settings.replicas}:
        return settings, Sizing(settings.replicas, settings.workers)
    found = size(machine.resources(), workers=settings.workers, replicas=settings.replicas, memory=settings.memory)
    return settings.model_copy(update={"replicas": found.replicas, "workers": found.workers}), found


def size(of: Resources, *, workers: int, replicas: int, memory: int) -> Sizing:
    """How many loaders, with how many workers, and where. `workers` and `replicas` are numbers or AUTO."""
    reasons: list[str] = []
    cores: tuple[Cores, ...] = ()
    usable = max(math.floor(min(of.cores, of.quota or math.inf)), 1)
    is_limited = of.quota is not None and of.quota < of.cores
    words = f"{of.quota:g} cores of CPU time" if is_limited else counted(of.cores, "core")
    if replicas == AUTO:
        nodes = () if is_limited or any(len(node) < CORES_A_NODE for node in of.nodes) else of.nodes
        if len(nodes) > 1:
            cores = tuple(node for node in nodes for _ in range(math.ceil(len(node) / WORKERS_A_FRONT)))
            replicas = len(cores)
            reasons.append(
                f"replicas = {replicas}: {len(nodes)} NUMA nodes, of which each loader keeps to one"
                + (f", and more than {WORKERS_A_FRONT} cores in a node" if replicas > len(nodes) else "")
            )
        else:
            replicas = math.ceil(usable / WORKERS_A_FRONT)
            several = f"{words}, and one front process sends for {WORKERS_A_FRONT} workers"
            one_node = "one NUMA node" if len(of.nodes) < 2 else "too little of each NUMA node for a loader of its own"
            reasons.append(f"replicas = {replicas}: {several if replicas > 1 else f'{words}, {one_node}'}")
        most = max(min(memory // LEAST_MEMORY, replicas if workers == AUTO else workers), 1)
        if most < replicas:
            reasons[-1] = f"replicas = {most}: each needs a worker, and {LEAST_MEMORY} bytes of `memory`"
            replicas, cores = most, ()
    if workers == AUTO:
        fronts = replicas if usable >= ROOMY * replicas else 0
        workers = max(usable - fronts, replicas)
        reason = f"workers = {workers}: {words}" + (f", less one for each of {replicas} front processes" * (fronts > 1))
        reason += ", less one for the front process" * (fronts == 1)
        bearable = max((of.memory_nbytes - memory) // WORKER_NBYTES, replicas)
        if bearable < workers:
            workers = bearable
            reason = (
                f"workers = {workers}: {of.memory_nbytes / 2**30:.3g} GiB of memory, less `memory`, at 128 MiB each"
            )
        reasons.append(reason)
    return Sizing(replicas, workers, cores, tuple(reasons))


def shares(sizing: Sizing) -> list[int]:
    """The workers of each loader: by its cores where it has some of its own, else the same for all."""
    count = sizing.replicas
    if not sizing.cores:
        return [sizing.workers // count + (index < sizing.workers % count) for index in range(count)]
    # A node's cores are shared by its loaders.
    weights = [len(own) / sizing.cores.count(own) for own in sizing.cores]
    exact = [1 + (sizing.workers - count) * weight / sum(weights) for weight in weights]
    found = [math.floor(part) for part in exact]
    by_rest = sorted(range(count), key=lambda at: found[at] - exact[at])
    for at in by_rest[: sizing.workers - sum(found)]:
        found[at] += 1
    return found


def described(sizing: Sizing) -> list[str]:
    """What was chosen and why, a line each."""
    lines = list(sizing.reasons)
    lines += [f"loader {at} keeps to cores {_ranges(own)}" for at, own in enumerate(sizing.cores)]
    return lines


def _ranges(cores: Sequence[int]) -> str:
    """`0-3,8`."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and parts[-1][-1] == core - 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
