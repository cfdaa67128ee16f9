"""A feed's options, checked against what the loader serves.

Checked once and completely, so that a mistake is an error where it was made and not in a worker an hour later. What a
kind of dataset cannot promise is refused with the reason, not left out silently.
"""

import operator
import re
from dataclasses import dataclass
from typing import Literal, TypedDict

from feedline.connection.description import DatasetInfo, Description
from feedline.reading.plan import ENDLESS, LARGEST, REMAINDERS, Plan, Remainder
from feedline_wire.errors import InvalidRequest
from feedline_wire.key import most_rows
from feedline_wire.orders import parse

MOST_CONNECTIONS = 64
"""To one address. Each is a thread here and a place for a trainer there."""

BATCH_SIZE = 32
"""Keras' own default."""


class FeedArguments(TypedDict, total=False):
    """The keyword arguments of `Loader.feed`, for functions that pass them on; `Loader.feed` has the defaults."""

    view: str
    dataset: str | None
    batch_size: int | None
    order: str | None
    seed: int
    remainder: Remainder | None
    rank: int | Literal["auto"]
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
    """None: learnt, see fleet/rates."""
    prefetch_nbytes: int
    timeout_s: float

    def as_arguments(self) -> FeedArguments:
        """The arguments with which `Loader.feed` makes the same options."""
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


def fingerprint(text: str | bytes | None) -> str | None:
    """How a fingerprint begins, in lower case; InvalidRequest if this is none. Bytes are a whole one."""
    if text is None:
        return None
    text = text.hex() if isinstance(text, bytes) else str(text)
    if not re.fullmatch("[0-9a-f]{8,32}", text.lower()):
        raise InvalidRequest(
            f"fingerprint is {text!r}; wanted 8 to 32 hexadecimal digits, as `feedline inspect` shows them"
        )
    return text.lower()


def chosen(description: Description, name: str | None) -> DatasetInfo:
    """The dataset of that name, or the only one. Raises InvalidRequest, naming those that are served."""
    datasets = description.datasets
    if (error := description.disagreed.get(name or "")) is not None:
        raise error
    served = ", ".join(sorted(datasets)) or "nothing"
    if name is None and len(datasets) == 1:
        return next(iter(datasets.values()))
    if name is None:
        raise InvalidRequest(f"the loader serves {len(datasets)} datasets, say which: {served}")
    if name not in datasets:
        raise InvalidRequest(f"the loader serves no dataset {name!r}; it serves: {served}")
    return datasets[name]


def checked(
    description: Description,
    *,
    dataset: str | None,
    view: str,
    order: str | None,
    seed: int,
    batch_size: int | None,
    remainder: Remainder | None,
    rank: int,
    world: int,
    prefetch: int | None,
    prefetch_bytes: int,
    timeout_s: float,
) -> Options:
    """The options, if all of them make sense together. Raises InvalidRequest, saying which does not and what would."""
    info = chosen(description, dataset)
    _check_one_of("view", view, tuple(info.views), f"dataset {info.name!r} has")
    samples = info.views[view]
    if info.is_stream:
        _check_stream(info.name, order=order, seed=seed, world=world, remainder=remainder)
        samples = samples or ENDLESS
    if not samples:
        raise InvalidRequest(f"the view {view!r} of dataset {info.name!r} has no samples")
    if remainder is None:
        remainder = "short"
    _check_one_of("remainder", remainder, REMAINDERS, "there is")
    world = number("world", world, 1, 2**32 - 1, "the trainers of a job are counted from 1")
    plan = Plan(
        samples=samples,
        batch_size=_batch_size(info, batch_size),
        remainder=remainder,
        world=world,
        rank=number("rank", rank, 0, world - 1, f"the world has {world} ranks"),
    )
    if info.skips_bad_samples and world > 1 and plan.batch_size == 1:
        raise InvalidRequest(
            f"dataset {info.name!r} leaves bad samples out, and with world={world} and batches of one sample a rank "
            "would have no batch where the others have one, and they would wait for it; ask for batch_size=2 or more, "
            'or declare on_bad_sample = "error" or "substitute" on the loader'
        )
    if remainder == "drop" and plan.stride > samples:
        raise InvalidRequest(
            f"remainder 'drop' leaves nothing: a global batch has {world} x {plan.batch_size} samples and the view "
            f"{view!r} {samples}; ask for smaller batches, or for another remainder: {', '.join(REMAINDERS)}"
        )
    most = most_rows(samples, is_batched=info.is_batched)
    if plan.most_rows > most:
        raise InvalidRequest(
            f"batch_size is {plan.batch_size} with remainder {remainder!r}, and the view {view!r} has {samples} "
            f"samples, which are repeated in a batch of {most} at most; ask for smaller batches, or remainder 'short'"
        )
    nbytes = info.nbytes(plan.most_rows)
    if nbytes > description.max_batch_nbytes:
        fits = description.max_batch_nbytes * plan.most_rows // nbytes
        smaller = f"ask for about {fits} samples, or " if fits and not info.is_batched else ""
        raise InvalidRequest(
            f"a batch of {plan.most_rows} samples of {info.name!r} takes {nbytes} bytes, and the loader assembles "
            f"{description.max_batch_nbytes} at most; {smaller}start it with more memory"
        )
    if not timeout_s > 0:
        raise InvalidRequest(f"timeout_s is {timeout_s!r}; it is the number of seconds a batch may take, more than 0")
    if prefetch is not None:
        prefetch = number("prefetch", prefetch, 1, LARGEST, "it is the number of batches wanted ahead")
    nbytes = number("prefetch_bytes", prefetch_bytes, 1, LARGEST, "it is the memory for batches wanted ahead")
    return Options(
        dataset=info,
        view=view,
        order=_order(info, order),
        seed=number("seed", seed, 0, LARGEST, "seeds are 64 bits"),
        plan=plan,
        prefetch=prefetch,
        prefetch_nbytes=nbytes,
        timeout_s=timeout_s,
    )


def order_in_place(info: DatasetInfo) -> str:
    """The order of a dataset in which its samples come as they are stored, as far as it has one."""
    return "sequential" if "sequential" in info.orders else _order(info, None)


def epoch_number(epoch: int) -> int:
    """An epoch's number, checked."""
    return number("epoch", epoch, 0, LARGEST, "epochs are counted from 0")


def number(name: str, value: int, least: int, most: int, because: str) -> int:
    """A number as an int. Raises InvalidRequest, with the reason for its bounds, if it is none of least..most."""
    try:
        whole = operator.index(value)  # takes numpy's integers too
    except TypeError:
        whole = None
    if whole is None or isinstance(value, bool) or not least <= whole <= most:
        wanted = f"ask for {least}..{most}" if most < LARGEST else f"ask for {least} or more"
        wanted += ", a whole number" if whole is None else ""
        raise InvalidRequest(f"{name} is {value!r}; {because}, {wanted}")
    return whole


def _order(info: DatasetInfo, order: str | None) -> str:
    """The order's canonical text; None is the dataset's first."""
    wanted = info.orders[0] if order is None else order
    if wanted.partition(":")[0] not in info.orders:
        raise InvalidRequest(f"order is {order!r}; dataset {info.name!r} has: {', '.join(info.orders)}")
    return str(parse(wanted))


def _batch_size(info: DatasetInfo, batch_size: int | None) -> int:
    """Positions of a batch: samples, or one ready batch where the dataset's own code makes them."""
    if not info.is_batched:
        wanted = BATCH_SIZE if batch_size is None else batch_size
        return number("batch_size", wanted, 1, 2**32 - 1, "a batch has one sample or more, counted in 32 bits")
    if batch_size not in {None, 1}:
        raise InvalidRequest(
            f"batch_size is {batch_size!r}, and the batches of dataset {info.name!r} are made by its own code on the "
            f"loader, which decides their size; leave batch_size out here, and change it there"
        )
    return 1


def _check_stream(name: str, *, order: str | None, seed: int, world: int, remainder: str | None) -> None:
    """Raises InvalidRequest if a stream is asked for what only samples with numbers can have."""
    why = f"dataset {name!r} is a stream: whatever its code on the loader yields next comes next"
    if order not in {None, "stream"}:
        raise InvalidRequest(f"order is {order!r}, and {why}; leave order out, or serve the data as a dataset with len")
    if seed:
        raise InvalidRequest(f"seed is {seed!r}, and {why}, seeded there; leave seed out")
    if remainder not in {None, "short"}:
        raise InvalidRequest(f"remainder is {remainder!r}, and {why}, so that nothing is left over; leave it out")
    if world != 1:
        raise InvalidRequest(
            f"world is {world!r}, and {why}: it cannot be divided by ranks, and need not be, as every trainer gets "
            f"batches that no other one gets; leave rank and world out"
        )


def _check_one_of(name: str, value: str, choices: tuple[str, ...], where: str) -> None:
    if value not in choices:
        raise InvalidRequest(f"{name} is {value!r}; {where}: {', '.join(choices)}")
