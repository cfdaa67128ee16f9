"""JAX arrays: exact pytrees, put on devices ahead of the step, and one global array of several processes' parts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import feedline
from feedline.testing import serve
from feedline_wire.errors import InvalidRequest

pytestmark = pytest.mark.frameworks

ONCE = list(range(100))


def ids_of(batches: Any) -> list[int]:
    return [int(number) for _, ids in batches for number in ids]


@pytest.mark.parametrize("structure", ["x", ("x", "y"), {"a": "x", "b": {"c": "y"}}, ({"x": "x"}, "y")])
def test_a_batch_is_the_pytree_that_the_dataset_declares(structure: Any) -> None:
    import jax

    x, y = np.arange(24, dtype=np.float32).reshape(8, 3), np.arange(8, dtype=np.int32)
    with serve({"x": x, "y": y}, structure=structure) as loader, feedline.connect(loader.address) as connection:
        (batch,) = connection.feed(batch_size=8, order="sequential").jax()

    leaves, tree = jax.tree.flatten(batch)
    assert tree == jax.tree.structure(structure)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    for leaf, name in zip(leaves, jax.tree.leaves(structure), strict=True):
        assert np.array_equal(leaf, {"x": x, "y": y}[name])


@pytest.mark.parametrize("ahead", [0, 2])
def test_every_sample_comes_once_an_epoch_and_a_place_is_continued(connection: feedline.Loader, ahead: int) -> None:
    batches = connection.feed(batch_size=8, seed=3).jax(ahead=ahead, with_ids=True)
    assert sorted(ids_of(batches)) == ONCE

    iteration = iter(batches)
    read = [int(number) for _ in range(5) for number in next(iteration)[1]]
    other = connection.feed(batch_size=12).jax(with_ids=True)
    other.load_state_dict(batches.state_dict())

    assert sorted(read + ids_of(other)) == ONCE
    assert sorted(ids_of(other)) == ONCE


def test_a_hundred_held_batches_keep_what_they_held(connection: feedline.Loader) -> None:
    held = list(connection.feed(batch_size=1).jax(with_ids=True))

    assert all(y.tolist() == ids.tolist() and x.tolist() == [[float(ids[0])] * 3] for (x, y), ids in held)


def test_integers_that_jax_would_cut_are_refused_with_the_line_to_write() -> None:
    with serve({"y": np.array([1, 2**31])}) as loader, feedline.connect(loader.address) as connection:
        batches = connection.feed(batch_size=2).jax()
        with pytest.raises(InvalidRequest, match="jax_enable_x64"):
            next(iter(batches))
    with serve({"y": np.array([1, 2**31 - 1])}) as loader, feedline.connect(loader.address) as connection:
        (y,) = connection.feed(batch_size=2, order="sequential").jax()
        assert y.tolist() == [1, 2**31 - 1]


def test_a_last_batch_that_a_sharding_does_not_divide_is_refused(connection: feedline.Loader) -> None:
    import jax

    whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with pytest.raises(InvalidRequest, match=r"has 4 samples of 8, .* remainder='drop' \(leaves 4 out\)"):
        connection.feed(batch_size=8).jax(whole)

    assert len(list(connection.feed(batch_size=8, remainder="drop").jax(whole))) == 12


def test_two_processes_with_two_devices_each_make_one_global_batch(trainers: Callable[..., list[list[Any]]]) -> None:
    said = trainers(
        """
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        os.environ["JAX_PLATFORMS"] = "cpu"
        import jax
        rank = int(os.environ["RANK"])
        jax.distributed.initialize(f"127.0.0.1:{os.environ['MASTER_PORT']}", 2, rank)
        mesh = jax.make_mesh((4,), ("batch",))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
        feed = connection.feed(batch_size=10, seed=5, rank=jax.process_index(), world=jax.process_count())
        batches = feed.jax(sharding, with_ids=True)
        total = jax.jit(lambda y: y.sum())
        for (x, y), ids in batches:
            assert x.shape == (20, 3) and len(x.sharding.device_set) == 4
            assert [shard.data.shape for shard in x.addressable_shards] == [(5, 3), (5, 3)]
            mine = [int(number) for shard in ids.addressable_shards for number in shard.data]
            say([mine, [int(number) for shard in y.addressable_shards for number in shard.data], int(total(y))])
        jax.distributed.shutdown()
        """,
        ranks=2,
        imports="sys",
    )

    read = [part for rank in said for part in rank]
    assert [len(rank) for rank in said] == [5, 5]
    assert sorted(number for ids, _, _ in read for number in ids) == ONCE
    assert all(ids == y for ids, y, _ in read)
    assert (
        [a[2] for a in said[0]]
        == [a[2] for a in said[1]]
        == [sum(a[0]) + sum(b[0]) for a, b in zip(*said, strict=True)]
    )


def test_a_training_that_is_continued_has_the_weights_of_one_that_was_not_stopped(connection: feedline.Loader) -> None:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def step(weights: Any, x: Any, y: Any) -> Any:
        return weights - 1e-5 * jax.grad(lambda w: jnp.mean((x @ w - y) ** 2))(weights)

    def train(batches: Any, weights: Any, steps: int) -> Any:
        for _, (x, y) in zip(range(steps), batches, strict=False):
            weights = step(weights, x, y)
        return weights

    whole = train(connection.feed(batch_size=8, seed=5).jax(), jnp.zeros(3), 13)
    stopped = connection.feed(batch_size=8, seed=5).jax()
    iteration = iter(stopped)
    weights = train(iteration, jnp.zeros(3), 6)
    resumed = connection.feed(batch_size=8).jax()
    resumed.load_state_dict(stopped.state_dict())

    assert (train(resumed, weights, 13) == whole).all()
