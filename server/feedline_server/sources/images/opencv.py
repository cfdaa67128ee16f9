"""OpenCV, as workers use it: imported when it is needed, and without threads of its own."""

from typing import Any

from feedline_wire.errors import InvalidRequest
from feedline_wire.extras import pip_install
from feedline_wire.memory import keep_freed_memory


def opencv(what: str) -> Any:  # noqa: ANN401  # a module
    """The module `cv2`; InvalidRequest saying what to install if it cannot be imported. `what` needs it."""
    try:
        import cv2
    except ImportError as error:
        raise InvalidRequest(
            f"{what} needs OpenCV, which cannot be imported ({error}): {pip_install('images')}"
        ) from error
    keep_freed_memory()  # or every page of every decoded image is taken from the kernel anew: 40 % of the whole time
    cv2.setNumThreads(1)  # each worker has its core: threads of its own would only push the others aside
    return cv2


def interpolation(cv2: Any, name: str) -> int:  # noqa: ANN401  # the module
    """OpenCV's number for a way to resize: nearest, linear, area or cubic."""
    number: int = getattr(cv2, f"INTER_{name.upper()}")
    return number
