"""`RemoteSequence`, and callbacks, for Keras 3. The only package that imports it, and only when a name of it is used.

    from feedline.keras import RemoteSequence, WaitingTime

    model.fit(RemoteSequence("loader:50051"), callbacks=[WaitingTime()])

What is the same in Keras 2 (`feedline.tf_keras`) is in modules that import no framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from feedline_wire.extras import ExtraMissing, need

if TYPE_CHECKING:
    from feedline.keras.resume import SaveState as SaveState
    from feedline.keras.sequence import RemoteSequence as RemoteSequence
    from feedline.keras.sequence import zip  # noqa: A004
    from feedline.keras.waiting_time import WaitingTime

__all__ = ["WaitingTime", "zip"]  # and what `feedline` has too

_WHERE = {
    "RemoteSequence": "feedline.keras.sequence",
    "SaveState": "feedline.keras.resume",
    "WaitingTime": "feedline.keras.waiting_time",
    "zip": "feedline.keras.sequence",
}

_BACKENDS = ("tensorflow", "jax", "torch")


def __getattr__(name: str) -> Any:  # noqa: ANN401  # what is imported above
    if name not in _WHERE:
        raise AttributeError(f"module 'feedline.keras' has no attribute {name!r}")
    try:
        need(["keras"], extra="keras")
    except ExtraMissing as missing:
        raise ExtraMissing(f"feedline.{name} {missing}") from None
    try:
        return getattr(import_module(_WHERE[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in _BACKENDS:
            raise
        raise ExtraMissing(
            f"feedline.{name} needs Keras, whose backend here is {error.name}, which is not installed; install it, "
            f"or choose one that is (KERAS_BACKEND={'|'.join(_BACKENDS)}, before Keras is imported)"
        ) from None
