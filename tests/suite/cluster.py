"""What a cluster does with a Deployment of loaders, with real processes on this host: `Cluster`.

Commands, variables, probes and grace periods are read out of the manifest. Each pod has an address of its own on the
loopback network, where `0.0.0.0` of its variables is. A kubelet (a thread a pod) asks its probes, runs `preStop`,
signals and kills; the Deployment's strategy says in which order pods are replaced. What is not here: a scheduler,
limits, volumes but hostPath.
"""

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

Manifest = dict[str, Any]

READY_S = 120.0
"""A loader that is not ready by then never will be: on two busy cores it takes some seconds."""

NAME_LAG_S = 1.0
"""How late the name service says what is ready now."""

LOOK_S = 0.1

SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(eq=False)
class Pod:
    """A loader's process, and the kubelet's thread that looks after it."""

    manifest: Manifest
    """Of the Deployment's template."""
    address: str
    log: Path
    is_ready: bool = False
    is_terminating: bool = False
    exit_code: int | None = None
    started_at: float = 0.0
    ready_after_s: float = 0.0
    """Of its start."""
    killed: list[str] = field(default_factory=list)
    """Why the kubelet has killed it."""
    process: "subprocess.Popen[bytes]" = field(init=False)
    gone: threading.Event = field(default_factory=threading.Event)

    @property
    def container(self) -> Manifest:
        (one,) = self.manifest["spec"]["containers"]
        found: Manifest = one
        return found

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FEEDLINE_")}
        self.started_at = time.monotonic()
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "feedline_server", "serve"],  # the image's command
                env=environment | dict(self.environment()),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        threading.Thread(target=self._look_after, name=f"kubelet {self.address}", daemon=True).start()

    def environment(self) -> Iterator[tuple[str, str]]:
        for item in self.container["env"]:
            if "value" in item:
                value = str(item["value"]).replace("0.0.0.0", self.address)
                yield item["name"], self._on_host(value) if item["name"] == "FEEDLINE_DATA" else value
            else:
                reference = item["valueFrom"]["resourceFieldRef"]
                assert (reference["resource"], reference["divisor"]) == ("requests.cpu", "1")
                yield item["name"], str(math.ceil(float(self.container["resources"]["requests"]["cpu"])))

    def _on_host(self, path: str) -> str:
        """Where a path of the container is: its only volume of data is a folder of the host."""
        (mount,) = [mount for mount in self.container["volumeMounts"] if mount["name"] == "data"]
        (volume,) = [volume for volume in self.manifest["spec"]["volumes"] if volume["name"] == "data"]
        return path.replace(mount["mountPath"], volume["hostPath"]["path"], 1)

    # ---- the kubelet ----

    def probe(self, name: str) -> bool:
        probe = self.container[name]
        target = f"{self.address}:{probe['grpc']['port']}"
        with closing(grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])) as channel:
            request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=probe["timeoutSeconds"])
            except grpc.RpcError:
                return False
        return bool(answer.status == SERVING)

    def _look_after(self) -> None:
        due = {"startupProbe": time.monotonic()}
        failures = dict.fromkeys(("startupProbe", "livenessProbe", "readinessProbe"), 0)
        while self.process.poll() is None:
            for name in [name for name, at in due.items() if at <= time.monotonic()]:
                probe = self.container[name]
                due[name] = time.monotonic() + probe["periodSeconds"]
                is_well = self.probe(name)
                failures[name] = 0 if is_well else failures[name] + 1
                if name == "startupProbe" and is_well:
                    due = dict.fromkeys(("livenessProbe", "readinessProbe"), time.monotonic())
                    break
                if name == "readinessProbe" and is_well:
                    self.is_ready = not self.is_terminating
                    self.ready_after_s = self.ready_after_s or time.monotonic() - self.started_at
                if failures[name] >= probe["failureThreshold"]:
                    if name == "readinessProbe":
                        self.is_ready = False
                    else:
                        self.killed.append(f"{name} failed {failures[name]} times")
                        self.process.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LOOK_S)
        self.exit_code = self.process.wait()
        self.is_ready = False
        self.gone.set()

    def terminate(self) -> None:
        """Delete it, and do not wait: no address from now on, `preStop`, SIGTERM, and SIGKILL when its time is over."""
        self.is_terminating, self.is_ready = True, False
        threading.Thread(target=self._terminate, name=f"end {self.address}", daemon=True).start()

    def _terminate(self) -> None:
        until = time.monotonic() + self.manifest["spec"]["terminationGracePeriodSeconds"]
        self.gone.wait(self.container["lifecycle"]["preStop"]["sleep"]["seconds"])
        self.process.send_signal(signal.SIGTERM)
        while not self.gone.wait(LOOK_S):
            if time.monotonic() > until:
                self.killed.append("it ran on beyond terminationGracePeriodSeconds")
                self.process.kill()
                return

    def lose(self, silent_s: float) -> None:
        """Its node is lost: nothing is heard of it, and then it is no more."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        time.sleep(silent_s)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()


class Cluster:
    """The pods of one Deployment. Methods block until what they order has happened."""

    def __init__(self, deployment: Manifest, folder: Path) -> None:
        self.deployment = deployment
        self._folder = folder
        self._numbers = itertools.count(1)
        self.pods: list[Pod] = []
        """All that there ever were."""
        self._names: list[tuple[float, tuple[str, ...]]] = [(0.0, ())]
        self._lingering: set[str] = set()
        """Addresses of lost nodes, which the name service does not know to be lost."""
        self._closing = threading.Event()
        self._names_thread = threading.Thread(target=self._keep_names, name="name service", daemon=True)
        self._names_thread.start()

    # ---- what the name of the Service stands for ----

    def _keep_names(self) -> None:
        while not self._closing.wait(LOOK_S / 2):
            now = tuple(sorted({pod.address for pod in self.pods if pod.is_ready} | self._lingering))
            if now != self._names[-1][1]:
                self._names.append((time.monotonic(), now))

    def addresses(self) -> tuple[str, ...]:
        """What the name service answers now: what was true a moment ago."""
        then = time.monotonic() - NAME_LAG_S
        return next(addresses for at, addresses in reversed(self._names) if at <= then)

    # ---- what its controllers do ----

    @property
    def running(self) -> list[Pod]:
        return [pod for pod in self.pods if not pod.is_terminating and not pod.gone.is_set()]

    def add(self) -> Pod:
        number = next(self._numbers)
        pod = Pod(
            self.deployment["spec"]["template"],
            f"127.{os.getpid() % 200 + 20}.7.{number}",
            self._folder / f"{number}.log",
        )
        self.pods.append(pod)
        pod.start()
        return pod

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_S
        while not holds():
            if time.monotonic() > deadline or any(
                pod.gone.is_set() and not pod.is_terminating and pod.exit_code != -signal.SIGKILL for pod in self.pods
            ):
                raise AssertionError(
                    f"{what}\n" + "\n".join(f"{pod.address}: {pod.log.read_text()[-2000:]}" for pod in self.pods)
                )
            time.sleep(LOOK_S)

    def scale(self, replicas: int) -> None:
        surplus = self.running[replicas:]
        added = [self.add() for _ in range(replicas - len(self.running))]
        self.until(lambda: all(pod.is_ready for pod in added), "loaders do not become ready")
        self._end(surplus)

    def roll_out(self, deployment: Manifest) -> None:
        """Replace all pods, as the strategy says."""
        self.deployment = deployment
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        old = self.running
        for pod in old:
            new = self.add()
            self.until(lambda new=new: new.is_ready, "the new loader does not become ready")  # type: ignore[misc]
            time.sleep(deployment["spec"]["minReadySeconds"])
            pod.terminate()
        self._end(old)

    def evict(self, pod: Pod) -> None:
        """Empty its node: it goes, and another one is started."""
        pod.terminate()
        new = self.add()
        self.until(lambda: new.is_ready, "the loader that takes its place does not become ready")
        self._end([pod])

    def lose_node(self, pod: Pod, silent_s: float) -> None:
        """Its node is lost; the name service has its address until another loader has taken its place."""
        self._lingering.add(pod.address)
        pod.lose(silent_s)
        pod.gone.wait(READY_S)
        new = self.add()
        self.until(lambda: new.is_ready, "the loader that takes its place does not become ready")
        self._lingering.discard(pod.address)

    def _end(self, pods: list[Pod]) -> None:
        for pod in pods:
            if not pod.is_terminating:
                pod.terminate()
        for pod in pods:
            assert pod.gone.wait(READY_S), f"{pod.address} does not end"

    def close(self) -> None:
        """End all pods at once."""
        self._closing.set()
        for pod in self.pods:
            if not pod.gone.is_set():
                pod.is_terminating = True
                with suppress(psutil.NoSuchProcess):
                    pod.process.send_signal(signal.SIGCONT)
                    pod.process.kill()
                pod.gone.wait(READY_S)
        self._names_thread.join(READY_S)
