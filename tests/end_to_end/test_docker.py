"""The images and the compose file, tried on a real engine: built, started, trained from, broken, stopped, removed.

Every container, network, volume and image made here belongs to a project of its own and is gone at the end.
"""

import faulthandler
import gc
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from time import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import feedline

docker = pytest.importorskip("docker", reason="the docker SDK for Python is not installed")

ROOT = Path(__file__).parents[2]
BASE = "python:3.11-slim-bookworm"
TITLES = {"feedline loader", "feedline demo trainer"}
"""What the stages of a build are called (a label), the thrown-away ones too."""

BUILD_S = 1200.0
"""TensorFlow is some 300 MB to fetch and 1.5 GB to unpack."""

COMMAND_S = 180.0
"""Starting, training and stopping: each takes seconds on two busy cores."""

HEALTHY_S = 90
"""The engine looks every 10 s; a loader that is not healthy by then never will be."""

ROWS = 3
"""Of a batch of the disturbed epoch: 499 batches, so that there is a middle."""

KILLED_AT = 150

WITHIN_S = 15.0
"""A trainer that waits longer than this for a batch while a loader is there was forgotten."""

EPOCH_OF_A_TRAINER = """
import hashlib, json, time
import feedline

def digest(batch):
    return hashlib.blake2b(b"".join(array.tobytes() for array in (*batch.as_tuple(), batch.ids))).hexdigest()

with feedline.connect("loader:50051") as remote:
    feed = remote.feed(batch_size=3, seed=5, prefetch=32)

    def until(holds):
        deadline = time.monotonic() + 120
        while not holds():
            assert time.monotonic() < deadline, remote.stats
            feed.fetch(feed.plan.step(0, 0))

    def answered():
        return {one.address: one.answered for one in remote.stats.replicas if one.state == "connected"}

    until(lambda: len(answered()) == 3 and all(answered().values()))
    began = time.monotonic()
    for batch in feed.epoch(1):
        waited_s = time.monotonic() - began
        seen = {"ids": batch.ids.tolist(), "digest": digest(batch), "replicas": remote.replicas, "waited_s": waited_s}
        print(json.dumps(seen), flush=True)
        time.sleep(0.005)  # what a step takes
        if batch.index == 200:
            until(lambda: len(answered()) == 2)
        if batch.index == 300:
            until(lambda: len(answered()) == 3)
            before = answered()
            until(lambda: all(answered().get(address, 0) > number for address, number in before.items()))
        began = time.monotonic()
"""
"""At two places it reads other batches until it has noticed, so that what happens to it happens in mid-epoch."""

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(2 * BUILD_S)]

Engine = Any  # docker.DockerClient; the SDK publishes no types
Container = Any


@dataclass(frozen=True, slots=True)
class Project:
    """A compose project under a name of its own."""

    name: str
    compose: tuple[str, ...]
    engine: Engine

    def run(self, *words: str, timeout_s: float = COMMAND_S, **variables: str) -> "subprocess.CompletedProcess[str]":
        """`docker compose WORDS …` with FEEDLINE_… variables; what is not named is not set."""
        return subprocess.run(
            [*self.compose, "--project-name", self.name, "--profile", "demo", *words],
            cwd=ROOT,
            env=self._environment(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def do(self, *words: str, timeout_s: float = COMMAND_S, **variables: str) -> str:
        """The same, and it must succeed; its standard output."""
        done = self.run(*words, timeout_s=timeout_s, **variables)
        assert done.returncode == 0, (
            f"{words} ended with {done.returncode}:\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
        )
        return done.stdout

    @contextmanager
    def trains(self, program: str, timeout_s: float) -> Iterator[Iterator[str]]:
        """Run a program in a trainer container; what it says, line by line while it runs. It must end well."""
        words = [*self.compose, "--project-name", self.name, "--profile", "demo", "run", "--rm", "-T", "--no-deps"]
        with TemporaryFile("w+") as errors:
            trainer = subprocess.Popen(
                [*words, "trainer", "python", "-c", program],
                cwd=ROOT,
                env=self._environment({}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            assert trainer.stdout is not None
            with trainer.stdout:
                yield iter(trainer.stdout)
            code = trainer.wait(timeout_s)
            errors.seek(0)
            assert code == 0, f"the trainer ended with {code}:\n{errors.read()[-8000:]}"

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        # Set to nothing, not left out: a developer's .env would fill them in.
        unset = dict.fromkeys(("FEEDLINE_DATA", "FEEDLINE_USER", "FEEDLINE_WORKERS", "FEEDLINE_MEMORY"), "")
        return os.environ | unset | {"FEEDLINE_PORT": "0"} | variables  # 0: any free port

    def loaders(self) -> list[Container]:
        """The loader's containers, running or not."""
        labels = [f"com.docker.compose.project={self.name}", "com.docker.compose.service=loader"]
        found: list[Container] = self.engine.containers.list(all=True, filters={"label": labels})
        return found

    def up(self, replicas: int = 1, **variables: str) -> list[Container]:
        """Start loaders and wait until the engine calls them healthy."""
        self.do("up", "--detach", "--scale", f"loader={replicas}", "loader", timeout_s=COMMAND_S, **variables)
        loaders = self.loaders()
        assert len(loaders) == replicas
        for loader in loaders:
            self._wait_until_healthy(loader)
        return loaders

    def _wait_until_healthy(self, container: Container) -> None:
        # From the engine's first remembered event on: it may have become healthy before anybody listened.
        events = self.engine.events(
            since=1,
            until=int(time()) + HEALTHY_S,
            filters={"container": container.id, "type": "container"},
            decode=True,
        )
        with closing(events):
            for event in events:
                if event["Action"] == "health_status: healthy":
                    return
                if event["Action"] in {"die", "health_status: unhealthy"}:
                    break
        raise AssertionError(f"the loader did not become healthy; its log:\n{container.logs().decode()}")


@pytest.fixture(scope="module", autouse=True)
def _patience() -> None:
    """A build takes minutes; the traceback that pytest prints after one would look like a failure."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    client = _connected()
    with closing(client):
        try:
            client.images.get(BASE)
        except docker.errors.ImageNotFound:
            try:
                client.images.pull(BASE)
            except docker.errors.APIError as error:
                pytest.skip(f"the Docker engine cannot get {BASE}: {error}")
        yield client


@pytest.fixture(scope="module")
def compose() -> tuple[str, ...]:
    """The compose command line: version 2 is a plugin of docker, version 1 a program of its own."""
    plugin = ["docker", "compose", "version"]
    if shutil.which("docker") and subprocess.run(plugin, capture_output=True, check=False).returncode == 0:
        return ("docker", "compose")
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    pytest.skip("neither `docker compose` nor `docker-compose` is installed")


@pytest.fixture(scope="module")
def built(engine: Engine, compose: tuple[str, ...]) -> Iterator[Project]:
    """The project with both images built."""
    project = Project(f"feedline-test-{secrets.token_hex(4)}", compose, engine)
    there_before = _stages(engine)
    try:
        project.do("build", timeout_s=BUILD_S)
        # A developer's own stages stay, as a cache. Looked up now: later there may be another build's.
        made_here = _stages(engine) - there_before
        yield project
    finally:
        project.do("down", "--volumes", "--remove-orphans", "--rmi", "local")
    _remove(engine, made_here)


@pytest.fixture
def project(built: Project) -> Iterator[Project]:
    """The project; its containers, networks and volumes are gone after each test."""
    yield built
    built.do("down", "--volumes", "--remove-orphans")
    labels = {"label": f"com.docker.compose.project={built.name}"}
    assert not built.engine.containers.list(all=True, filters=labels)
    assert not built.engine.networks.list(filters=labels)
    assert not built.engine.volumes.list(filters=labels)


def test_a_trainer_container_learns_the_demo_from_a_loader_that_nothing_is_mounted_in(project: Project) -> None:
    project.up()

    training = project.run("run", "--rm", "-T", "trainer")

    output = training.stdout + training.stderr
    assert training.returncode == 0, output
    found = re.search(r"validation accuracy\D*([\d.]+) ?%", output)
    assert found is not None, output
    assert float(found[1]) >= 95


def test_a_trainer_container_that_names_two_replicas_is_fed_by_both(project: Project) -> None:
    first = _free_pair()
    ports = f"{first}-{first + 1}"
    loaders = project.up(replicas=2, FEEDLINE_PORT=ports)

    target = ",".join(f"{loader.name}:50051" for loader in loaders)
    command = ["trainer", "feedline", "demo-train", target]
    training = project.run("run", "--rm", "-T", "--no-deps", *command, FEEDLINE_PORT=ports)

    assert training.returncode == 0, training.stdout + training.stderr
    for loader in loaders:
        with feedline.connect(_address(loader)) as remote:
            assert remote.status().counters["batches"] > 0


def test_a_trainer_container_does_not_notice_that_one_of_three_loaders_is_killed_and_another_one_added(
    project: Project,
) -> None:
    """The trainer knows the service's name and nothing else, and reads by it while its loaders change."""
    loaders = project.up(replicas=3)
    with feedline.connect(_address(loaders[0])) as remote:
        undisturbed = [_digest(batch) for batch in remote.epoch(1, batch_size=ROWS, seed=5)]

    ids, digests, replicas, waited_s, killed = [], [], [], [], False
    with project.trains(EPOCH_OF_A_TRAINER, timeout_s=COMMAND_S) as lines:
        for line in lines:
            seen = json.loads(line)
            ids += seen["ids"]
            digests.append(seen["digest"])
            replicas.append(seen["replicas"])
            waited_s.append(seen["waited_s"])
            if len(digests) == KILLED_AT:
                loaders[1].kill()  # SIGKILL
                killed = True
            if killed and replicas[-1] == 2:  # the trainer has noticed and goes on; now an operator replaces it
                killed = False
                loaders[1].remove()
                project.do("up", "--detach", "--no-recreate", "--scale", "loader=3", "loader")

    assert Counter(ids) == Counter(range(1497))
    assert digests == undisturbed
    assert max(waited_s) < WITHIN_S
    assert (max(replicas[:KILLED_AT]), min(replicas[KILLED_AT:]), replicas[-1]) == (3, 2, 3)
    (added,) = [loader for loader in project.loaders() if loader.id not in {one.id for one in loaders}]
    with feedline.connect(_address(added)) as remote:
        assert remote.status().counters["batches"] > 0


def test_the_demo_needs_no_volume(project: Project) -> None:
    """Loaders that start together filled one volume at once, and the engine failed: `mkdir …/train: file exists`."""
    loaders = project.up(replicas=3)

    mounts = [mount for loader in loaders for mount in loader.attrs["Mounts"]]
    volumes = project.engine.volumes.list(filters={"label": f"com.docker.compose.project={project.name}"})
    assert {(mount["Type"], mount["Source"]) for mount in mounts} == {("bind", "/dev/null")}
    assert volumes == []


def test_a_mounted_folder_is_served_instead_of_the_demo(
    project: Project, tmp_path: Path, numbered_columns: Callable[..., dict[str, NDArray[Any]]]
) -> None:
    numbered_columns(tmp_path / "mine", 12, (2,))

    (loader,) = project.up(FEEDLINE_DATA=str(tmp_path / "mine"))

    with feedline.connect(_address(loader)) as remote:
        (batch,) = remote.epoch(batch_size=12, order="sequential")
    assert batch["y"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_a_folder_that_only_its_owner_may_read_is_served_as_its_owner(
    project: Project, tmp_path: Path, numbered_columns: Callable[..., dict[str, NDArray[Any]]]
) -> None:
    folder = tmp_path / "mine"
    numbered_columns(folder, 12, (2,))
    folder.chmod(0o700)

    (loader,) = project.up(FEEDLINE_DATA=str(folder), FEEDLINE_USER=str(os.getuid()))

    with feedline.connect(_address(loader)) as remote:
        assert dict(remote.dataset().views) == {"train": 12}


def test_the_loader_image_holds_no_framework_and_no_compiler(built: Project) -> None:
    # numpy and python are named to see that what is there would be found.
    look = (
        "import shutil; from importlib.util import find_spec;"
        "print([name for name in 'numpy keras tensorflow torch jax sklearn scipy'.split() if find_spec(name)],"
        "[name for name in 'python gcc cc g++ c++ clang ld make'.split() if shutil.which(name)])"
    )

    found = built.do("run", "--rm", "-T", "--no-deps", "--entrypoint", "python", "loader", "-c", look)

    assert found.strip() == "['numpy'] ['python']"


def test_the_loader_is_process_1_and_can_write_nothing_but_tmp(project: Project) -> None:
    (loader,) = project.up()

    command = _inside(loader, "cat", "/proc/1/cmdline").split("\0")
    status = dict(re.findall(r"^(\w+):\s*(.*)$", _inside(loader, "cat", "/proc/1/status"), re.MULTILINE))
    # What only root may list is none of the loader's; -xdev leaves out what is in /tmp, which is memory, and the null
    # device, which /data is where nothing is mounted, keeps nothing. (find's own -type believes the folder's listing,
    # which has the file that the device is mounted over.)
    find = "find / -xdev -writable ! -exec test -c {} ';' -print 2>/dev/null || true"
    writable = _inside(loader, "sh", "-c", find)

    assert command[:4] == ["python", "-m", "feedline_server", "serve"]
    assert status["Uid"].split() == ["10001", "10001", "10001", "10001"]
    assert status["CapBnd"] == "0000000000000000"
    assert status["NoNewPrivs"] == "1"
    assert writable == "/tmp\n"


def test_a_worker_killed_inside_the_container_costs_no_sample(project: Project) -> None:
    """With one worker, everything after the first batches comes from its successor."""
    (loader,) = project.up(FEEDLINE_WORKERS="1")

    with feedline.connect(_address(loader)) as remote:
        epoch = remote.epoch(batch_size=16, prefetch=4)
        ids = [next(epoch).ids]
        (first,) = _workers(loader)
        _inside(loader, "python", "-c", f"import os; os.kill({first}, 9)")
        ids += [batch.ids for batch in epoch]
        restarted = remote.status().counters["workers_restarted"]

    assert sorted(np.concatenate(ids).tolist()) == list(range(1497))
    assert restarted == 1
    (second,) = _workers(loader)
    assert second != first


def test_docker_stop_lets_the_loader_end_by_itself(project: Project) -> None:
    (loader,) = project.up()

    project.do("stop", "loader")

    loader.reload()
    log = loader.logs().decode()
    assert loader.attrs["State"]["ExitCode"] == 0, log  # 137 would be the engine's kill after the grace time
    assert '"event": "stopped"' in log.splitlines()[-1]


def _digest(batch: feedline.Batch) -> str:
    return hashlib.blake2b(b"".join(array.tobytes() for array in (*batch.as_tuple(), batch.ids))).hexdigest()


def _connected() -> Engine:
    """The SDK's client of the engine; skips where no engine answers."""
    try:
        return docker.from_env(timeout=COMMAND_S)  # asks for the engine's version
    except docker.errors.DockerException as error:
        reason = str(error)
    # The SDK leaves its socket to the garbage collector, whose warning would fail whatever test runs then.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    pytest.skip(f"no Docker engine answers: {reason}")


def _address(loader: Container) -> str:
    """Where the loader is reached from this host."""
    loader.reload()
    (published,) = loader.ports["50051/tcp"]
    assert published["HostIp"] == "127.0.0.1"
    return f"127.0.0.1:{published['HostPort']}"


def _inside(container: Container, *command: str) -> str:
    """Run a command in the container, as its user; its standard output."""
    code, (out, err) = container.exec_run(list(command), demux=True)
    assert code == 0, f"{command} ended with {code}: {err}"
    return (out or b"").decode()


def _workers(loader: Container) -> list[int]:
    """Process ids of the loader's workers, as the container counts."""
    look = (
        "from pathlib import Path\n"
        "for process in Path('/proc').glob('[0-9]*'):\n"
        "    if b'feedline_server.workers.worker' in (process / 'cmdline').read_bytes().split(b'\\0'):\n"
        "        print(process.name)"
    )
    return [int(line) for line in _inside(loader, "python", "-c", look).split()]


def _free_pair() -> int:
    """The first of two neighbouring ports that are free."""
    while True:
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            second.bind(("127.0.0.1", port + 1))
            return port


def _stages(engine: Engine) -> set[str]:
    """What builds of ours left without a name: the stages that the images were copied from."""
    images = engine.images.list(filters={"dangling": True})
    return {image.id for image in images if image.labels.get("org.opencontainers.image.title") in TITLES}


def _remove(engine: Engine, images: set[str]) -> None:
    for image in images:
        with suppress(docker.errors.ImageNotFound):  # it went with another that was made from it
            engine.images.remove(image)
