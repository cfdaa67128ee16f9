"""`RemoteSequence`, and callbacks, for Keras 2: `tf_keras`, which is `tf.keras` under TF_USE_LEGACY_KERAS=1.

from feedline.tf_keras import RemoteSequence

model.fit(RemoteSequence("loader:50051"))
"""

from feedline_wire.extras import ExtraMissing, need

try:
    need(["tf_keras"], extra="tf-keras")
except ExtraMissing as missing:
    raise ExtraMissing(f"feedline.tf_keras {missing}") from None

from feedline.tf_keras.callbacks import SaveState, WaitingTime
from feedline.tf_keras.sequence import RemoteSequence, zip  # noqa: A004

__all__ = ["RemoteSequence", "SaveState", "WaitingTime", "zip"]
