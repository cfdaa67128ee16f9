"""Random faults every few seconds against a fleet that trains, for as long as you like: zero deviations are required.

Three loaders, of which two or three run, and two trainers at random places of their epochs. Each trainer has lines of
its own to each loader (breaking/lines.py). One fault after the other, at times two at once, is done to workers,
loaders, trainers and lines; meanwhile every batch that a trainer records is compared with what an undisturbed loader
gives, and at each epoch's end every sample must have come once. When the time is over both trainers finish their
epochs, everything is told to end, and nothing may be left.
"""

import argparse
import contextlib
import itertools
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from breaking import memory, pids, record, shortages, updates
from breaking.data import Data, write
from breaking.hurts import HURTS
from breaking.lanes import TLS
from breaking.lines import By, Lines
from breaking.stage import Loader, Stage, Trainer
from breaking.updates import Rolled
from breaking.verdict import Account, Undisturbed
from ports import free_port

LOADERS = 3
LEAST = 2
"""Loaders that the trainers know of at least."""

AT_ONCE = 2
"""Faults at once, at most."""

PAUSE_S = (0.3, 4.0)
"""Between one fault and the next."""

DOWN_S = (1.0, 20.0)
"""All loaders at once."""

HELD_S = (0.5, 25.0)
"""A line: some shorter than the 15 s after which a connection is given up, some longer."""

SLOW_S = (2.0, 8.0)

SHORT_S = (2.0, 5.0)
"""A shortage of descriptors or processes, a dataset that is away."""

TIMEOUT_S = 180.0
"""A trainer's deadline for one batch; the longest wait must be far below."""

SAY_EVERY_S = 10.0

LANES_PART = 0.8
"""Of the bits that are turned with TLS, those on the sealed lane."""

AT_A_LOOK = 200
"""Batches that are compared before faults are looked after again: on a busy machine trainers may be quicker."""

SAMPLES, ROW_NBYTES = 2003, 16 << 10

EPILOG = """\
examples:
  scripts/soak                        20 minutes
  scripts/soak --minutes 1            a look at what it does
  scripts/soak --seed 5f3a --minutes 5    the same faults in the same order as another run with this seed
                                      (moments depend on the machine as well)
Ctrl-C (or SIGTERM) ends it early, cleanly, with the summary.
exit codes: 0 no deviation, 1 deviations (each is printed), 2 wrong usage, 130 ended by Ctrl-C without a deviation
"""


@dataclass(eq=False)
class Replica:
    """A loader, its lines, and who is at it."""

    loader: Loader
    lines: list[Lines]
    """One for each trainer."""
    busy: threading.Lock = field(default_factory=threading.Lock)


@dataclass(eq=False)
class Pupil:
    """A trainer and what became of its batches."""

    trainer: Trainer
    account: Account
    lines: record.Follower
    busy: threading.Lock = field(default_factory=threading.Lock)


class Soak:
    """One run in `folder`."""

    def __init__(
        self, folder: Path, seed: str, say: Callable[[str], None], *, tls: bool = False, only: Sequence[str] = ()
    ) -> None:
        self.random = random.Random(seed)
        self.say = say
        self.done: Counter[str] = Counter()
        self.deviations: list[str] = []
        self._folder = folder
        self._tls = (TLS,) if tls else ()
        self._only = only
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._open = contextlib.ExitStack()
        self._replicas: list[Replica] = []
        self._known: list[Replica] = []
        self.pupils: list[Pupil] = []

    # ---- setting up ----

    def open(self) -> None:
        """Start everything."""
        data = write(self._folder / "data", SAMPLES, ROW_NBYTES)
        self._quiet = Stage(self._folder / "undisturbed")
        self._open.callback(self._close_stage, self._quiet)
        declared = shortages.write_datasets(self._folder, data.folder, updates.TOML)
        self._rolled = Rolled(self._folder)
        quiet = self._quiet.loader(data.folder, "--workers", "1", "--memory", "64MiB")
        self._stage = Stage(self._folder / "stage")
        self._open.callback(self._close_stage, self._stage)
        hosts = ("127.0.0.2", "127.0.0.3")
        for _ in range(LOADERS):
            ports = free_port("127.0.0.1", *hosts), free_port("127.0.0.1", *hosts)
            args = ("--workers", "2", "--memory", "64MiB", "--tcp-port", str(ports[1]), *self._tls)
            address = f"127.0.0.1:{ports[0]}"
            loader = self._stage.loader(declared, *args, address=address, prefix=shortages.FEW_DESCRIPTORS)
            lines = [self._open.enter_context(Lines(host, *ports)) for host in hosts]
            self._replicas.append(Replica(loader, lines))
        self._know(self._replicas)
        self._pupil(0, data, quiet.address, batch_size=16, seed=1, pace_s=0.01)
        connect = {} if self._tls else {"checksum": True}  # which is for gRPC alone
        self._pupil(1, data, quiet.address, batch_size=50, seed=2, pace_s=0.03, connect=connect)
        for pupil in self.pupils:
            pupil.trainer.wait_for(20)

    def _pupil(self, number: int, data: Data, quiet: str, *, batch_size: int, seed: int, **options: object) -> None:
        trainer = self._stage.trainer(
            str(self._names(number)),
            f"trainer-{number}",
            batch_size=batch_size,
            seed=seed,
            timeout_s=TIMEOUT_S,
            feed={"dataset": "data", "prefetch_bytes": 32 << 20},
            **options,
        )
        account = Account(Undisturbed(quiet, data, batch_size, seed), data.samples)
        self.pupils.append(Pupil(trainer, account, record.Follower(trainer.record)))

    def _names(self, number: int) -> Path:
        return self._folder / f"addresses-{number}"

    def _know(self, replicas: list[Replica]) -> None:
        """Let the trainers find these loaders."""
        self._known = replicas
        for number in range(2):
            new = self._names(number).with_suffix(".new")
            new.write_text("\n".join(replica.lines[number].address for replica in replicas))
            new.replace(self._names(number))

    # ---- faults ----

    def faults(self) -> dict[str, Callable[[], None]]:
        """What can happen, by name; some more often than others."""
        can_exhaust = memory.why_not() is None
        found: dict[str, Callable[[], None]] = {}
        for name, hurt in HURTS.items():
            if name == "exhaust" and not can_exhaust:
                continue
            found[f"{name} worker"] = lambda hurt=hurt: self._hurt_worker(hurt)
            found[f"{name} loader"] = lambda name=name: self._hurt_loader(name)
            found[f"{name} trainer"] = lambda name=name: self._hurt_trainer(name)
        found["hold line"] = self._hold
        found["hold all lines of a trainer"] = self._hold_all
        found["cut line"] = lambda: self._line().cut()
        found["slow line"] = self._slow
        found["damage line"] = self._damage
        found["flood loader"] = self._flood
        if pids.why_not() is None:
            found["no more processes"] = self._no_more_processes
        found["long exceptions"] = self._long_exceptions
        found["dropped connections"] = self._dropped
        found["dataset away and back"] = self._away
        found["rolling update"] = self._update
        found["remove or add loader"] = self._change
        found["restart all, one by one"] = self._roll
        found["all loaders down"] = self._down
        return {name: do for name, do in found.items() if not self._only or any(text in name for text in self._only)}

    @contextlib.contextmanager
    def _one(self) -> Iterator[Replica]:
        """A loader that no other fault has in hand."""
        with self._lock:
            free = [replica for replica in self._replicas if replica.busy.acquire(blocking=False)]
            chosen = self.random.choice(free) if free else None
            for replica in free:
                if replica is not chosen:
                    replica.busy.release()
        if chosen is None:
            raise Busy
        try:
            yield chosen
        finally:
            chosen.busy.release()

    @contextlib.contextmanager
    def _all(self) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            for replica in self._replicas:
                if not replica.busy.acquire(timeout=60):
                    raise Busy
                held.callback(replica.busy.release)
            yield

    def _hurt_worker(self, hurt: Callable[..., None]) -> None:
        with self._one() as replica:
            if workers := replica.loader.workers:
                try:
                    hurt(self.random.choice(workers))
                except psutil.NoSuchProcess:  # it ended by itself just then: its loader replaces it
                    raise Busy from None

    def _hurt_loader(self, name: str) -> None:
        with self._one() as replica:
            self._end_and_start(replica, name)

    def _end_and_start(self, replica: Replica, name: str, down_s: float = 0.0) -> None:
        loader = replica.loader
        HURTS[name](loader.front)
        if name != "stop":
            code = loader.process.wait()
            assert code == (0 if name == "terminate" else -9), f"{loader} ended with {code}:\n{loader.log_text()}"
            self._stopping.wait(down_s)
            loader.start()

    def _hurt_trainer(self, name: str) -> None:
        pupil = self.random.choice(self.pupils)
        if not pupil.busy.acquire(blocking=False):
            raise Busy
        try:
            trainer = pupil.trainer
            HURTS[name](trainer.front)
            if name != "stop":
                code = trainer.wait()
                assert code == (-15 if name == "terminate" else -9), f"{trainer} ended with {code}"
                trainer.start()
                trainer.wait_for(1)
        finally:
            pupil.busy.release()

    def _line(self) -> Lines:
        return self.random.choice(self.random.choice(self._replicas).lines)

    def _hold(self) -> None:
        with self._line().held():
            self._stopping.wait(self.random.uniform(*HELD_S))

    def _hold_all(self) -> None:
        number = self.random.randrange(2)
        with contextlib.ExitStack() as held:
            for replica in self._replicas:
                held.enter_context(replica.lines[number].held())
            self._stopping.wait(self.random.uniform(*HELD_S))

    def _slow(self) -> None:
        line = self._line()
        line.slow(self.random.choice((None, 1e6, 5e6)), self.random.choice((0.0, 0.02, 0.1)))
        self._stopping.wait(self.random.uniform(*SLOW_S))
        line.slow(None, 0.0)

    def _damage(self) -> None:
        """Of what comes by gRPC to the trainer that asks for checksums; with TLS to any, also by its sealed lane."""
        lines = self.random.choice(self._known).lines
        if not self._tls:
            lines[1].damage(self.random.randrange(1 << 20))
        elif self.random.random() < LANES_PART:
            self.random.choice(lines).damage(self.random.randrange(1 << 20), "lane")
        else:  # little comes this way beside a lane
            self.random.choice(lines).damage(self.random.randrange(1 << 8))

    def _change(self) -> None:
        with self._lock:
            if len(self._known) > LEAST:
                gone = self.random.choice(self._known)
                self._know([replica for replica in self._known if replica is not gone])
            else:
                self._know(self._replicas)

    def _flood(self) -> None:
        """Connections that say nothing, while a worker has to be replaced."""
        with self._one() as replica:
            self._kill_a_worker(replica.loader)
            shortages.flood(replica.loader, self.random.uniform(*SHORT_S))

    def _no_more_processes(self) -> None:
        with self._one() as replica, pids.no_more_processes(replica.loader.process.pid):
            self._kill_a_worker(replica.loader)
            self._stopping.wait(self.random.uniform(*SHORT_S))

    def _long_exceptions(self) -> None:
        with self._one() as replica:
            shortages.long_exceptions(replica.loader, self._stage.trust)

    def _dropped(self) -> None:
        with self._one() as replica:
            shortages.drop_connections(replica.loader, self._stage.trust)

    def _away(self) -> None:
        """The files of a dataset that nobody trains on go, a worker opens everything anew, and they come back."""
        with self._all():
            replica = self.random.choice(self._replicas)
            third = self._folder / "third"
            away = third.rename(self._folder / "away")
            try:
                self._kill_a_worker(replica.loader)
                self._stopping.wait(self.random.uniform(*SHORT_S))
            finally:
                away.rename(third)
            shortages.whole(replica.loader, self._stage.trust, SAMPLES)

    def _update(self) -> None:
        """New files under the old names, and loaders that are reloaded one after the other, each short of a worker."""
        with self._all():
            self._rolled.update(
                [replica.loader for replica in self._replicas],
                self._stage.trust,
                self._kill_a_worker,
            )

    def _kill_a_worker(self, loader: Loader) -> None:
        if workers := loader.workers:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself just then
                HURTS["kill"](self.random.choice(workers))

    def _roll(self) -> None:
        with self._all():
            for replica in self._replicas:
                if not self._stopping.is_set():
                    self._end_and_start(replica, "terminate")

    def _down(self) -> None:
        with self._all():
            for replica in self._replicas:
                HURTS["kill"](replica.loader.front)
                replica.loader.process.wait()
            self._stopping.wait(self.random.uniform(*DOWN_S))
            for replica in self._replicas:
                replica.loader.start()

    # ---- the run ----

    def run(self, seconds: float) -> None:
        """Break things for so long, then let the trainers finish."""
        faults = self.faults()
        began = said = time.monotonic()
        pool = ThreadPoolExecutor(AT_ONCE)
        running: dict[str, Future[None]] = {}
        next_at = began
        try:
            while (now := time.monotonic()) < began + seconds and not self.deviations:
                self._account()
                self._collect(running)
                if now >= next_at and len(running) < AT_ONCE:
                    name = self.random.choice(sorted(faults))
                    if name not in running:
                        running[name] = pool.submit(faults[name])
                        next_at = now + self.random.uniform(*PAUSE_S)
                if now - said >= SAY_EVERY_S:
                    said = now
                    self.say(self.progress(now - began))
                time.sleep(0.1)
        finally:
            self._stopping.set()
            pool.shutdown()
        self._collect(running)
        if not self.deviations:
            self._finish()

    def _collect(self, running: dict[str, Future[None]]) -> None:
        for name in [name for name, future in running.items() if future.done()]:
            error = running.pop(name).exception()
            if error is None:
                self.done[name] += 1
            elif not isinstance(error, Busy):
                self._deviates(f"while {name}: {''.join(traceback.format_exception(error))}")

    def _account(self) -> None:
        for pupil in self.pupils:
            try:
                pupil.account.follow(itertools.islice(pupil.lines, AT_A_LOOK))
            except AssertionError as error:
                self._deviates(f"{pupil.trainer}: {error}")
            if (code := pupil.trainer.process.poll()) is not None and not pupil.busy.locked():
                self._deviates(f"{pupil.trainer} ended with code {code}; its log:\n{pupil.trainer.log_text()[-3000:]}")

    def _finish(self) -> None:
        self.say("no more faults; the trainers finish their epochs")
        for pupil in self.pupils:
            try:
                code = pupil.trainer.end(TIMEOUT_S)
                assert code == 0, f"ended with code {code}; its log:\n{pupil.trainer.log_text()[-3000:]}"
                pupil.account.follow(pupil.lines)
                assert pupil.account.is_between_epochs, "the record ends in the middle of an epoch"
            except AssertionError as error:
                self._deviates(f"{pupil.trainer}: {error}")

    def close(self) -> None:
        """End everything; what is left is a deviation."""
        self._stopping.set()
        self._open.close()

    def _close_stage(self, stage: Stage) -> None:
        for problem in stage.close():
            self._deviates(problem)

    def _deviates(self, what: str) -> None:
        self.deviations.append(what)
        self.say(f"DEVIATION {what}")

    # ---- what is said ----

    def progress(self, elapsed_s: float) -> str:
        """Where it is, in a line."""
        seen = [pupil.account.seen for pupil in self.pupils]
        return (
            f"{elapsed_s:6.0f} s  faults {self.done.total():4}  epochs {sum(one.epochs for one in seen):4}  "
            f"batches {sum(one.batches for one in seen):6}  {sum(one.nbytes for one in seen) / 1e9:6.2f} GB  "
            f"longest wait {max(one.longest_s for one in seen):5.1f} s  deviations {len(self.deviations)}"
        )

    def summary(self, elapsed_s: float) -> str:
        """All of it."""
        seen = [pupil.account.seen for pupil in self.pupils]
        lines = [self.progress(elapsed_s), "faults:"]
        lines += [f"  {count:4}  {name}" for name, count in sorted(self.done.items())]
        if (why := memory.why_not()) is not None:
            lines.append(f"     -  exhaust: {why}")
        if (why := pids.why_not()) is not None:
            lines.append(f"     -  no more processes: {why}")
        bits = sum((line.damaged for replica in self._replicas for line in replica.lines), Counter())
        hedged, retried, noticed = (
            sum(getattr(one, name) for one in seen) for name in ("hedged", "retried", "damaged")
        )
        lines += [
            # A trainer says so at the end of an epoch; of one that was killed before, the last ones are missing.
            f"keys asked of a second loader: {hedged}; asked again: {retried}",
            f"bits turned: {self._turned(bits)}; counted as damaged: {noticed}",
            f"a trainer had at most {max(one.fds for one in seen)} descriptors and "
            f"{max(one.rss for one in seen) / 1e6:.0f} MB",
        ]
        return "\n".join(lines)

    def _turned(self, bits: Counter[By]) -> str:
        if not self._tls:
            return f"{bits['grpc']}"
        return (
            f"{bits['lane']} on sealed lanes, {bits['grpc']} in gRPC's TLS (which breaks the connection off, uncounted)"
        )


class Busy(Exception):
    """Who this fault is for is being hurt already."""


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, metavar="N", help="how long faults are made (20)")
    parser.add_argument("--seed", default="", metavar="S", help="of the faults and their moments (random)")
    parser.add_argument("--tls", action="store_true", help="with certificates: batches travel by the sealed lane")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", default=[], help="only faults with TEXT in their names; again: more"
    )
    parser.add_argument("--keep", action="store_true", help="keep records and logs, also when all went well")
    asked = parser.parse_args()
    seed = asked.seed or secrets.token_hex(4)
    folder = Path(tempfile.mkdtemp(prefix="feedline-soak-"))
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    say(f"soak of {asked.minutes:g} minutes, --seed {seed}{' --tls' if asked.tls else ''}, in {folder}")
    soak = Soak(folder, seed, say, tls=asked.tls, only=asked.only)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit should end it as cleanly as a person
    is_interrupted = False
    try:
        try:
            soak.open()
            soak.run(asked.minutes * 60)
        finally:
            soak.close()
    except KeyboardInterrupt:
        is_interrupted = True
        say("ended by Ctrl-C")
    if soak.pupils:
        say(soak.summary(time.monotonic() - began))
    if soak.deviations:
        say(f"{len(soak.deviations)} DEVIATIONS; records and logs are in {folder}; again with --seed {seed}")
        return 1
    if not asked.keep:
        shutil.rmtree(folder)
    say("no deviations")
    return 130 if is_interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
