"""Loaders that are to keep to their cores do, and so do all their workers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

SCRIPT = """
import os, sys
from pathlib import Path
from feedline_server.host.signals import StopSignals
from feedline_server.running.sizing import Sizing
from feedline_server.running.supervisor import serve_replicas
from feedline_server.settings.settings import load_settings

stop = StopSignals()
said = {"listen": "127.0.0.1:0", "replicas": 2, "workers": 2, "memory": "64MiB"}
cores = tuple((int(core),) for core in sys.argv[2:])
settings = load_settings(Path(sys.argv[1]), said)
sys.exit(serve_replicas(settings, Sizing(2, 2, cores), stop, lambda ports: print(*ports, flush=True)))
"""


def test_each_loader_and_its_workers_keep_to_the_cores_of_their_node(hundred_and_one: Path) -> None:
    mine = sorted(os.sched_getaffinity(0))
    first, last = mine[0], mine[-1]
    words = [sys.executable, "-c", SCRIPT, str(hundred_and_one), str(first), str(last)]

    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as command:
        try:
            assert command.stdout is not None
            ports = command.stdout.readline().split()
            loaders = psutil.Process(command.pid).children()
            kept = [[one.cpu_affinity() for one in (loader, *loader.children())] for loader in loaders]
        finally:
            command.send_signal(signal.SIGTERM)
            code = command.wait(60)

    assert len(ports) == 2
    assert sorted(kept) == [[[first], [first]], [[last], [last]]]
    assert code == 0
