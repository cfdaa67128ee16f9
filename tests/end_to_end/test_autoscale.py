"""`feedline autoscale` as a process, of real loaders: what it answers and bears, and that trainers wake a fleet."""

import hashlib
import http.client
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from ports import free_address

import feedline
from feedline_wire import externalscaler_pb2 as keda
from feedline_wire.errors import FeedlineError, LoaderStarting

START_S = 120.0

LOOK_S = 0.02
"""No event tells that a file has appeared."""


@dataclass
class Autoscaler:
    """One in a process of its own."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int = 0
    metrics: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def fleet(self) -> dict[str, Any]:
        """What it says over HTTP; nothing while it knows nothing."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=30)
        connection.request("GET", "/fleet.json")
        answer = connection.getresponse()
        found = dict(json.load(answer))
        connection.close()
        return found if answer.status == HTTPStatus.OK else {}

    def until(self, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What it says over HTTP as soon as that is so."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if (found := self.fleet()) and is_so(found):
                return found
            time.sleep(0.1)
        raise AssertionError(f"it says {self.fleet()}; its log:\n{self.log()}")

    def call(self, method: str, answer: Any, request: Any = None, **secrets: Any) -> Any:
        """Call a method of KEDA's contract."""
        request = request or keda.ScaledObjectRef()
        with grpc.insecure_channel(self.address) as channel:
            path = f"/externalscaler.ExternalScaler/{method}"
            return channel.unary_unary(path, type(request).SerializeToString, answer.FromString)(
                request, timeout=30, **secrets
            )

    def replicas(self) -> int:
        answer = self.call("GetMetrics", keda.GetMetricsResponse, keda.GetMetricsRequest())
        return int(answer.metricValues[0].metricValue)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(START_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Autoscaler]]:
    """Start one: `start(target, *arguments)`. It looks every 0.2 s, and its metrics have a port of their own."""
    running: list[Autoscaler] = []

    def begin(target: str, *args: str) -> Autoscaler:
        folder = tmp_path / f"autoscale-{len(running)}"
        folder.mkdir()
        command = [sys.executable, "-m", "feedline", "autoscale", target, "--listen", "127.0.0.1:0", "--every-s", "0.2"]
        command += ["--metrics-listen", "127.0.0.1:0", "--port-file", str(folder / "port"), "--log-format", "json"]
        with (folder / "log").open("wb") as out:
            process = subprocess.Popen([*command, *args], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        one = Autoscaler(process, folder)
        running.append(one)
        until = time.monotonic() + START_S
        while not (folder / "port").exists():
            assert process.poll() is None, one.log()
            assert time.monotonic() < until, one.log()
            time.sleep(LOOK_S)
        one.port = int((folder / "port").read_text())
        one.metrics = int(one.lines()[0]["metrics"].rpartition(":")[2])
        return one

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_a_fleet_with_a_dead_address_and_one_loader_twice_is_seen_as_it_is(
    start: Callable[..., Autoscaler], four_workers: str
) -> None:
    dead = free_address()
    port = four_workers.rpartition(":")[2]

    scaler = start(f"{four_workers},localhost:{port},{dead}")
    seen = scaler.until(lambda found: found["there"] == 1)

    assert (seen["replicas"], seen["workers"], seen["unanswered"], seen["is_known"]) == (1, 4, 1, True)
    assert seen["problems"] == {dead: f"refused by {dead}, where nothing listens"}
    assert scaler.replicas() == 1
    with urllib.request.urlopen(f"http://127.0.0.1:{scaler.metrics}/metrics", timeout=30) as answer:
        assert "\nfeedline_fleet_recommended_replicas 1\n" in answer.read().decode()
    scaler.call("IsActive", keda.IsActiveResponse)
    assert scaler.stop() == 0
    assert "Traceback" not in scaler.log()


def test_where_nothing_answers_there_is_no_number_and_it_ends_as_quickly(start: Callable[..., Autoscaler]) -> None:
    scaler = start(f"{free_address()},no-such-host.invalid:1")

    with pytest.raises(grpc.RpcError) as refused:
        scaler.replicas()

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert scaler.fleet() == {}
    assert scaler.stop(signal.SIGINT) == 0


def test_a_fleet_without_loaders_is_woken_by_a_trainer_that_waits_for_it(
    start: Callable[..., Autoscaler], start_loader: Callable[..., Any], hundred_and_one: Path
) -> None:
    """The loader comes long after the trainer's own deadline."""
    free = free_address()
    scaler = start(free, "--min", "0", "--max", "4")
    outcome: list[object] = []

    def train() -> None:
        try:
            with feedline.connect(f"{free},{scaler.address}", timeout_s=4) as loader:
                outcome.append(sum(len(batch) > 0 for batch in loader.epoch(0, batch_size=10)))
        except FeedlineError as error:
            outcome.append(error)

    trainer = threading.Thread(target=train)
    trainer.start()
    seen = scaler.until(lambda found: found["replicas"] == 1)
    assert seen["knocking"] == 1
    assert scaler.replicas() == 1
    trainer.join(10)
    assert trainer.is_alive(), f"it gave up: {outcome}"
    start_loader(hundred_and_one, "--workers", "1", "--listen", free)

    trainer.join(START_S)

    assert outcome == [11]
    seen = scaler.until(lambda found: found["there"] == 1)
    assert seen["replicas"] >= 1, "first batches may cost more"


def test_a_trainer_that_is_not_to_wait_is_told_that_a_loader_starts(start: Callable[..., Autoscaler]) -> None:
    scaler = start(free_address(), "--min", "0")

    with pytest.raises(LoaderStarting, match="no loader is there yet"):
        feedline.connect(scaler.address, timeout_s=0)


def test_only_callers_with_a_token_are_answered(
    start: Callable[..., Autoscaler], one_worker: str, tmp_path: Path
) -> None:
    (tmp_path / "tokens.toml").write_text(f'[keda]\nsha256 = "{hashlib.sha256(b"secret").hexdigest()}"\n')
    scaler = start(one_worker, "--tokens", str(tmp_path / "tokens.toml"))

    for metadata in ((), (("authorization", "Bearer wrong"),)):
        with pytest.raises(grpc.RpcError) as refused:
            scaler.call("IsActive", keda.IsActiveResponse, metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{scaler.metrics}/metrics", timeout=30)
    right = (("authorization", "Bearer secret"),)
    assert scaler.call("GetMetricSpec", keda.GetMetricSpecResponse, metadata=right).metricSpecs


def test_with_tls_only_callers_with_a_certificate_are_answered_and_loaders_are_asked_with_one(
    start: Callable[..., Autoscaler], start_loader: Callable[..., Any], hundred_and_one: Path, authority: Authority
) -> None:
    """As KEDA does it, which has a certificate and no token."""
    own, client = authority.issue("loader", "127.0.0.1", "localhost"), authority.issue("keda")
    secure = (*own.arguments, "--tls-client-ca", str(authority.file))
    loader = start_loader(hundred_and_one, "--workers", "1", *secure)
    shown = ("--ca", str(authority.file), "--certificate", str(client.certificate), "--key", str(client.key))
    scaler = start(loader.address, *secure, *shown, "--metrics-listen", "127.0.0.1:0")
    read = [path.read_bytes() for path in (authority.file, client.key, client.certificate)]

    def spec(*credentials: bytes) -> Any:
        with grpc.secure_channel(scaler.address, grpc.ssl_channel_credentials(*credentials)) as channel:
            path = "/externalscaler.ExternalScaler/GetMetrics"
            method = channel.unary_unary(
                path, keda.GetMetricsRequest.SerializeToString, keda.GetMetricsResponse.FromString
            )
            return method(keda.GetMetricsRequest(), timeout=30, wait_for_ready=len(credentials) > 1)

    until = time.monotonic() + START_S
    while '"loaders wanted"' not in scaler.log() and time.monotonic() < until:
        time.sleep(LOOK_S)

    assert spec(*read).metricValues[0].metricValue == 1
    with pytest.raises(grpc.RpcError):
        spec(read[0])


def test_a_single_look_prints_the_decision(one_worker: str) -> None:
    command = [sys.executable, "-m", "feedline", "autoscale", "--once"]

    good = subprocess.run([*command, one_worker], capture_output=True, text=True, timeout=START_S, check=False)
    bad = subprocess.run([*command, free_address()], capture_output=True, text=True, timeout=START_S, check=False)

    assert (good.returncode, bad.returncode) == (0, 1)
    assert json.loads(good.stdout)["replicas"] == 1
    assert (bad.stdout, "nothing is known of the fleet yet" in bad.stderr) == ("", True)


COST_MS, STEP_MS = 60, 20
"""A worker has a batch in 60 ms, a trainer computes 20 with it: it wants three workers."""

CODE = f"""
import time
def slowly(x):
    time.sleep({COST_MS / 1000})
    return x
"""


@pytest.fixture
def slow_data(tmp_path: Path, numbered_columns: Callable[..., Any]) -> Path:
    """A loader.toml whose batches take a worker COST_MS, of which none is computing: two cores bear any number."""
    numbered_columns(tmp_path / "d", 4096, (8,))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "loader.toml").write_text(
        '[datasets.d]\npath = "d"\n[[datasets.d.transforms]]\ncode = "mine:slowly"\ncolumns = ["x"]\nper = "batch"\n'
    )
    return tmp_path / "loader.toml"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_fleet_grows_to_what_its_trainer_wants_and_loses_nothing(
    start: Callable[..., Autoscaler], start_loader: Callable[..., Any], slow_data: Path
) -> None:
    """The test starts the loaders that are asked for, as Kubernetes would; the autoscaler is killed in the middle."""
    loaders = [start_loader(slow_data, "--workers", "1")]
    addresses = [loaders[0].address]
    ids: list[int] = []
    steps: deque[tuple[float, float]] = deque(maxlen=10_000)  # when it ended, and what it took
    done = threading.Event()

    def train() -> None:
        with feedline.connect(lambda: addresses, timeout_s=120) as loader:
            for epoch in itertools.count():
                for batch in loader.epoch(epoch, batch_size=32):
                    began = time.monotonic()
                    if not done.is_set():
                        time.sleep(STEP_MS / 1000)
                    ids.extend((epoch * 4096 + batch.ids).tolist())
                    steps.append((time.monotonic(), time.monotonic() - began))
                if done.is_set():
                    return

    def wanted() -> float:
        """Workers, of what a batch takes a worker and a step the trainer, each by its own clock, in the last minute."""
        with feedline.connect(",".join(addresses), timeout_s=60) as looking:
            recent = [status.recent for status in looking.statuses().values()]
        batch_s = sum(one["assembling_s"] for one in recent) / sum(one["batches"] for one in recent)
        taken = [took_s for at, took_s in list(steps) if at > time.monotonic() - 60]
        return batch_s / (sum(taken) / len(taken))

    trainer = threading.Thread(target=train)
    trainer.start()
    first = start(addresses[0], "--max", "8")
    # Demand of a trainer that starves: it has a third of what it wants. Its first ten seconds are not believed.
    short = first.until(lambda found: found["demand_workers"] > 1.5)
    assert short["replicas"] >= 2, short
    assert short["waiting_share"] > 0.3, short
    first.process.kill()
    first.process.wait()

    second = start(addresses[0], "--max", "8")
    again = second.until(lambda found: found["demand_workers"] > 1.5)
    # It is what a step and a batch come to, however busy this machine makes either, not what is there times what it
    # waited: that is the same where it starves and where it is fed.
    assert again["demand_workers"] / wanted() == pytest.approx(1, abs=0.5), again
    while len(loaders) < again["replicas"]:
        loaders.append(start_loader(slow_data, "--workers", "1"))
        addresses.append(loaders[-1].address)
    grown = start(",".join(addresses), "--max", "8")
    fed = grown.until(
        lambda found: found["there"] == len(loaders) and found["waiting_share"] < again["waiting_share"] / 2
    )
    assert fed["demand_workers"] / wanted() == pytest.approx(1, abs=0.5), fed
    done.set()
    trainer.join(200)

    assert not trainer.is_alive()
    epochs = len(ids) // 4096
    assert sorted(ids) == list(range(4096 * epochs))
    assert epochs


# ---- the page's commands ----

PAGE = Path(__file__).parents[2] / "docs/autoscale.md"


def commands(page: str) -> list[list[str]]:
    """The words of every line of its `bash` blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def test_the_first_two_commands_of_the_page_start_it_and_show_what_it_says(four_workers: str, tmp_path: Path) -> None:
    """As they stand there, but for the name of the loaders, and ports that others may have."""
    page = PAGE.read_text()
    (shown,) = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    starts, shows, *_ = commands(page)
    ours = {"dns:///loaders:50051": f"dns:///{four_workers}", "127.0.0.1:9200": free_address()}

    def here(words: list[str]) -> list[str]:
        texts = words
        for theirs, own in ours.items():
            texts = [word.replace(theirs, own) for word in texts]
        return texts

    with (tmp_path / "log").open("wb") as out:
        command = [sys.executable, "-m", *here(starts), "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until = time.monotonic() + START_S
        while (said := subprocess.run(here(shows), capture_output=True, text=True, check=False)).stdout[:1] != "{":
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until, said
            time.sleep(0.2)
    finally:
        process.terminate()
        code = process.wait(START_S)

    found = json.loads(said.stdout)
    assert found.keys() == json.loads(shown).keys()
    assert (found["there"], found["workers"], found["replicas"]) == (1, 4, 1)
    assert code == 0


def test_the_command_for_many_cores_says_what_it_chose_and_serves(hundred_and_one: Path, tmp_path: Path) -> None:
    (words,) = [words for words in commands(PAGE.read_text()) if words[:2] == ["feedline", "serve"]]
    (tmp_path / "digits").symlink_to(hundred_and_one)

    command = [sys.executable, "-m", *words, "--listen", "127.0.0.1:0", "--port-file", "port"]
    with (tmp_path / "log").open("wb") as out:
        process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until = time.monotonic() + START_S
        while not (tmp_path / "port").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(LOOK_S)
        ports = (tmp_path / "port").read_text().split()
        with feedline.connect([f"127.0.0.1:{port}" for port in ports], timeout_s=START_S) as loader:
            ids = [sample for batch in loader.epoch(0, batch_size=8) for sample in batch.ids.tolist()]
    finally:
        process.terminate()
        process.wait(START_S)

    said = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert re.match(r"replicas = \d+: \d+ cores?", said[0]), said
    assert re.match(r"workers = \d+: \d+ cores?", said[1]), said
    assert sorted(ids) == list(range(101))
