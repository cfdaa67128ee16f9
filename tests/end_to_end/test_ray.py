"""A fleet on a real Ray cluster: what is killed, added and drained in mid-epoch costs no trainer a sample.

The cluster is in a network namespace of its own, because Ray leaves loopback; trainers are processes of their own.
"""

import contextlib
import faulthandler
import hashlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import psutil
import pytest
from certificates import Authority

import feedline.ray
from feedline.ray.spec import NAMESPACE, REGISTRY, FleetStatus, Report
from feedline_wire.errors import InvalidRequest, LoaderUnavailable

ray = pytest.importorskip("ray", reason="Ray is not installed")

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1200)]

CPUS = 32
"""Ray's, which are only numbers."""

ROOT = Path(__file__).parents[2]

SAMPLES = 2000
BATCH = 10

WITHIN_S = 240.0
"""Until something has happened that takes seconds on a quiet machine."""

TRAINER = """
import json, sys, time
import feedline

target, pace_s, epochs = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
with feedline.connect(target, timeout_s=120) as remote:
    feed = remote.feed(batch_size=10, seed=5, prefetch=16, timeout_s=120)
    for epoch in range(epochs):
        for batch in feed.epoch(epoch):
            rows = batch["x"][:, 0].astype(int).tolist()
            seen = {"epoch": epoch, "at": batch.index, "ids": batch.ids.tolist(), "rows": rows}
            print(json.dumps(seen | {"replicas": remote.replicas}), flush=True)
            time.sleep(pace_s)
"""


# ---- the cluster ----


@pytest.fixture(autouse=True)
def _patience() -> None:
    """A test takes minutes on a busy machine; the traceback that pytest prints after one would look like a failure."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def own_network() -> Iterator[None]:
    """This thread, and all that it starts, in a network with nothing but loopback."""
    with pytest.MonkeyPatch.context() as patched, contextlib.ExitStack() as running:
        patched.syspath_prepend(ROOT)
        from benchmarks import loopback

        try:
            running.enter_context(loopback.alone())
        except PermissionError as error:
            pytest.skip(str(error))
        yield


@pytest.fixture(scope="module")
def cluster(own_network: None) -> Iterator[Path]:
    """A cluster of one node, that this process is connected to; the folder with its logs."""
    from benchmarks import ray_cluster

    with ray_cluster.cluster("feedline-ray", CPUS) as folder:
        feedline.ray.fleets()  # connects
        yield folder
    assert not loaders()


@pytest.fixture(autouse=True)
def no_fleet_stays(cluster: Path) -> Iterator[None]:
    yield
    for name in feedline.ray.fleets():
        feedline.ray.stop(name)
    until(lambda: not loaders())


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory, numbered_columns: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("data") / "numbered"
    numbered_columns(folder, SAMPLES)
    return folder


# ---- what is looked at ----


def until(holds: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Wait for it: no event tells what another process has come to."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def status(name: str) -> FleetStatus:
    """Of a fleet whose controller may just be starting."""
    while True:
        with contextlib.suppress(LoaderUnavailable):
            return feedline.ray.status(name)


def serving(name: str) -> dict[str, Report]:
    return {one.name: one for one in status(name).replicas if one.state == "serving"}


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def _here() -> Iterator[psutil.Process]:
    from benchmarks import ray_cluster

    return ray_cluster.processes()


def loaders() -> list[psutil.Process]:
    """Front processes of loaders that actors run."""
    return [one for one in _here() if {"feedline_server", "--until-stdin-ends"} <= set(_words(one))]


def actor_process(kind: str) -> psutil.Process:
    """The only actor of a class."""
    found = [one for one in _here() if " ".join(_words(one)).startswith(f"ray::{kind}")]
    assert len(found) == 1, found
    return found[0]


class Trainer:
    """Reads epochs in a process of its own; what it read."""

    def __init__(self, target: str, *, pace_s: float = 0.02, epochs: int = 1) -> None:
        self.seen: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._has_ended = False
        self._errors = TemporaryFile("w+")  # noqa: SIM115 - closed with the trainer
        self._process = subprocess.Popen(
            [sys.executable, "-c", TRAINER, target, str(pace_s), str(epochs)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        """All the time: a trainer whose words are not read stands still."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with self._changed:
                    self.seen.append(json.loads(line))
                    self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def read_to(self, batch: int) -> None:
        """Wait until so many batches came."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= batch or self._has_ended, WITHIN_S), self.seen[-1:]
        assert len(self.seen) >= batch, self.errors()

    def finish(self) -> None:
        """Wait until it has read everything."""
        code = self._process.wait(2 * WITHIN_S)
        self._thread.join()
        assert code == 0, self.errors()

    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-4000:]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        self._errors.close()

    def check(self, epochs: int = 1) -> None:
        """Every sample once in each epoch, in the order of its batches, and with its own content."""
        for epoch in range(epochs):
            batches = [one for one in self.seen if one["epoch"] == epoch]
            assert [one["at"] for one in batches] == list(range(SAMPLES // BATCH))
            assert Counter(row for one in batches for row in one["ids"]) == Counter(range(SAMPLES))
            assert all(one["rows"] == one["ids"] for one in batches)


@pytest.fixture
def trainer() -> Iterator[Callable[..., Trainer]]:
    with contextlib.ExitStack() as running:

        def start(target: str, **options: Any) -> Trainer:
            made = Trainer(target, **options)
            running.callback(made.close)
            return made

        yield start


# ---- tests ----


@pytest.mark.parametrize("kind", ["Replica", "Controller", "Registry"])
def test_an_epoch_is_whole_although_an_actor_is_killed_in_its_middle(
    kind: str, numbered: Path, trainer: Callable[..., Trainer]
) -> None:
    target = feedline.ray.start(numbered, name="digits", replicas=2)
    before = serving("digits")
    reader = trainer(target)

    reader.read_to(40)
    victim = psutil.Process(before["replica-0"].pid) if kind == "Replica" else actor_process(kind)
    victim.kill()
    reader.finish()

    reader.check()
    assert target == "ray:digits"
    until(lambda: len(serving("digits")) == 2)
    after = serving("digits")
    assert (after["replica-0"].pid != before["replica-0"].pid) == (kind == "Replica")
    assert (after["replica-0"].address != before["replica-0"].address) == (kind == "Replica")
    assert after["replica-1"].address == before["replica-1"].address
    until(lambda: len(loaders()) == 2)


def test_trainers_find_a_replica_that_came_back_at_another_port(
    numbered: Path, trainer: Callable[..., Trainer]
) -> None:
    target = feedline.ray.start(numbered, name="digits")
    before = serving("digits")["replica-0"]
    reader = trainer(target, epochs=2)

    reader.read_to(40)
    psutil.Process(before.pid).kill()  # the only one: the trainer waits until it is found again
    reader.finish()

    reader.check(epochs=2)
    assert serving("digits")["replica-0"].address != before.address


def test_a_loader_that_dies_is_started_again_by_its_actor(numbered: Path, trainer: Callable[..., Trainer]) -> None:
    target = feedline.ray.start(numbered, name="digits", replicas=2)
    before = serving("digits")
    reader = trainer(target)

    reader.read_to(40)
    loaders()[0].kill()
    reader.finish()

    reader.check()
    until(lambda: len(serving("digits")) == 2 and sum(one.starts for one in serving("digits").values()) == 3)
    assert {one.pid for one in serving("digits").values()} == {one.pid for one in before.values()}


def test_dead_addresses_in_the_registry_cost_no_sample(numbered: Path, trainer: Callable[..., Trainer]) -> None:
    target = feedline.ray.start(numbered, name="digits")
    registry = ray.get_actor(f"digits/{REGISTRY}", namespace=NAMESPACE)
    with socket.socket() as bound:  # nobody listens here
        bound.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{bound.getsockname()[1]}"

        ray.get(registry.say.remote(Report("replica-7", "serving", 0.0, address=dead)))
        offered = feedline.ray.addresses("digits")
        reader = trainer(target)
        reader.read_to(40)
        ray.get(registry.say.remote(Report("replica-8", "serving", 0.0, address=dead)))
        reader.finish()

        assert dead in offered
        reader.check()
        until(lambda: dead not in feedline.ray.addresses("digits"))


def test_a_second_fleet_of_one_name_is_refused_and_the_first_one_stays(numbered: Path) -> None:
    feedline.ray.start(numbered, name="digits")
    before = serving("digits")["replica-0"]

    with pytest.raises(InvalidRequest, match=r"there is a fleet 'digits' already; .* `feedline down digits`"):
        feedline.ray.start(numbered, name="digits", replicas=3)

    after = serving("digits")
    assert after.keys() == {"replica-0"}
    assert (after["replica-0"].pid, after["replica-0"].address) == (before.pid, before.address)


def test_data_that_cannot_be_served_is_said_in_the_loaders_words_and_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(LoaderUnavailable, match=r"nothing: there is no such file or folder; wanted a loader.toml"):
        feedline.ray.start(tmp_path / "nothing", name="digits")

    assert feedline.ray.fleets() == []
    until(lambda: not loaders())


def test_a_loader_that_never_becomes_ready_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(10_000)\n")
    monkeypatch.syspath_prepend(tmp_path)
    began = time.monotonic()

    with pytest.raises(
        LoaderUnavailable, match=r"did not serve within 15 s|0 of 1 loaders serve after 15 s; replica-0 starting"
    ):
        feedline.ray.start("endless:dataset", name="digits", timeout_s=15)

    assert time.monotonic() - began < 15 + WITHIN_S / 4
    assert feedline.ray.fleets() == []
    until(lambda: not loaders())


def test_a_fleet_for_which_ray_has_no_place_says_so(numbered: Path) -> None:
    with pytest.raises(LoaderUnavailable, match=rf"wait for a node with 100 free CPUs: of the cluster's {CPUS} CPUs"):
        feedline.ray.start(numbered, name="digits", workers=100, timeout_s=20)

    assert feedline.ray.fleets() == []


def test_an_unknown_fleet_is_named_with_those_there_are(numbered: Path) -> None:
    feedline.ray.start(numbered, name="digits")

    for call in (feedline.ray.status, feedline.ray.stop):
        with pytest.raises(InvalidRequest, match=r"there is no fleet 'digit' in this Ray cluster; there are: digits"):
            call("digit")
    with pytest.raises(LoaderUnavailable, match=r"there is no fleet 'digit' in this Ray cluster"):
        feedline.ray.addresses("digit")


def slow(folder: Path, data: Path, wait_s: float) -> Path:
    """A loader.toml of that data, of which a batch takes a worker so long and no CPU."""
    (folder / "slow_rows.py").write_text(f"import time\n\n\ndef wait(x):\n    time.sleep({wait_s})\n    return x\n")
    toml = folder / "loader.toml"
    toml.write_text(
        f'[datasets.rows]\nkind = "columns"\npath = "{data}"\n'
        'transforms = [{code = "slow_rows:wait", columns = ["x"], per = "batch"}]\n'
    )
    return toml


def test_a_fleet_grows_and_shrinks_with_what_a_trainer_wants_also_when_its_controller_dies_meanwhile(
    numbered: Path, tmp_path: Path, trainer: Callable[..., Trainer]
) -> None:
    # A worker makes five batches a second: 200 take one loader 40 s, and a trainer that never waits wants several.
    path = slow(tmp_path, numbered, 0.2)
    target = feedline.ray.start(path, name="digits", replicas=(1, 3), scale_in_after_s=10)
    eager = trainer(target, pace_s=0.0, epochs=30)

    until(lambda: len(status("digits").replicas) > 1)
    actor_process("Controller").kill()
    until(lambda: len(serving("digits")) == 3)
    most = eager.seen[-1]["epoch"]
    eager.read_to((most + 2) * SAMPLES // BATCH)
    grown = status("digits")
    eager.close()

    # Nearly nothing is wanted now: all but one are drained, one by one, while the next trainer reads.
    calm = trainer(target, pace_s=0.6)
    until(lambda: serving("digits").keys() == {"replica-0"}, 2 * WITHIN_S)
    until(lambda: len(loaders()) == 1)
    calm.finish()

    whole = [one for one in eager.seen if one["epoch"] <= most]
    eager.seen = whole
    eager.check(epochs=most + 1)
    calm.check()
    assert grown.serving == 3  # and it stayed so, as long as that was wanted
    assert grown.recommendation is not None
    assert "want" in grown.recommendation.reason
    assert [one.name for one in status("digits").replicas] == ["replica-0"]


TRAIN = """
import json, sys, tempfile, time
from pathlib import Path
import ray, ray.train
from ray.train.torch import TorchTrainer
import feedline.ray

target, store, stop_at, log = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]

def train(config):
    import torch.distributed
    rank = ray.train.get_context().get_world_rank()
    feed = feedline.ray.feed(config["target"], batch_size=10, seed=5)
    assert (feed.plan.rank, feed.plan.world) == (rank, 2) and torch.distributed.get_world_size() == 2
    saved = config["checkpoint"]
    if saved is not None:
        with ray.train.Checkpoint(saved).as_directory() as folder:
            feed.load_state_dict(json.loads(Path(folder, "feed.json").read_text()))
    with feed, open(f"{config['log']}-{rank}", "a") as out:
        for steps, batch in enumerate(feed, 1):
            print(json.dumps({"epoch": batch.epoch, "ids": batch.ids.tolist()}), file=out, flush=True)
            if steps == config["stop_at"]:
                # All ranks are at the same step, and a state is the same on all of them.
                with tempfile.TemporaryDirectory() as folder:
                    checkpoint = None
                    if rank == 0:
                        Path(folder, "feed.json").write_text(json.dumps(feed.state_dict()))
                        checkpoint = ray.train.Checkpoint.from_directory(folder)
                    ray.train.report({"step": steps}, checkpoint=checkpoint)
                if saved is None:
                    return
        ray.train.report({"step": -1})

def fit(name, **more):
    return TorchTrainer(
        train,
        train_loop_config={"target": target, "log": log, **more},
        scaling_config=ray.train.ScalingConfig(num_workers=2, use_gpu=False),
        run_config=ray.train.RunConfig(name=name, storage_path=store),
    ).fit()

ray.init(namespace="mine", logging_level="ERROR", log_to_driver=False)
first = fit("first", stop_at=stop_at, checkpoint=None)
fit("second", stop_at=-1, checkpoint=first.checkpoint.path)
"""


def test_a_job_of_ray_train_on_two_workers_goes_on_in_mid_epoch(numbered: Path, tmp_path: Path) -> None:
    target = feedline.ray.start(numbered, name="digits", replicas=2)
    log = tmp_path / "seen"

    done = subprocess.run(
        [sys.executable, "-c", TRAIN, target, str(tmp_path / "store"), "33", str(log)],
        check=False, capture_output=True, text=True, timeout=2 * WITHIN_S,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-6000:]
    ranks = [[json.loads(line) for line in Path(f"{log}-{rank}").read_text().splitlines()] for rank in (0, 1)]
    assert [len(batches) for batches in ranks] == [SAMPLES // BATCH // 2] * 2  # 33 of them before the pause
    assert all(one["epoch"] == 0 for batches in ranks for one in batches)
    assert Counter(row for batches in ranks for one in batches for row in one["ids"]) == Counter(range(SAMPLES))


def test_a_feed_outside_of_ray_train_says_what_to_write() -> None:
    with pytest.raises(InvalidRequest, match=r"is for the training function of Ray Train .*\.feed\(rank=…, world=…\)"):
        feedline.ray.feed("ray:digits")


def test_loaders_with_tokens_and_tls_are_looked_at_and_no_secret_is_shown(
    numbered: Path, tmp_path: Path, authority: Authority, cluster: Path
) -> None:
    token = "tok-5d0c3f0e1b6a49f7a1c2"
    (tmp_path / "token").write_text(token)
    (tmp_path / "tokens.toml").write_text(f'[trainer]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n')
    pair = authority.issue("loader", "127.0.0.1")
    credentials = {"ca": authority.file, "token_file": tmp_path / "token"}

    options = (*pair.arguments, "--tokens", str(tmp_path / "tokens.toml"))
    target = feedline.ray.start(numbered, *options, name="digits", **credentials)
    with feedline.connect(target, **credentials) as remote:
        rows = remote.feed(batch_size=BATCH).fetch(remote.feed(batch_size=BATCH).plan.step(0, 0)).ids
    with pytest.raises(feedline.NotAllowed):
        feedline.connect(target, ca=authority.file, timeout_s=WITHIN_S)

    assert len(rows) == BATCH
    # The controller is let in too: it says what trainers want, and not that nothing answers.
    until(lambda: (found := status("digits").recommendation) is not None and "nothing answers" not in found.reason)
    shown = [" ".join(_words(one)) for one in psutil.process_iter()]
    shown += [file.read_text(errors="replace") for file in cluster.rglob("logs/*") if file.is_file()]
    assert not [text for text in shown if token in text]
    assert any("feedline_server" in text for text in shown)


def test_a_loader_listens_on_its_nodes_address_alone(numbered: Path) -> None:
    feedline.ray.start(numbered, name="digits")

    family = [one for loader in loaders() for one in (loader, *loader.children(recursive=True))]
    listening = [at.laddr.ip for one in family for at in one.net_connections("inet") if at.status == "LISTEN"]

    # gRPC's sockets speak IPv6, in which the address is written so.
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert len(listening) == 2  # gRPC, and the tcp lane


def test_the_command_line_starts_shows_and_ends_a_fleet(numbered: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    tmp_path.chmod(0o700)

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "feedline", *words],
            check=False, capture_output=True, text=True, env=environment, timeout=WITHIN_S,
        )  # fmt: skip

    up = run("up", "--on", "ray", "--replicas", "1..2", "digits", str(numbered), "--", "--log-level", "warning")
    shown = run("status", "digits")
    inspected = run("inspect", "ray:digits")
    down = run("down", "digits")
    again = run("down", "digits")

    assert up.returncode == 0, up.stderr
    assert "1 of 1 to 2 replicas serve" in up.stdout
    assert "feedline.connect('ray:digits')" in up.stdout
    assert shown.returncode == 0, shown.stderr
    assert "target: ray:digits" in shown.stdout
    assert "1 workers" in shown.stdout
    assert "dataset numbered: 2,000 samples" in inspected.stdout, inspected.stderr
    assert (down.returncode, down.stdout) == (0, "ray fleet digits: ended\n"), down.stderr
    assert again.returncode == 1
    assert "there is no fleet 'digits'" in again.stderr


PAGE = ROOT / "docs/ray.md"


def test_the_commands_and_programs_of_the_page_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    commands = [line.partition("#")[0].strip() for kind, text in blocks if kind == "bash" for line in text.splitlines()]
    up, status, *preparing = [word for word in commands if not word.startswith(("pip install", "ray start"))]
    folder = tmp_path / "digits"
    environment = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(tmp_path),
        "PATH": f"{_programs(tmp_path)}:{os.environ['PATH']}",
    }
    tmp_path.chmod(0o700)

    def run(*command: str) -> str:
        done = subprocess.run(
            [word.replace("/tmp/digits", str(folder)) for word in command],
            check=False, capture_output=True, text=True, env=environment, timeout=2 * WITHIN_S, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    for command in (*preparing, up):
        run(*shlex.split(command))
    shown = run(*shlex.split(status))
    printed = [run("python", "-c", text) for kind, text in blocks if kind == "python"]
    ended = run("feedline", "down", "digits")

    assert up.startswith("feedline up --on ray ")
    assert "target: ray:digits" in shown
    assert len(printed) == 3
    assert "ray:digits2: 1 of 1 to 4 replicas serve" in printed[1]
    assert ended == "ray fleet digits: ended\n"
    assert feedline.ray.fleets() == []


def _programs(folder: Path) -> Path:
    """`python` and `feedline` as an installation has them, of this environment."""
    programs = folder / "bin"
    programs.mkdir()
    for name, words in {"python": '"$@"', "feedline": '-m feedline "$@"'}.items():
        file = programs / name
        file.write_text(f"#!/bin/sh\nexec {sys.executable} {words}\n")
        file.chmod(0o755)
    return programs
