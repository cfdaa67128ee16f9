"""A key that was asked for, as it shows itself."""

import numpy as np

from feedline.connection.buffers import Received
from feedline.fleet.requests import PendingBatch
from feedline_wire.errors import LoaderBusy
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

KEY = Key("voxels", b"\x01", "train", "shuffle", seed=0, epoch=3, offset=118, rows=32)


def wanted() -> PendingBatch:
    return PendingBatch(7, KEY, 1000)


def test_a_want_shows_what_became_of_it() -> None:
    want = wanted()
    assert repr(want) == f"<PendingBatch {KEY} pending>"

    want.outcome = Received(np.empty(0, np.uint8), Layout((), 0))
    assert repr(want) == f"<PendingBatch {KEY} ready>"

    want.outcome = LoaderBusy("full")
    assert repr(want) == f"<PendingBatch {KEY} LoaderBusy('full')>"
