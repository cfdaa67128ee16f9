"""Row 20: batches over thin lines, compressed where that is faster, against not and against tf.data service's default.

Each contestant has a line of its own: an address of this host to and from which the kernel lets so many bytes a
second pass (benchmarks/loopback.py), at no processor time that could be told from none. All lines are by the tcp lane;
a loader and its trainers share the machine's cores, so what compressing takes of them is taken from the trainer as
well. Rates are of batches' own bytes, whatever stood for them on the line.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import lanes, loopback
from benchmarks.consumer import MissingError
from benchmarks.lines import Bound, Line
from benchmarks.peers import feedline_loader, tf_data_service
from benchmarks.stage import Contestant, Stage, say
from benchmarks.way import free_port

MB_PER_S = (125, 1250)
BATCH_NBYTES = 1 << 20
ROWS_NBYTES = {"photographs": 131072, "tables": 4096, "tokens": 4096, "masks": 65536}

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
"""Of the contestants, each behind its line."""

SETTLE_S = 2.5
"""In which the line is seen to be thin (2 s). A pause between two stretches is in no window, and ends nothing."""

AUTO, OFF = "feedline, compression auto", "feedline, compression off"
PEER = "tf.data service, its default compression"


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    for mb_per_s in MB_PER_S[: 1 if stage.scale.is_quick else None]:
        for kind, row_nbytes in ROWS_NBYTES.items():
            folder = stage.samples(row_nbytes, 64 << 20, kind)
            what = f"{kind}, line of {mb_per_s} MB/s"
            say(f"  {what}")
            with ExitStack() as running:
                try:
                    running.enter_context(loopback.alone())
                    loopback.thin(mb_per_s, HOSTS)
                except MissingError as error:
                    yield Line(20, f"{what}, against none", "GB/s", why_not=str(error))
                    continue
                contestants = {}
                for name, said, host in ((AUTO, "auto", HOSTS[0]), (OFF, "off", HOSTS[1])):
                    listen = (*lanes.arguments("tcp"), "--listen", f"{host}:0")
                    address, pid = running.enter_context(feedline_loader.serving(folder, stage.scratch, *listen))
                    here = f"{host}:{address.rpartition(':')[2]}"
                    contestants[name] = Contestant(
                        "feedline_loader", {"address": here, "connect": {"compression": said}}, (pid,)
                    )
                port = str(free_port())
                serving = tf_data_service.serving(port, f"{HOSTS[2]}:{port}")
                service, service_pid = running.enter_context(serving)
                peer = {"address": service, "compression": "AUTO", "pipeline": "vectorised"}
                contestants[PEER] = Contestant("tf_data_service", peer, (service_pid,))
                pace = replace(stage.scale.pace, settle_s=SETTLE_S)
                outcome = stage.contest(folder, BATCH_NBYTES // row_nbytes, contestants, pace)
            yield outcome.line(20, f"{what}, against none", AUTO, OFF, bound=Bound(">=", 0.97))
            yield outcome.line(20, f"{what}, against tf.data service", AUTO, PEER, bound=None)
