"""A JAX training of real digits, stopped in mid-epoch and continued by another feed, to the same weights."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from serving import digits, served

import feedline

EPOCHS, STOP_AFTER = 12, 100


def logits(weights, x):
    hidden = jax.nn.relu(x.reshape(len(x), -1).astype(jnp.float32) @ weights["hidden"])
    return hidden @ weights["out"]


def loss(weights, x, y):
    return -jnp.mean(jax.nn.log_softmax(logits(weights, x))[jnp.arange(len(y)), y])


@jax.jit
def step(weights, x, y):
    return jax.tree.map(lambda w, g: w - 0.3 * g, weights, jax.grad(loss)(weights, x, y))


def new():
    hidden, out = jax.random.split(jax.random.key(0))
    return {"hidden": 0.1 * jax.random.normal(hidden, (64, 64)), "out": 0.1 * jax.random.normal(out, (64, 10))}


def train(weights, batches, steps):
    while steps:
        for x, y in batches:
            weights = step(weights, x, y)
            steps -= 1
            if not steps:
                break
    return weights


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as temporary,
        served(digits(Path(temporary) / "digits")) as address,
        feedline.connect(address) as loader,
    ):
        batches = loader.feed(batch_size=32, seed=7, remainder="drop").jax()
        steps = EPOCHS * len(batches)
        undisturbed = train(new(), batches, steps)

        batches = loader.feed(batch_size=32, seed=7, remainder="drop").jax()
        weights = train(new(), batches, STOP_AFTER)
        saved = batches.state_dict()
        batches = loader.feed(batch_size=32, remainder="drop").jax()  # as in a new process
        batches.load_state_dict(saved)
        weights = train(weights, batches, steps - STOP_AFTER)

        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), weights, undisturbed)))
        held_out = loader.feed("validation", batch_size=64, order="sequential").jax()
        right = [logits(weights, x).argmax(1) == y for x, y in held_out]
        found = float(jnp.concatenate(right).mean())
        assert found > 0.93
    print(f"{found:.1%} of the held-out digits after {steps} steps, stopped after {STOP_AFTER} and continued")


if __name__ == "__main__":
    main()
