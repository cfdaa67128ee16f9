"""The stages of a batch, and how a wait for it is cut among them.

A loader says with each batch how long it was in each of its stages; the trainer, which knows how long the answer took,
adds its own. Durations only: no clock of one host is compared with that of another. OF_LOADER and STAGES are orders on
the wire: a new stage comes last.
"""

import struct
from collections.abc import Mapping, Sequence

TRANSFORM = "transform"

OF_WORKER = ("storage", "read", TRANSFORM, "assemble")
"""What a worker does, in this order. storage: it waits while it reads, mostly for the disk; read: the rest of reading,
decoding included; assemble: laying out."""

OF_LOADER = ("queue", "send", *OF_WORKER)
"""What a loader says with a batch. queue: until a worker begins; send: from ready until it goes onto the line."""

STAGES = ("loader", "receive", "deferred", "device", *OF_LOADER)
"""What a trainer waits for. loader: none answered, or one that times nothing; receive: the way to the loader and back;
deferred: transforms that the trainer does itself; device: copying to an accelerator."""

_BACKWARDS = (1, *range(len(OF_LOADER) - 1, 1, -1), 0)
"""Of OF_LOADER, the last that happens to a batch first."""

_FORM = struct.Struct(f"<{len(OF_LOADER)}f")

pack = _FORM.pack
"""The durations of OF_LOADER, in seconds, as they travel: packed `Piece.stages_s`."""


def unpack(wire: bytes) -> tuple[float, ...]:
    """The durations that arrived; none of a loader that times nothing. Stages that are not known here are left out."""
    return _FORM.unpack_from(wire) if len(wire) >= _FORM.size else ()


def cut(stall_s: float, took_s: float, of_loader: Sequence[float]) -> dict[str, float]:
    """How much of a wait, which ended with a batch, was for which stage.

    `took_s` is from asking for the batch to its arrival. What the loader's stages do not explain of it is the way there
    and back. Each stage is laid before the one after it, and counts as far as it reaches into the wait; what was waited
    before the batch was asked for is the loader that did not answer. A loader may say anything: no more than the wait
    is cut.
    """
    parts: dict[str, float] = {}
    left = stall_s
    if of_loader:
        left = min(stall_s, took_s)
        receive = min(took_s - sum(of_loader), left)
        if receive > 0:
            parts["receive"] = receive
            left -= receive
        for at in _BACKWARDS:
            if left <= 0:
                break
            if of_loader[at] > 0:
                parts[OF_LOADER[at]] = part = min(of_loader[at], left)
                left -= part
        left += max(stall_s - took_s, 0.0)
    if left > 0:
        parts["loader"] = left
    return parts


def listed(waited: Mapping[str, float]) -> list[int]:
    """Seconds by stage as they travel: microseconds in the order of STAGES."""
    return [int(waited.get(stage, 0.0) * 1e6) for stage in STAGES]


def named(waited_us: Sequence[int]) -> dict[str, float]:
    """Seconds by stage that arrived, without those that are 0 or not known here."""
    return {stage: us / 1e6 for stage, us in zip(STAGES, waited_us, strict=False) if us}
