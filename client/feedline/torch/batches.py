"""Batches of tensors: exact tuples and dicts, no copy on the CPU; on a device, copied there ahead of the step.

On the CPU a tensor is the memory that the batch was received into: 64-byte aligned, writable, the trainer's own, never
reused while a tensor of it is held.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch

from feedline.reading.batch import Batch
from feedline.reading.converted import ConvertedFeed, arrays, built
from feedline.reading.feed import Feed
from feedline.torch.device import Copies, CudaCopies, as_host_tensor
from feedline_wire.errors import InvalidRequest

AHEAD = 2
"""Batches copied to a device before they are asked for: one is copied while one waits. Each takes memory there."""


class Batches(ConvertedFeed[Any]):  # Any: as nested as the dataset declares
    """Batches of tensors, epoch after epoch. Made by `Feed.torch`.

    A batch is what the dataset declares: a tensor, or a tuple or dict of tensors; with `remainder="pad"` a tuple that
    ends with the weights; with `with_ids`, `(batch, ids)`. It is an iterable with a length and a state, which is what
    Lightning, accelerate's `register_for_checkpointing` and `torch.distributed.checkpoint` take without a `DataLoader`.

    With `device="cuda"` batches are copied there ahead, on a stream of their own. `pin_memory` receives them into
    pinned memory: None where they are copied to a CUDA device, True also for a loop that copies them itself. Raises
    InvalidRequest where there is no such device, and where ranks would have different numbers of steps.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        device: Any = None,  # noqa: ANN401  # what torch.device takes
        pin_memory: bool | None = None,
        with_ids: bool = False,
        copies: Copies | None = None,
    ) -> None:
        self._with_ids = with_ids
        self._device = torch.device("cpu" if device is None else device)
        self._copies = copies if copies is not None else _copies_to(self._device)
        self._copying: deque[tuple[Any, list[torch.Tensor]]] = deque()
        self._allocate: Callable[[int], torch.Tensor] | None = None
        super().__init__(feed, ahead=0 if self._copies is None else AHEAD)
        self.is_copying = self._copies is not None or self._device.type != "cpu"
        """Handing a batch over takes time of the trainer's: the stage `device`."""
        if self._copies is not None or _can_pin(pin_memory):
            self._allocate = (self._copies or CudaCopies).allocate
        if self._allocate is not None and pin_memory is not False:
            allocate = self._allocate
            feed.receive_into(lambda nbytes: allocate(nbytes).numpy())

    def __iter__(self) -> Iterator[Any]:
        """What is left of the current epoch; the one after it, when nothing is."""
        batches = super().__iter__()
        return batches if self._copies is None else map(self._arrived, batches)

    def convert(self, batch: Batch) -> Any:  # noqa: ANN401
        """The batch as tensors; where it is copied to a device, with what tells when it has arrived."""
        host = [as_host_tensor(array, self._allocate) for array in arrays(batch)]
        if self._copies is None:
            return built(
                batch.columns, [tensor.to(self._device) for tensor in host], self.feed, with_ids=self._with_ids
            )
        # A copy may read its host memory until it is done, also when all Python objects of the batch are gone.
        while self._copying and self._copying[0][0].query():
            self._copying.popleft()
        copied, done = self._copies.begin(host)
        self._copying.append((done, host))
        return built(batch.columns, copied, self.feed, with_ids=self._with_ids), copied, done

    def _arrived(self, sent: tuple[Any, list[torch.Tensor], Any]) -> Any:  # noqa: ANN401
        """The batch, for the stream that computes: it waits for the copy, Python does not."""
        assert self._copies is not None
        built, copied, done = sent
        self._copies.await_on_current_stream(copied, done)
        return built


def over(feed: Feed, **arguments: Any) -> Batches:  # noqa: ANN401  # those of Batches
    """What `Feed.torch` gives."""
    return Batches(feed, **arguments)


def _copies_to(device: torch.device) -> Copies | None:
    if device.type != "cuda":
        return None
    if not torch.cuda.is_available():
        raise InvalidRequest(
            f"device is {str(device)!r}, and torch finds no CUDA device here (torch.cuda.is_available() is False); "
            f"leave device out, or install a torch that is built for this machine's GPU"
        )
    return CudaCopies(device)


def _can_pin(wanted: bool | None) -> bool:
    if wanted and not torch.cuda.is_available():
        warnings.warn("pin_memory=True does nothing here: torch finds no CUDA device", stacklevel=4)
    return bool(wanted) and torch.cuda.is_available()
