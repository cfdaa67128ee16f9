"""The verdict on a training: what its own readers waited for, and what each loader says of the last minute."""

import logging
from typing import TYPE_CHECKING

from feedline.fleet.fleet import Fleet
from feedline.watching.waits import Waits
from feedline_wire.figures import trainings

if TYPE_CHECKING:
    from feedline_wire.verdict import Verdict

STATUS_S = 5.0
"""A loader answers in milliseconds, behind the batches of a thin line in seconds; one that does not is left out."""

log = logging.getLogger("feedline")


def why(fleet: Fleet, waits: Waits) -> "Verdict":
    """What holds this trainer back, or the slowest rank of its job. Asks the loaders."""
    # A tenth of what `import feedline` takes, and nobody asks before batches were waited for.
    from feedline_wire.status import readers_of, replicas_of
    from feedline_wire.verdict import decide

    own = waits.recent()
    statuses = fleet.statuses(STATUS_S)
    ranks = [one for one in readers_of(statuses.values()) if one.trainer != own.trainer]
    job = next(group for group in trainings([own, *ranks]) if own in group)
    return decide(job, replicas_of(statuses))


def log_why(fleet: Fleet, waits: Waits) -> None:
    """Write the verdict into the log."""
    log.warning("%s", why(fleet, waits))
