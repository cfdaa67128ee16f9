"""What a line carries is told by its quickest moment, and how busy it is by what had to be carried."""

import socket
import threading

import pytest

from feedline_server.lanes.line import MOMENT_S, WINDOW_S, LineMeter, TcpLine, TimedLine


class Clock:
    """A line and a clock in the test's hands."""

    def __init__(self) -> None:
        self.now = 100.0
        self.line = TimedLine()
        self.meter = LineMeter(self.line, lambda: self.now)

    def carry(self, nbytes: int, busy_s: float, seconds: float) -> None:
        self.line.took(nbytes, busy_s)
        self.now += seconds


def test_a_window_has_the_quickest_moment_and_the_part_in_which_there_was_something_to_carry() -> None:
    clock = Clock()
    for _ in range(19):
        clock.carry(1_000_000, 0.05, 0.1)
        assert clock.meter.sent(3_000_000) is None
    clock.carry(5_000_000, 0.05, 0.1001)

    window = clock.meter.sent(3_000_000)

    assert window is not None
    assert window.seconds == pytest.approx(2.0, rel=0.01)
    assert window.busy == pytest.approx(0.5, rel=0.01)
    assert window.quickest == pytest.approx(50e6, rel=0.01)
    assert window.sent == pytest.approx(30e6, rel=0.01)


def test_what_comes_within_a_moment_counts_together() -> None:
    """A buffer takes megabytes at once: that is no rate. A moment may have one more of them than it should."""
    clock = Clock()
    windows = []
    for number in range(int(3 * WINDOW_S / (MOMENT_S / 4))):
        clock.carry(4_000_000 if number % 4 == 0 else 0, 0.0, MOMENT_S / 4)
        windows.append(clock.meter.sent(0))

    seen = [window for window in windows if window is not None]
    assert len(seen) == 2  # the third has not ended
    assert all(window.quickest <= 2 * 4_000_000 / MOMENT_S for window in seen)


def test_the_next_window_knows_nothing_of_the_last() -> None:
    clock = Clock()
    clock.carry(1_000_000_000, WINDOW_S, WINDOW_S)
    assert clock.meter.sent(1_000_000_000) is not None
    clock.carry(1_000, 0.6 * WINDOW_S, WINDOW_S)

    window = clock.meter.sent(3_000)

    assert window is not None
    assert window.quickest == pytest.approx(1_000 / WINDOW_S)
    assert window.sent == pytest.approx(3_000 / WINDOW_S)


@pytest.mark.parametrize(("busy_s", "is_pause"), [(0.0, True), (5.0, False)])
def test_a_pause_of_the_trainer_is_in_no_window_and_a_line_that_took_long_is(busy_s: float, is_pause: bool) -> None:
    clock = Clock()
    clock.carry(1_000_000, 0.1, 0.1)
    assert clock.meter.sent(1_000_000) is None
    clock.carry(1_000_000, busy_s, 5.0)

    assert (clock.meter.sent(1_000_000) is None) == is_pause
    for _ in range(30):
        clock.carry(1_000_000, 0.1, 0.1)
        if (window := clock.meter.sent(1_000_000)) is not None:
            break

    assert window is not None
    assert window.sent == pytest.approx(10e6, rel=0.1)


def test_the_kernel_says_what_a_connection_carried_and_for_how_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    with sender, receiver:
        line = TcpLine(sender)
        before = line.passed()
        sending = threading.Thread(target=sender.sendall, args=(bytes(64 << 20),))
        sending.start()
        while len(receiver.recv(1 << 20, socket.MSG_PEEK)) < 1:
            pass
        left = 64 << 20
        while left:
            left -= len(receiver.recv(1 << 20))
        sending.join()

        after = line.passed()

    assert before.nbytes <= 1  # the SYN counts
    assert after.nbytes >= 60 << 20
    assert after.busy_s > 0
