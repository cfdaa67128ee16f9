"""How many streams there may be, and of which caller: decided before a stream has sent anything."""

from collections.abc import Sequence

from feedline_server.scheduling.stream import Stream
from feedline_wire.errors import LoaderBusy


def check_admission(
    streams: Sequence[Stream], caller: str, *, max_trainers: int, max_streams_per_client: int | None
) -> None:
    """Raises LoaderBusy, saying what to change, if the caller of this name can have no stream beside these."""
    if len(streams) >= max_trainers:
        raise LoaderBusy(
            f"this loader serves {len(streams)} streams and takes no more (max_trainers = {max_trainers}); "
            f"add a replica or raise max_trainers",
            elsewhere=True,
        )
    of_caller = sum(stream.caller.name == caller for stream in streams)
    if max_streams_per_client is not None and of_caller >= max_streams_per_client:
        raise LoaderBusy(
            f"this loader serves {of_caller} streams of {caller} and takes no more "
            f"(max_streams_per_client = {max_streams_per_client}); "
            f"close some, add a replica or raise max_streams_per_client",
            elsewhere=True,
        )
