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
import signal
import socket
import subprocess
import sys
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic, sleep, time
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from numpy.typing import NDArray

import feedline

docker = pytest.importorskip("docker", reason="the docker SDK for Python is not installed")

ROOT = Path(__file__).parents[2]
BASE = "python:3.11-slim-bookworm"
PROMETHEUS = "prom/prometheus:v2.53.4"
TITLES = {"feedline loader", "feedline demo trainer"}
"""What the stages of a build are called (a label), the thrown-away ones too."""

BUILD_S = 1200.0
"""TensorFlow is some 300 MB to fetch and 1.5 GB to unpack."""

COMMAND_S = 180.0
"""Starting, training and stopping: each takes seconds on two busy cores."""

HEALTHY_S = 90
"""The engine looks every 10 s; a loader that is not healthy by then never will be."""

SBOM = "/opt/feedline/sbom.cdx.json"

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
        unset = dict.fromkeys(
            ("FEEDLINE_DATA", "FEEDLINE_USER", "FEEDLINE_WORKERS", "FEEDLINE_MEMORY", "FEEDLINE_RESTART"), ""
        )
        # 0: any free port
        return os.environ | unset | {"FEEDLINE_PORT": "0", "FEEDLINE_TCP_PORT": "0"} | variables

    def image(self, service: str) -> Any:
        """The image that a service was built into; the versions of compose name it differently."""
        return next(
            self.engine.images.get(f"{self.name}{between}{service}")
            for between in "-_"
            if self.engine.images.list(f"{self.name}{between}{service}")
        )

    def loaders(self) -> list[Container]:
        """The loader's containers, running or not."""
        return self.containers("loader")

    def containers(self, service: str) -> list[Container]:
        """A service's containers, running or not."""
        labels = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
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


@pytest.fixture(autouse=True)
def _patience() -> None:
    """A build takes minutes; the traceback that pytest prints after one would look like a failure."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    client = _connected()
    with closing(client):
        _need_image(client, BASE)
        yield client


@pytest.fixture(scope="module", params=["docker compose", "docker-compose"])
def compose(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The compose command line: version 2 is a plugin of docker, version 1 a program of its own. Each has all tests."""
    words: tuple[str, ...] = tuple(request.param.split())
    is_there = shutil.which(words[0]) and subprocess.run([*words, "version"], capture_output=True, check=False)
    if not is_there or is_there.returncode != 0:
        pytest.skip(f"`{request.param}` is not installed")
    return words


@pytest.fixture(scope="module")
def built(engine: Engine, compose: tuple[str, ...]) -> Iterator[Project]:
    """The project with both images built."""
    faulthandler.cancel_dump_traceback_later()  # before `_patience` of the test that is the first to need it
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


def test_a_trainer_on_this_host_has_the_tcp_lane(project: Project) -> None:
    """It fell to gRPC without a word, because only one port was published."""
    free = _free_pair()
    project.up(FEEDLINE_PORT=str(free), FEEDLINE_TCP_PORT="50061")

    with feedline.connect(f"127.0.0.1:{free}") as remote:
        ids = np.concatenate([batch.ids for batch in remote.epoch(batch_size=16)])
        ids = np.concatenate([batch.ids for batch in remote.epoch(1, batch_size=16)])
        (replica,) = remote.stats.replicas
        sent = remote.status().counters["bytes_tcp"]

    assert sorted(ids.tolist()) == list(range(1497))
    assert replica.lane == "tcp"
    assert sent > 1497 * 64 * 4


def test_a_lane_that_is_published_under_another_number_is_said_in_one_line(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    (loader,) = project.up()  # any free port

    with feedline.connect(_address(loader)) as remote:
        ids = np.concatenate([batch.ids for batch in remote.epoch(batch_size=16)])

    assert sorted(ids.tolist()) == list(range(1497))
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith(f"no tcp lane to {_address(loader)}, batches come by gRPC and cost several times")


def test_a_loader_whose_settings_make_no_sense_stops_and_says_so(project: Project) -> None:
    """It was started again and again, for ever."""
    project.do("up", "--detach", "loader", FEEDLINE_MEMORY="lots")
    (loader,) = project.loaders()

    ended = loader.wait(timeout=HEALTHY_S)
    loader.reload()

    log = loader.logs().decode().splitlines()
    assert ended["StatusCode"] == 0
    assert (loader.status, loader.attrs["RestartCount"]) == ("exited", 0)
    assert log == [
        "feedline serve: environment: FEEDLINE_MEMORY: found 'lots'; wanted a size, such as 512MiB or 2GB",
        "feedline serve: another start would end the same way; exit code 0 (FEEDLINE_PERMANENT_EXIT_CODE): change it, "
        "then start it again",
    ]


def test_a_loader_that_is_killed_is_started_again(project: Project) -> None:
    """From this host: inside, process 1 hears no signal that it does not handle, and who asks the engine means it."""
    (loader,) = project.up(FEEDLINE_USER=str(os.getuid()))
    loader.reload()
    since = int(time())

    os.kill(loader.attrs["State"]["Pid"], signal.SIGKILL)

    filters = {"container": loader.id, "event": "start"}
    restarts = project.engine.events(since=since, until=int(time()) + HEALTHY_S, filters=filters, decode=True)
    with closing(restarts):
        assert next(iter(restarts))["Action"] == "start"
    loader.reload()
    assert loader.attrs["RestartCount"] == 1


def test_up_status_and_down_start_show_and_end_a_fleet_in_containers(
    project: Project, tmp_path: Path, numbered_columns: Callable[..., dict[str, NDArray[Any]]]
) -> None:
    numbered_columns(tmp_path / "mine", 600, (2,))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / project.compose[0]).symlink_to(str(shutil.which(project.compose[0])))  # the other Compose is not found
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    environment = {**os.environ, "PATH": f"{programs}:/usr/bin/nowhere", "XDG_RUNTIME_DIR": str(directory)}
    name = project.name.removeprefix("feedline-")

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "feedline", *words], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=BUILD_S, check=False,
        )  # fmt: skip

    up = run("up", "--on", "compose", "--replicas", "2", "--workers", "1", name, str(tmp_path / "mine"))
    assert up.returncode == 0, up.stdout + up.stderr
    shown = run("status", name)
    (target,) = re.findall(r"^target: (.+)$", shown.stdout, re.MULTILINE)
    with feedline.connect(target) as remote:
        ids = [row for batch in remote.epoch(batch_size=4) for row in batch.ids.tolist()]
        answered = [one.answered for one in remote.stats.replicas]
    again = run("up", "--on", "compose", name, str(tmp_path / "mine"))
    down = run("down", name)
    gone = run("down", name)

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("1 worker ") == 2, shown.stdout
    assert sorted(ids) == list(range(600))
    assert len(answered) == 2
    assert all(answered)
    assert again.returncode == 1
    assert f"there is a fleet {name!r} on this host already" in again.stderr, again.stderr
    assert (down.returncode, gone.returncode) == (0, 1)
    assert project.loaders() == []


def test_the_commands_of_the_page_work_in_a_fresh_clone(
    project: Project, tmp_path: Path, numbered_columns: Callable[..., dict[str, NDArray[Any]]]
) -> None:
    """Line by line, with the images that are built already; ports 50051 to 50053 and 50061 to 50063 have to be free."""
    clone = tmp_path / "feedline"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for file in files:
        if (ROOT / file).is_file():
            (clone / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, clone / file)
    numbered_columns(tmp_path / "digits", 1797, (64,))
    page = (clone / "docs/docker.md").read_text()
    blocks = re.findall(r"(?<!-->\n)^```bash\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    said = []

    for line in [line for block in blocks for line in block.splitlines()]:
        words = line.partition("#")[0].replace("docker compose", " ".join(project.compose))
        words = words.replace(" exec ", " exec -T ").replace(" run ", " run -T ")
        environment = os.environ | {"COMPOSE_PROJECT_NAME": project.name, "HOME": str(tmp_path)}
        done = subprocess.run(
            ["sh", "-c", words], cwd=clone, env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)

    assert len(said) == 6
    assert re.search(r"delivered .* batches/s", said[1])  # the command that shows it feeding
    found = re.search(r"validation accuracy\D*([\d.]+) ?%", said[2])
    assert found is not None
    assert float(found[1]) >= 95
    assert len(project.loaders()) == 3


def test_docker_stop_lets_the_loader_end_by_itself(project: Project) -> None:
    (loader,) = project.up()

    project.do("stop", "loader")

    loader.reload()
    log = loader.logs().decode()
    assert loader.attrs["State"]["ExitCode"] == 0, log  # 137 would be the engine's kill after the grace time
    assert '"event": "stopped"' in log.splitlines()[-1]


def test_images_say_their_version_and_what_is_in_them(built: Project) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    labels = built.image("loader").labels

    listed = json.loads(built.do("run", "--rm", "-T", "--no-deps", "--entrypoint", "cat", "loader", SBOM))

    assert labels["org.opencontainers.image.version"] == version
    assert built.image("trainer").labels["org.opencontainers.image.version"] == version
    assert listed["bomFormat"] == "CycloneDX"
    parts = {part["name"] for part in listed["components"]}
    assert {"numpy", "grpcio", "h5py", "pyarrow", "opencv-python-headless", "cryptography"} <= parts
    assert not parts & {"tensorflow", "keras", "scikit-learn", "pip"}


def test_the_loaders_image_is_small_and_one_without_extras_smaller(built: Project) -> None:
    """What is beyond its base; with the libraries of every kind of data it was 460 MB."""
    engine = built.engine
    base = engine.images.get(BASE).attrs["Size"]
    tag = f"{built.name}-slim"
    build = [
        "docker",
        "build",
        "--network",
        "host",
        "-f",
        "server/Dockerfile",
        "-t",
        tag,
        "--build-arg",
        "EXTRAS=",
        ".",
    ]
    try:
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=BUILD_S)
        slim = engine.images.get(tag).attrs["Size"]
        shown = engine.containers.run(tag, ["inspect", "/opt/feedline/digits"], remove=True).decode()
    finally:
        with suppress(docker.errors.ImageNotFound):
            engine.images.remove(tag)

    whole = built.image("loader").attrs["Size"]
    assert (whole - base) / 1e6 <= 350
    assert (slim - base) / 1e6 <= 150
    assert "1,797" in shown or "1,497" in shown


def test_the_loaders_image_reads_every_kind_of_data(project: Project, tmp_path: Path) -> None:
    """What is left out of it (server/slim) is needed by none."""
    import cv2
    import h5py
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = np.arange(12)
    for name in ("arrow", "hdf5", "images/cat"):
        (tmp_path / name).mkdir(parents=True)
    pq.write_table(
        pa.table({"x": ids.astype(np.float32), "y": ids}), tmp_path / "arrow/table.parquet", compression="zstd"
    )
    with h5py.File(tmp_path / "hdf5/data.h5", "w") as file:
        file.create_dataset("x", data=ids.astype(np.float32), compression="gzip")
        file.create_dataset("y", data=ids)
    for number in ids:
        image = np.full((8, 8, 3), 20 * number, np.uint8)
        assert cv2.imwrite(str(tmp_path / f"images/cat/{number}.{'png' if number % 2 else 'jpg'}"), image)
    kinds = {"arrow": "arrow", "hdf5": "hdf5", "images": "class_folders"}
    size = "\nsize = [8, 8]"
    text = [
        f'[datasets.{name}]\npath = "{name}"\nkind = "{kind}"{size * (name == "images")}'
        for name, kind in kinds.items()
    ]
    (tmp_path / "loader.toml").write_text("\n".join(text))

    (loader,) = project.up(FEEDLINE_DATA=str(tmp_path), FEEDLINE_USER=str(os.getuid()))

    with feedline.connect(_address(loader)) as remote:
        for name in kinds:
            batches = remote.epoch(dataset=name, batch_size=5)
            assert sorted(np.concatenate([batch.ids for batch in batches]).tolist()) == list(range(12))


def test_prometheus_of_the_profile_metrics_scrapes_each_loader_and_knows_the_alerts(project: Project) -> None:
    _need_image(project.engine, PROMETHEUS)
    up = ("up", "--detach", "--scale", "loader=2", "loader", "prometheus")
    project.do("--profile", "metrics", *up, FEEDLINE_PROMETHEUS_PORT="0")
    (prometheus,) = project.containers("prometheus")

    workers, until = [], monotonic() + HEALTHY_S
    while len(workers) < 2 and monotonic() < until:
        sleep(0.5)  # Prometheus looks for loaders every 10 s; no event tells that it has found them
        with suppress(OSError):  # it is starting
            workers = _asked(prometheus, "query?query=feedline_workers")["result"]
    health = {"": "unknown"}
    while "unknown" in health.values() and monotonic() < until:
        sleep(0.5)  # a rule is `unknown` until it was evaluated for the first time
        (group,) = _asked(prometheus, "rules")["groups"]
        health = {rule["name"]: rule["health"] for rule in group["rules"]}

    assert len({one["metric"]["instance"] for one in workers}) == 2, prometheus.logs().decode()
    assert health == dict.fromkeys(
        ("FeedlineTrainerWaits", "FeedlineShortOfMemory", "FeedlineWorkersDie", "FeedlineBadSamples"), "ok"
    )


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


def _need_image(engine: Engine, name: str) -> None:
    """Have an image that is used as it is; skips where the engine cannot get it."""
    try:
        engine.images.get(name)
    except docker.errors.ImageNotFound:
        try:
            engine.images.pull(name)
        except docker.errors.APIError as error:
            pytest.skip(f"the Docker engine cannot get {name}: {error}")


def _asked(prometheus: Container, what: str) -> Any:
    """What Prometheus answers to a call of its HTTP interface."""
    prometheus.reload()
    (published,) = prometheus.ports["9090/tcp"]
    assert published["HostIp"] == "127.0.0.1"
    with urlopen(f"http://127.0.0.1:{published['HostPort']}/api/v1/{what}", timeout=20) as answer:
        return json.loads(answer.read())["data"]


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
