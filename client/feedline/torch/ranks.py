"""Which rank of a job this process is, as `torch.distributed` knows it."""

import os

import torch.distributed

from feedline_wire.errors import InvalidRequest


def rank_and_world(wanted: str = "auto") -> tuple[int, int]:
    """This process' rank and the number of ranks; (0, 1) where there is no job of several.

    Raises InvalidRequest where a launcher started several processes and `torch.distributed` is not initialised yet:
    each of them would read everything.
    """
    if wanted != "auto":
        raise InvalidRequest(f"rank is {wanted!r}; it is a number, or 'auto' for the rank in torch.distributed")
    if _is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    if (world := world_size()) > 1:
        raise InvalidRequest(
            f"rank is 'auto', WORLD_SIZE is {world}, and torch.distributed is not initialised in this process; call "
            f"torch.distributed.init_process_group() before (accelerate and Lightning do), or pass rank= and world="
        )
    return 0, 1


def world_size() -> int:
    """The number of ranks, also while only the launcher knows it (torchrun, accelerate, Lightning)."""
    return torch.distributed.get_world_size() if _is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def _is_initialized() -> bool:
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())
