"""Batches as JAX takes them: exact tuples and dicts of arrays, put on devices ahead of the step.

for x, y in feedline.connect("loader:50051").feed(batch_size=64).jax():
    ...
"""

from feedline_wire.extras import ExtraMissing, need

try:
    need(["jax"], extra="jax")
except ExtraMissing as missing:
    raise ExtraMissing(f"feedline.jax {missing}") from None

from feedline.jax.arrays import Arrays, over

__all__ = ["Arrays", "over"]
