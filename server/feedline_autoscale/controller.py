"""Looks at the fleet every few seconds and decides; others ask what was decided last, or wait for it to change.

Nothing is kept but what was decided over the last minutes: another controller that looks at the same fleet decides the
same, and one that begins anew takes no loader away before it has looked for a whole window.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from feedline.watching.fleet_watch import Seen
from feedline.watching.scaling import Policy, Recommendation, decide, kept

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Decided:
    """The last look, and what follows from it."""

    seen: Seen
    recommendation: Recommendation
    looks: int = field(default=1)
    """Until now."""

    @property
    def is_active(self) -> bool:
        """There should be a loader."""
        return self.recommendation.replicas > 0


class Controller:
    """Looks and decides from `start` to `close`. Thread-safe."""

    def __init__(self, see: Callable[[], Seen], policy: Policy, every_s: float) -> None:
        self.policy = policy
        self._see = see
        self._every_s = every_s
        self._changed = threading.Condition()
        self._decided: Decided | None = None
        self._past: list[Recommendation] = []
        self._is_closed = False
        self._hurried = threading.Event()
        self.thread = threading.Thread(target=self._run, name="feedline-autoscale", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def hurry(self) -> None:
        """Look now: there is something new. Does not wait."""
        self._hurried.set()

    @property
    def decided(self) -> Decided | None:
        """What was decided last; None until something could be seen of the fleet."""
        return self._decided

    def wait(self, known: Decided | None, timeout_s: float) -> Decided | None:
        """Blocks until something else than `known` was decided, or for `timeout_s`; what was decided last."""
        with self._changed:
            self._changed.wait_for(lambda: self._decided is not known or self._is_closed, timeout_s)
            return self._decided

    @property
    def is_closed(self) -> bool:
        """It looks no more."""
        return self._is_closed

    def close(self) -> None:
        """End, and wake those who wait. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._hurried.set()

    def look(self) -> Decided | None:
        """Look once and decide. For the controller's thread, or where it was not started."""
        seen = self._see()
        if not (seen.look.is_known or seen.look.knocking or self._past):
            log.warning("nothing is known of the fleet yet", problems=dict(seen.problems))
            return None
        made = decide(seen.look, self._past, self.policy)
        before = self._past[-1] if self._past else None
        if before is None or before.replicas != made.replicas:
            log.info("loaders wanted", replicas=made.replicas, there=seen.look.replicas, reason=made.reason)
        self._past = kept([*self._past, made], made.at, self.policy)
        looks = self._decided.looks + 1 if self._decided is not None else 1
        with self._changed:
            self._decided = Decided(seen, made, looks)
            self._changed.notify_all()
        return self._decided

    def _run(self) -> None:
        while not self._is_closed:
            self._hurried.clear()
            self.look()
            self._hurried.wait(self._every_s)
