"""Copies to a device that go on while Python goes on, and the host memory that they read.

torch's caching host allocator gives a pinned block out again only when the copies that it knows of are done, and it
knows a block by its tensor's storage. So batches are received into `torch.empty(…, pin_memory=True)`, and slices of
that are copied: `torch.from_numpy` of the same bytes, or memory that was pinned otherwise, would be reused too soon.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Copies(Protocol):
    """How batches get to a device. What `begin` gives as `done` has `query()`: the copies are done."""

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Host memory (uint8, 1-D, 64-byte aligned) to copy from. Any thread."""
        ...

    def begin(self, host: list[torch.Tensor]) -> tuple[list[torch.Tensor], Any]:
        """Begin to copy these; the tensors on the device, and what tells when they are done. Does not wait."""
        ...

    def await_on_current_stream(self, copied: list[torch.Tensor], done: Any) -> None:  # noqa: ANN401
        """What is computed from now on waits for the copies. Does not wait itself."""


class CudaCopies:
    """Copies to one CUDA device, on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    @staticmethod
    def allocate(nbytes: int) -> torch.Tensor:
        """See `Copies`. Pinned memory; torch keeps it for the next batch when the copies are done."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def begin(self, host: list[torch.Tensor]) -> tuple[list[torch.Tensor], Any]:
        """See `Copies`."""
        with torch.cuda.stream(self._stream):
            copied = [tensor.to(self._device, non_blocking=True) for tensor in host]
            return copied, self._stream.record_event()

    def await_on_current_stream(self, copied: list[torch.Tensor], done: Any) -> None:  # noqa: ANN401
        """See `Copies`."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(done)
        for tensor in copied:  # its memory belongs to the stream that copied, until this one has used it too
            tensor.record_stream(current)


def as_host_tensor(array: NDArray[Any], allocate: Callable[[int], torch.Tensor] | None) -> torch.Tensor:
    """The array's memory as a tensor; with `allocate`, a slice of the tensor that it was received into.

    Copied into a new one is what came by another way: the shm lane, a deferred transform, a batch that was under way.
    """
    typed = torch.from_numpy(array)
    if allocate is None:
        return typed
    root: Any = array.base.base if isinstance(array.base, np.ndarray) else None
    if isinstance(root, torch.Tensor):
        start = typed.data_ptr() - root.data_ptr()
        return root[start : start + array.nbytes].view(typed.dtype).view(array.shape)
    return allocate(array.nbytes).view(typed.dtype).view(array.shape).copy_(typed)
