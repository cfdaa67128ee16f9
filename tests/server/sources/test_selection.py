"""Which views share samples: of few views every two that do, of many one line, in the time that sorting takes."""

import time
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feedline_server.sources.selection import Chosen, leaks, overlaps


def selection(ids: list[int]) -> Chosen:
    return range(ids[0], ids[0] + len(ids)) if len(ids) % 2 else np.array(ids)


VIEWS = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6).map(selection), min_size=1, max_size=12)


@given(VIEWS)
def test_every_view_that_shares_samples_is_in_a_pair_and_every_pair_shares(views: list[Chosen]) -> None:
    found = overlaps(views)

    sharing = {(one, other) for one, other in combinations(range(len(views)), 2) if {*views[one]} & {*views[other]}}
    assert set(found) <= sharing
    assert {view for pair in found for view in pair} == {view for pair in sharing for view in pair}


MEANT = ": what is trained on is also measured on, unless that is meant"


def test_of_few_views_every_two_are_named() -> None:
    views = {"train": range(6), "validation": np.array([5, 7, 7]), "test": np.array([0, 7])}

    assert list(leaks(views)) == [
        "view 'validation' holds 1 sample (7) more than once",
        "views 'train' and 'validation' share 1 sample (5)" + MEANT,
        "views 'train' and 'test' share 1 sample (0)" + MEANT,
        "views 'validation' and 'test' share 1 sample (7)" + MEANT,
    ]


def test_10_000_views_are_one_line_and_take_no_minutes() -> None:
    """1,000 took 8.5 s and 3 MB of log; 10,000 never came to an end."""
    views = {f"v{number}": range(3 * number, 3 * number + 4) for number in range(10_000)}
    views["alone"] = range(50_000, 50_001)
    started = time.process_time()

    assert list(leaks(views)) == [
        "10000 of 10001 views share samples with others, 'v0' and 'v1' 1 sample (3) for instance" + MEANT
    ]
    assert time.process_time() - started < 10


def test_many_views_that_hold_samples_twice_are_one_line() -> None:
    views = {f"v{number}": np.array([number, number]) for number in range(20)}

    assert list(leaks(views)) == ["view 'v0' holds 1 sample (0) more than once, and 19 more views hold some"]
