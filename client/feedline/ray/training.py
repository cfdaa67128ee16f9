"""A feed for one worker of Ray Train."""

from typing import Unpack

from feedline.ray.cluster import need_ray
from feedline.reading.feed import Feed
from feedline.reading.loader import Loader, Target, connect
from feedline.reading.options import FeedArguments
from feedline_wire.errors import InvalidRequest
from feedline_wire.extras import need


def feed(loader: Loader | Target, **arguments: Unpack[FeedArguments]) -> Feed:
    """The batches for this worker of Ray Train: `feedline.ray.feed("ray:digits", batch_size=64)`.

    Called in the training function: rank and world are those of `ray.train.get_context()`; the other arguments are
    those of `Loader.feed`. `loader` is a target, such as `"ray:digits"` or `"loader:50051"`, which is connected to with
    credentials of the environment, and left when the feed is closed; or what `feedline.connect` returned.

    Raises InvalidRequest outside of a training function, or if rank or world are given; ExtraMissing without Ray Train;
    else as `connect` and `Loader.feed` do.
    """
    place = _place()
    if given := sorted({"rank", "world"} & arguments.keys()):
        raise InvalidRequest(
            f"{' and '.join(given)} of feedline.ray.feed are those of Ray Train; leave out, or use Loader.feed"
        )
    arguments["rank"], arguments["world"] = place
    if isinstance(loader, Loader):
        return loader.feed(**arguments)
    own = connect(loader)
    try:
        made = own.feed(**arguments)
    except BaseException:
        own.close()
        raise
    made.closes = own.close
    return made


def _place() -> tuple[int, int]:
    need_ray()
    need(["pyarrow"], extra="ray")  # without it Ray Train cannot be imported
    import ray.train

    try:
        context = ray.train.get_context()
        return int(context.get_world_rank()), int(context.get_world_size())
    except RuntimeError as error:
        raise InvalidRequest(
            "feedline.ray.feed is for the training function of Ray Train (TorchTrainer(train_function, …)), where rank "
            "and world are known; elsewhere: feedline.connect(target).feed(rank=…, world=…)"
        ) from error
