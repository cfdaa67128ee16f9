"""How many streams there may be, and of which caller: decided before a stream has sent anything."""

from collections.abc import Sequence
from dataclasses import dataclass

from feedline_server.access.tokens import Caller
from feedline_server.scheduling.stream import Stream
from feedline_wire.errors import LoaderBusy


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """The limits on streams."""

    max_trainers: int
    max_streams_per_client: int | None

    def check(self, streams: Sequence[Stream], caller: Caller) -> None:
        """Raises LoaderBusy, saying what to change, if `caller` can have no stream beside these."""
        if len(streams) >= self.max_trainers:
            raise LoaderBusy(
                f"this loader serves {len(streams)} streams and takes no more (max_trainers = {self.max_trainers}); "
                f"add a replica or raise max_trainers",
                elsewhere=True,
            )
        of_caller = sum(stream.caller.name == caller.name for stream in streams)
        if self.max_streams_per_client is not None and of_caller >= self.max_streams_per_client:
            raise LoaderBusy(
                f"this loader serves {of_caller} streams of {caller.name} and takes no more "
                f"(max_streams_per_client = {self.max_streams_per_client}); "
                f"close some, add a replica or raise max_streams_per_client",
                elsewhere=True,
            )
