"""What the chart's manifests do to a training: real loaders, started, asked, signalled and killed as they order."""

import faulthandler
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster import Cluster, Manifest

import feedline

pytestmark = [pytest.mark.engines, pytest.mark.slow, pytest.mark.timeout(600)]

SAMPLES = 40_009
"""Prime."""

ROWS = 8

STEP_S = 0.05
"""What a step takes while the cluster is disturbed; afterwards none, so that the epoch ends soon."""

WITHIN_S = 15.0
"""A trainer that waits longer for a batch while there is a loader was forgotten."""

SILENT_S = 4.0
"""How long a lost node is silent before its connections break."""

FOUND_S = 8.0
"""A trainer asks for addresses every 5 s."""

NAME = "digits.training.svc"


@dataclass
class Epoch:
    """What a trainer was given, and how long it waited."""

    ids: list[int] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    answered: dict[str, int] = field(default_factory=dict)
    lanes: set[str] = field(default_factory=set)
    disturbed_from: int = 0
    disturbed_to: int = 0


@pytest.fixture(autouse=True)
def _patience() -> None:
    """An epoch takes minutes; the traceback that pytest prints after one would look like a failure."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, numbered_columns: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("node")
    numbered_columns(folder / "digits", SAMPLES, (64,))
    return folder


@pytest.fixture
def deployment(
    data: Path, render: Callable[..., list[Manifest]], one: Callable[..., Manifest]
) -> Callable[..., Manifest]:
    """The chart's Deployment, with data of this host. Pods and trainers share no memory: they are on other hosts."""

    def made(*sets: str) -> Manifest:
        words = ["insecure=true", "data.kind=hostPath", f"data.hostPath={data}", "data.path=digits", "workers=1"]
        words += ["memory=64MiB", "env[0].name=FEEDLINE_SHM_LANE", *sets]
        arguments = [word for one in words for word in ("--set", one)]
        return one(render(*arguments, "--set-string", "env[0].value=false"), "Deployment")

    return made


@pytest.fixture
def cluster(deployment: Callable[..., Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Nothing runs in it yet. NAME is resolved to the addresses of its pods that are ready."""
    ask = socket.getaddrinfo
    with closing(Cluster(deployment(), tmp_path)) as made:

        def answer(host: Any, port: Any, *args: Any, **more: Any) -> Any:
            if host != NAME:
                return ask(host, port, *args, **more)
            found = [one for address in made.addresses() for one in ask(address, port, *args, **more)]
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "no pod is ready")
            return found

        monkeypatch.setattr(socket, "getaddrinfo", answer)
        yield made


def read(disturb: Callable[[], None]) -> Epoch:
    """Read an epoch while the cluster is disturbed in its middle."""
    epoch, failed = Epoch(), []

    def run() -> None:
        try:
            disturb()
        except BaseException as error:
            failed.append(error)

    disturber = threading.Thread(target=run, name="disturber", daemon=True)
    with feedline.connect(f"{NAME}:50051", timeout_s=60) as remote:
        began = time.monotonic()
        for batch in remote.epoch(3, batch_size=ROWS, seed=1, prefetch=32):
            epoch.waits_s.append(time.monotonic() - began)
            assert np.all(batch["x"] == batch.ids[:, None])
            epoch.ids += batch.ids.tolist()
            if batch.index == 50:
                disturber.start()
            if batch.index % 20 == 0:
                for one in remote.stats.replicas:
                    epoch.answered[one.address] = max(one.answered, epoch.answered.get(one.address, 0))
                    epoch.lanes |= {one.lane} if one.state == "connected" else set()
            if disturber.is_alive():
                epoch.disturbed_to = batch.index
                time.sleep(STEP_S)
            began = time.monotonic()
    if failed:
        raise failed[0]
    assert not disturber.is_alive(), "the epoch was over before the cluster was quiet; it needs more samples"
    return epoch


def check(epoch: Epoch, cluster: Cluster, without_loader_s: float = 0.0) -> None:
    """Every sample came once, no wait was long, and nothing was killed that was to end by itself."""
    waits = sorted(epoch.waits_s)
    print(  # noqa: T201 - the figures of docs/kubernetes.md: pytest -s
        f"\n{len(waits)} batches, {epoch.disturbed_to} of them while disturbed; longest wait {waits[-1]:.2f} s, "
        f"second {waits[-2]:.2f} s; {len(epoch.answered)} loaders answered {sorted(epoch.answered.values())}"
    )
    assert Counter(epoch.ids) == Counter(range(SAMPLES))
    assert waits[-1] < WITHIN_S + without_loader_s
    assert "tcp" in epoch.lanes
    for pod in cluster.pods:
        assert pod.killed == [], f"{pod.address}: {pod.killed}\n{pod.log.read_text()}"


def test_a_fleet_that_is_replaced_in_mid_epoch_costs_its_trainer_nothing(
    cluster: Cluster, deployment: Callable[..., Manifest]
) -> None:
    cluster.scale(2)
    old = list(cluster.pods)

    epoch = read(lambda: cluster.roll_out(deployment("podAnnotations.version=two", "maxTrainers=32")))

    check(epoch, cluster)
    assert [pod.exit_code for pod in old] == [0, 0]
    new = {f"{pod.address}:50051" for pod in cluster.running}
    assert len(new) == 2
    assert all(epoch.answered.get(address, 0) > 0 for address in new)


def test_a_fleet_that_grows_from_one_to_five_and_shrinks_to_two_in_mid_epoch(cluster: Cluster) -> None:
    cluster.scale(1)

    def disturb() -> None:
        cluster.scale(5)
        time.sleep(FOUND_S)
        cluster.scale(2)

    epoch = read(disturb)

    check(epoch, cluster)
    assert sum(answered > 0 for answered in epoch.answered.values()) == 5
    assert [pod.exit_code for pod in cluster.pods if pod.is_terminating] == [0, 0, 0]


def test_a_loader_that_is_evicted_in_mid_epoch(cluster: Cluster) -> None:
    cluster.scale(2)
    evicted = cluster.pods[0]

    epoch = read(lambda: cluster.evict(evicted))

    check(epoch, cluster)
    assert evicted.exit_code == 0


def test_the_only_loader_that_is_evicted_is_waited_for(cluster: Cluster) -> None:
    """Its place is taken by another one, which takes its time to start."""
    cluster.scale(1)

    epoch = read(lambda: cluster.evict(cluster.pods[0]))

    check(epoch, cluster, without_loader_s=cluster.pods[1].ready_after_s)
    assert sum(answered > 0 for answered in epoch.answered.values()) == 2


def test_a_node_that_is_lost_in_mid_epoch(cluster: Cluster) -> None:
    cluster.scale(2)
    lost = cluster.pods[0]

    def disturb() -> None:
        cluster.lose_node(lost, SILENT_S)
        time.sleep(FOUND_S)  # else the rest of the epoch is read before its successor is known

    epoch = read(disturb)

    check(epoch, cluster)
    assert lost.exit_code == -9
    assert len(epoch.answered) == 3  # the one that took its place was found
