"""Who knocks is counted by host, for as long as it does."""

from feedline_autoscale.knocks import LASTING_S, MOST, Knocks


def test_trainers_of_a_host_count_once_and_as_long_as_they_knock() -> None:
    now = 100.0
    knocks = Knocks(lambda: now)

    assert knocks.knock("a") == 0
    assert knocks.knock("b") == 0
    now = 110.0
    assert knocks.knock("a") == 10
    assert knocks.count == 2
    now = 101.0 + LASTING_S
    assert knocks.count == 1
    now = 111.0 + LASTING_S
    assert knocks.count == 0
    assert knocks.knock("b") == 0


def test_knocks_of_ever_new_hosts_are_bounded() -> None:
    knocks = Knocks(lambda: 0.0)

    for host in range(MOST + 10):
        knocks.knock(str(host))

    assert knocks.count == MOST
