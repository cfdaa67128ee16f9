"""What a feed was asked to be, checked against what the loader serves.

Checked here once and completely, so that a mistake is told where it was made and not by a worker an hour later.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

from feedline.description import DatasetInfo, Description
from feedline.plan import REMAINDERS, Plan, Remainder
from feedline.state import LARGEST
from feedline_wire.errors import InvalidRequest

MOST_CONNECTIONS = 64
"""To one address. Each is a thread here and a place for a trainer there."""


class FeedArguments(TypedDict, total=False):
    """The keyword arguments of `Loader.feed`, for those who pass them on; `Loader.feed` has the defaults."""

    view: str
    dataset: str | None
    batch_size: int
    order: str
    seed: int
    remainder: Remainder | None
    rank: int
    world: int
    prefetch: int | None
    prefetch_bytes: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Options:
    """A feed's options, checked."""

    dataset: DatasetInfo
    view: str
    order: str
    seed: int
    plan: Plan
    prefetch: int | None
    """None: learnt, see pace.Reach."""
    prefetch_nbytes: int
    timeout_s: float

    def as_arguments(self) -> FeedArguments:
        """What `Loader.feed` makes the same options of."""
        return FeedArguments(
            dataset=self.dataset.name,
            view=self.view,
            order=self.order,
            seed=self.seed,
            batch_size=self.plan.batch_size,
            remainder=self.plan.remainder,
            rank=self.plan.rank,
            world=self.plan.world,
            prefetch=self.prefetch,
            prefetch_bytes=self.prefetch_nbytes,
            timeout_s=self.timeout_s,
        )


def chosen(description: Description, name: str | None) -> DatasetInfo:
    """The dataset of that name, or the only one; InvalidRequest says what there is."""
    datasets = description.datasets
    if name is None and len(datasets) == 1:
        return next(iter(datasets.values()))
    if name is None:
        raise InvalidRequest(f"the loader serves {len(datasets)} datasets, say which: {_listed(datasets)}")
    if name not in datasets:
        raise InvalidRequest(f"the loader serves no dataset {name!r}; it serves: {_listed(datasets)}")
    return datasets[name]


def checked(
    description: Description,
    *,
    dataset: str | None,
    view: str,
    order: str,
    seed: int,
    batch_size: int,
    remainder: Remainder | None,
    rank: int,
    world: int,
    prefetch: int | None,
    prefetch_bytes: int,
    timeout_s: float,
) -> Options:
    """The options, if all of them make sense together; InvalidRequest says which one does not and what would."""
    info = chosen(description, dataset)
    samples = info.views.get(_one_of("view", view, tuple(info.views), f"dataset {info.name!r}"), 0)
    if not samples:
        raise InvalidRequest(f"the view {view!r} of dataset {info.name!r} has no samples")
    if remainder is None:
        remainder = "short"
    plan = Plan(
        samples=samples,
        batch_size=_number("batch_size", batch_size, 1, samples, f"the view {view!r} has {samples} samples"),
        remainder=_remainder(remainder),
        world=(world := _number("world", world, 1, 2**32 - 1, "the trainers of a job are counted from 1")),
        rank=_number("rank", rank, 0, world - 1, f"the world has {world} ranks"),
    )
    if remainder == "drop" and plan.stride > samples:
        raise InvalidRequest(
            f"remainder 'drop' leaves nothing: a global batch has {world} x {batch_size} samples and the view {view!r} "
            f"{samples}; ask for smaller batches, or for another remainder: {', '.join(REMAINDERS)}"
        )
    nbytes = info.nbytes(plan.batch_size)
    if nbytes > description.max_batch_nbytes:
        raise InvalidRequest(
            f"a batch of {batch_size} samples of {info.name!r} takes {nbytes} bytes, and the loader assembles "
            f"{description.max_batch_nbytes} at most; ask for about "
            f"{description.max_batch_nbytes * plan.batch_size // nbytes} samples, or start it with more memory"
        )
    if not timeout_s > 0:
        raise InvalidRequest(f"timeout_s is {timeout_s!r}; it is the number of seconds a batch may take, more than 0")
    return Options(
        dataset=info,
        view=view,
        order=_one_of("order", order, info.orders, f"dataset {info.name!r}"),
        seed=_number("seed", seed, 0, LARGEST, "seeds are 64 bits"),
        plan=plan,
        prefetch=(
            None
            if prefetch is None
            else _number("prefetch", prefetch, 1, LARGEST, "it is the number of batches wanted ahead")
        ),
        prefetch_nbytes=_number(
            "prefetch_bytes", prefetch_bytes, 1, LARGEST, "it is the memory for batches wanted ahead"
        ),
        timeout_s=timeout_s,
    )


def connections_number(connections: int) -> int:
    """How many connections are opened to each address, checked."""
    return _number("connections", connections, 1, MOST_CONNECTIONS, "they are counted for each address")


def epoch_number(epoch: int) -> int:
    """An epoch's number, checked."""
    return _number("epoch", epoch, 0, LARGEST, "epochs are counted from 0")


def start_number(start: int, steps: int) -> int:
    """The number of the batch to start at, checked; `steps` is the epoch's end."""
    return _number("start", start, 0, steps, f"the epoch has {steps} batches")


def _number(name: str, value: int, least: int, most: int, because: str) -> int:
    try:
        number = operator.index(value)  # numpy's integers are welcome
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not least <= number <= most:
        wanted = f"ask for {least}..{most}" if most < LARGEST else f"ask for {least} or more"
        raise InvalidRequest(f"{name} is {value!r}; {because}, {wanted}")
    return number


def _one_of(name: str, value: str, there: tuple[str, ...], where: str) -> str:
    if value not in there:
        raise InvalidRequest(f"{name} is {value!r}; {where} has: {', '.join(there)}")
    return value


def _remainder(value: str) -> Remainder:
    match value:
        case "drop" | "short" | "pad" | "wrap":
            return value
    raise InvalidRequest(f"remainder is {value!r}; there is: {', '.join(REMAINDERS)}")


def _listed(datasets: Iterable[str]) -> str:
    return ", ".join(sorted(datasets)) or "nothing"
