"""The table's rows: one module a family, whose `measure(stage, rows)` gives the lines of the asked ones.

`ROWS` says which module has which row; rows that share a contest share a module, so that it is held once.
"""

from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from typing import TypeAlias

from benchmarks.lines import Line
from benchmarks.stage import Stage

Measure: TypeAlias = Callable[[Stage, Collection[int]], Iterator[Line]]

TITLES = {
    1: "shuffled batches to a remote trainer, against tf.data service",
    2: "over TCP, against torch DataLoader (2 workers) reading the same file locally",
    3: "over TCP, against grain, MosaicML streaming and Keras PyDataset reading locally",
    4: "end to end, against raw TCP on the same loopback",
    5: "the trainer's CPU seconds a GB, against tf.data service uncompressed",
    6: "CPU seconds a GB of both ends with the gather, against bare gather and raw TCP",
    7: "at 20 ms one way, against no delay",
    8: "small rows, against torch DataLoader's default",
    9: "images decoded and resized over the wire, against a bare OpenCV loop",
    10: "emulated accelerators with MLPerf Storage's parameters",
    11: "four trainers on one dataset, loader's CPU against one trainer's",
    12: "first batch of a view of 1,000,000,000 samples",
    13: "replicas with a transform that waits",
    14: "cold data, against the disk",
    15: "cheap samples of the operator's own code, against torch DataLoader (2 workers) on the same object",
    16: "under TLS, against gRPC and against the tcp lane without TLS",
    17: "data that must be decoded, against reading it whole and shuffling in memory",
    18: "a fleet on Ray, against Ray Data's iter_torch_batches of the same files",
    19: "starts, against what they cannot do without",
    20: "over thin lines, compressed where it is faster, against not and against tf.data service's default",
    21: "photographs decoded and resized, against torchvision in a DataLoader and tf.data",
    22: "cold data, twice the memory, against the disk",
}

MODULES = {
    "remote": (1, 5),
    "local": (2, 3, 8),
    "limits": (4, 6),
    "sealed": (16,),
    "far": (7,),
    "images": (9,),
    "accelerators": (10,),
    "sweep": (11,),
    "first_batch": (12,),
    "replicas": (13,),
    "cold": (14,),
    "own_code": (15,),
    "decoded": (17,),
    "ray": (18,),
    "starts": (19,),
    "thin": (20,),
    "photographs": (21,),
    "scarce": (22,),
}
"""In the order in which they run."""


def measures(rows: Collection[int]) -> Iterator[tuple[tuple[int, ...], Measure]]:
    """The asked rows with what measures them."""
    for module, theirs in MODULES.items():
        if asked := tuple(row for row in theirs if row in rows):
            yield asked, import_module(f"benchmarks.rows.{module}").measure
