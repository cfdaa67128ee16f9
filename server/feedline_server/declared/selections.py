"""How a view is written: `start:stop`, or the name of an `.npy` file of sample ids."""

import re

WANTED = 'start:stop, such as "0:1500", "1500:" or ":-100", or the name of an .npy file of sample ids'

SLICE = re.compile(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*")
"""Both bounds, as text; either may be left out."""


def check_form(text: str) -> None:
    """ValueError saying what is wanted, if the text is neither a slice nor a file name."""
    if text.count(":") > 1 and not text.endswith(".npy"):
        raise ValueError(f"{WANTED}; a step is not allowed")
    if not SLICE.fullmatch(text) and not text.endswith(".npy"):
        raise ValueError(WANTED)
