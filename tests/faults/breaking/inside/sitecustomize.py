"""Runs in every process of a fault test before anything else: what only the process itself can be made to do.

SIGUSR1: take memory until the kernel ends the process. With BREAKING_CLOCK in the environment: a wall clock that jumps.
"""

import os
import random
import signal
import time
from typing import NoReturn

DAY_S = 86_400.0


def _take_memory(_number: int, _frame: object) -> NoReturn:
    taken = []
    while True:
        taken.append(b"\1" * (1 << 20))


def _jumping() -> float:
    return _time() + random.choice((-DAY_S, -1.0, 0.0, 1.0, DAY_S))


_time = time.time
signal.signal(signal.SIGUSR1, _take_memory)
if os.environ.get("BREAKING_CLOCK"):
    time.time = _jumping
    time.time_ns = lambda: int(_jumping() * 1e9)
