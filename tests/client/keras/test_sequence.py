"""`RemoteSequence` as an object: indexing, iterating, copies, forks, closing, what it says of itself."""

import copy
import os
import pickle
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import feedline  # noqa: E402  # keras may be missing
from feedline import Closed, DatasetChanged, InvalidRequest, LoaderStalled, LoaderUnavailable, RemoteSequence  # noqa: E402
from feedline.testing import FakeLoader, serve  # noqa: E402

pytestmark = pytest.mark.keras

N = 22
ROWS = 4
STEPS = 6


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    ids = np.arange(N, dtype=np.float32)
    with serve({"x": np.repeat(ids[:, None], 3, axis=1), "y": ids}, name="voxels") as served:
        yield served


@pytest.fixture
def sequence(loader: FakeLoader) -> Iterator[RemoteSequence]:
    with RemoteSequence(loader.address, batch_size=ROWS, timeout_s=20) as made:
        yield made


def rows(batch: tuple[Any, ...]) -> list[float]:
    x, y = batch
    assert x[:, 0].tolist() == y.tolist()
    return list(y.tolist())


IN_ORDER = [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
    [8, 9, 10, 11],
    [12, 13, 14, 15],
    [16, 17, 18, 19],
    [20, 21],
]


# ---- batches ----


def test_a_view_smaller_than_the_default_batch_is_one_short_batch(loader: FakeLoader) -> None:
    with RemoteSequence(loader.address, timeout_s=20) as made:
        assert len(made) == 1
        assert rows(made[0]) == list(range(N))


def test_the_names_of_classes_are_known_to_keras_too() -> None:
    with (
        serve({"x": np.zeros((4, 2), np.float32), "y": np.arange(4) % 2}, categories={"y": ["cats", "dogs"]}) as loader,
        RemoteSequence(loader.address, timeout_s=20) as made,
    ):
        assert made.classes == ("cats", "dogs")


def test_several_connections_may_reach_several_loaders_behind_one_address(loader: FakeLoader) -> None:
    """As of a proxy or a ClusterIP; a copy opens as many."""
    with RemoteSequence(loader.address, batch_size=ROWS, connections=3) as made:
        copied = pickle.loads(pickle.dumps(made))

        assert rows(made[0]) == rows(copied[0]) == [0, 1, 2, 3]
        assert [sequence._client.connections for sequence in (made, copied)] == [3, 3]
        copied.close()


def test_batch_i_is_batch_i_in_dataset_order_each_time(sequence: RemoteSequence) -> None:
    assert len(sequence) == STEPS
    assert [rows(sequence[index]) for index in (5, 0, 5, 3)] == [IN_ORDER[5], IN_ORDER[0], IN_ORDER[5], IN_ORDER[3]]


def test_a_batch_is_a_pair_of_arrays(sequence: RemoteSequence) -> None:
    batch = sequence[0]

    assert isinstance(batch, tuple)
    assert [(type(part), part.dtype.name, part.shape) for part in batch] == [
        (np.ndarray, "float32", (4, 3)),
        (np.ndarray, "float32", (4,)),
    ]


def test_batches_count_from_the_end_too(sequence: RemoteSequence) -> None:
    assert rows(sequence[-1]) == IN_ORDER[5]
    assert rows(sequence[np.int64(-6)]) == IN_ORDER[0]


@pytest.mark.parametrize("index", [6, -7, 1000])
def test_an_index_out_of_range_is_an_index_error(sequence: RemoteSequence, index: int) -> None:
    with pytest.raises(IndexError, match=f"there is no batch {index}; this sequence has 6"):
        sequence[index]


@pytest.mark.parametrize("index", [1.0, "1"])
def test_what_is_no_integer_is_no_index(sequence: RemoteSequence, index: Any) -> None:
    with pytest.raises(TypeError):
        sequence[index]


def test_a_slice_is_a_list_of_batches_that_are_read_ahead(loader: FakeLoader, sequence: RemoteSequence) -> None:
    assert [rows(batch) for batch in sequence[1:4]] == IN_ORDER[1:4]
    assert [rows(batch) for batch in sequence[-2:]] == IN_ORDER[-2:]
    assert [rows(batch) for batch in sequence[::-3]] == [IN_ORDER[5], IN_ORDER[2]]
    assert sequence[6:] == []
    assert len(loader.requests) == 3 + 2 + 2
    assert (sequence.stats.surprises, "buffered=0/16" in repr(sequence)) == (0, True)


def test_a_subclass_says_that_it_takes_one_index(loader: FakeLoader) -> None:
    with _Scaled(loader.address, batch_size=ROWS) as made, pytest.raises(TypeError, match="_Scaled has a __getitem__"):
        made[:2]


def test_iterating_gives_all_batches_in_order_as_often_as_wanted(loader: FakeLoader, sequence: RemoteSequence) -> None:
    assert [rows(batch) for batch in sequence] == IN_ORDER
    assert [rows(batch) for batch in sequence] == IN_ORDER
    assert len(loader.requests) == 2 * STEPS
    assert sequence.stats.surprises == 0


def test_iterating_reads_ahead(loader: FakeLoader, sequence: RemoteSequence) -> None:
    """It is recognised as a run of its own, in whatever module the sequence is."""
    for _ in sequence:
        loader.wait_until(lambda seen: len(seen.requests) == STEPS)
        break


def test_two_iterations_at_once_do_not_mix(sequence: RemoteSequence) -> None:
    assert [(rows(one), rows(two)) for one, two in zip(sequence, sequence, strict=True)] == [
        (batch, batch) for batch in IN_ORDER
    ]


def test_an_iteration_left_early_leaves_nothing_waiting(sequence: RemoteSequence) -> None:
    for _ in sequence:
        break

    assert "buffered=0/16" in repr(sequence)


def test_iterating_by_index_ends_by_itself(sequence: RemoteSequence) -> None:
    """What Python does where there is no `__iter__`, and Keras before 3.11 has none."""
    assert [rows(batch) for batch in _ByIndex(sequence)] == IN_ORDER


class _ByIndex:
    def __init__(self, sequence: RemoteSequence) -> None:
        self._sequence = sequence

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self._sequence[index]


def test_any_number_of_threads_get_their_batches(sequence: RemoteSequence) -> None:
    got: dict[int, list[float]] = {}

    def take(index: int) -> None:
        got[index] = rows(sequence[index % STEPS])

    threads = [threading.Thread(target=take, args=(index,)) for index in range(4 * STEPS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert got == {index: IN_ORDER[index % STEPS] for index in range(4 * STEPS)}


def test_changing_a_batch_changes_no_other(sequence: RemoteSequence) -> None:
    sequence[0][0][:] = -1

    assert rows(sequence[0]) == IN_ORDER[0]


def test_keras_cannot_take_it_for_an_array_or_for_a_pair(sequence: RemoteSequence) -> None:
    assert not hasattr(sequence, "__array__")
    assert not isinstance(sequence, tuple | list)
    assert isinstance(sequence, keras.utils.PyDataset)


# ---- what it says ----


def test_it_says_what_it_is_and_where(sequence: RemoteSequence) -> None:
    assert repr(sequence) == "<RemoteSequence voxels/train epoch=0 next=0 buffered=0/16 replicas=1>"

    sequence.set_epoch(3)

    assert repr(sequence) == "<RemoteSequence voxels/train epoch=3 next=0 buffered=0/16 replicas=1>"


def test_it_says_that_it_is_closed(sequence: RemoteSequence) -> None:
    sequence.close()

    assert repr(sequence) == "<RemoteSequence voxels/train closed>"


def test_a_copy_says_that_it_is_not_connected_yet(sequence: RemoteSequence) -> None:
    assert repr(copy.deepcopy(sequence)) == "<RemoteSequence ?/train not connected>"


# ---- what Keras may not change ----


def test_keras_workers_stay_off_and_it_is_said_once(sequence: RemoteSequence) -> None:
    with pytest.warns(UserWarning, match="workers of a RemoteSequence stays 1, not 4: Keras' own workers lose"):
        sequence.workers = 4
    with pytest.warns(UserWarning, match="use_multiprocessing of a RemoteSequence stays False"):
        sequence.use_multiprocessing = True
    with pytest.warns(UserWarning, match="max_queue_size of a RemoteSequence stays 16, not 10"):
        sequence.max_queue_size = 10

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sequence.workers = 8
        sequence.workers = 1

    assert (sequence.workers, sequence.use_multiprocessing, sequence.max_queue_size) == (1, False, 16)


class _WithItsOwnArguments(RemoteSequence):
    def __init__(self, target: str, **kwargs: Any) -> None:
        super().__init__(target, batch_size=ROWS, **kwargs)


@pytest.mark.parametrize("make", [RemoteSequence, _WithItsOwnArguments])
def test_arguments_of_a_pydataset_are_warned_about_like_attributes(loader: FakeLoader, make: Any) -> None:
    """`PyDataset(workers=4, use_multiprocessing=True)` is in everybody's code."""
    with pytest.warns(UserWarning, match="stays") as warned:
        made = make(loader.address, workers=4, use_multiprocessing=True, max_queue_size=64)
    with made, warnings.catch_warnings():
        warnings.simplefilter("error")
        made.workers = 8
        make(loader.address, workers=1, use_multiprocessing=False, max_queue_size=16).close()

        assert (made.workers, made.use_multiprocessing, made.max_queue_size) == (1, False, 16)
    assert [str(each.message).partition(":")[0] for each in warned] == [
        "workers of a RemoteSequence stays 1, not 4",
        "use_multiprocessing of a RemoteSequence stays False, not True",
        "max_queue_size of a RemoteSequence stays 16, not 64",
    ]
    assert {each.filename for each in warned} == {__file__}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.keras is TensorFlow's")
def test_where_tf_keras_is_keras_2_it_says_which_class_to_take(
    loader: FakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")

    with pytest.raises(InvalidRequest, match=r"`from feedline.tf_keras import RemoteSequence`, or unset it"):
        RemoteSequence(loader.address)


# ---- what cannot be used is outcome at once ----


def test_a_loader_that_is_not_there_is_told_when_the_sequence_is_made() -> None:
    with pytest.raises(LoaderUnavailable, match=r"127\.0\.0\.1:1\b"):
        RemoteSequence("127.0.0.1:1", connect_timeout_s=0.2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"view": "test"}, "view is 'test'"),
        ({"order": "sorted"}, "order is 'sorted'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world": 2}, "rank is 2"),
        ({"remainder": "keep"}, "remainder is 'keep'"),
        ({"compression": "zip"}, "compression is 'zip'"),
    ],
)
def test_what_makes_no_sense_is_told_when_the_sequence_is_made(
    loader: FakeLoader, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidRequest, match=text):
        RemoteSequence(loader.address, **{"batch_size": ROWS, **arguments})

    loader.wait_until(lambda seen: seen.streams == 0)


def test_a_rank_without_any_batch_is_told_when_the_sequence_is_made(loader: FakeLoader) -> None:
    with pytest.raises(InvalidRequest, match="rank 39 of 40 gets no batch at all"):
        RemoteSequence(loader.address, batch_size=ROWS, rank=39, world=40)


def test_padding_a_dataset_without_targets_is_told_when_the_sequence_is_made() -> None:
    with serve({"x": np.zeros((6, 2), np.float32)}) as loader, pytest.raises(InvalidRequest, match="no y"):
        RemoteSequence(loader.address, batch_size=ROWS, remainder="pad")


# ---- errors and the end ----


def test_a_stall_ends_at_its_deadline(loader: FakeLoader) -> None:
    with RemoteSequence(loader.address, batch_size=ROWS, timeout_s=2) as sequence:
        sequence[0]
        loader.stall()

        with pytest.raises(LoaderStalled, match=r"no batch voxels/train .* within 2 s from 127\.0\.0\.1:\d+"):
            sequence[1]


def test_closing_wakes_a_thread_that_waits(loader: FakeLoader, sequence: RemoteSequence) -> None:
    sequence[0]
    loader.stall()
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            sequence[1]
        except Closed as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    loader.wait_until(lambda seen: len(seen.requests) == 2)
    sequence.close()
    thread.join(10)

    assert len(raised) == 1


def test_a_closed_sequence_gives_nothing_and_can_be_closed_again(sequence: RemoteSequence) -> None:
    sequence.close()
    sequence.close()

    with pytest.raises(Closed, match="this RemoteSequence was closed"):
        sequence[0]
    with pytest.raises(IndexError):
        sequence[STEPS]
    assert len(sequence) == STEPS
    assert sequence.stats.requests == 0


# ---- copies and processes ----


def copies(sequence: RemoteSequence) -> list[RemoteSequence]:
    return [copy.deepcopy(sequence), pickle.loads(pickle.dumps(sequence))]


def test_a_copy_is_a_client_of_its_own(loader: FakeLoader, sequence: RemoteSequence) -> None:
    for other in copies(sequence):
        assert len(other) == STEPS
        assert rows(other[5]) == IN_ORDER[5]
        other.close()

    assert rows(sequence[5]) == IN_ORDER[5]


def test_a_copy_is_in_the_same_epoch(sequence: RemoteSequence) -> None:
    sequence.set_epoch(4)

    for other in copies(sequence):
        with other:
            other[0]
            assert "epoch=4" in repr(other)


def test_a_copy_of_a_copy_that_was_never_used_keeps_the_epoch(sequence: RemoteSequence) -> None:
    sequence.set_epoch(4)
    other = copy.deepcopy(copy.deepcopy(sequence))
    with other:
        other[0]
        assert "epoch=4" in repr(other)


def test_a_subclass_keeps_what_is_its_own_in_a_copy(loader: FakeLoader) -> None:
    with _Scaled(loader.address, batch_size=ROWS) as sequence:
        sequence.factor = 10
        with copy.deepcopy(sequence) as other:
            assert other[1][0][:, 0].tolist() == [40, 50, 60, 70]


class _Scaled(RemoteSequence):
    factor = 1

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        x, y = super().__getitem__(index)
        x *= self.factor
        return x, y


def test_a_copy_notices_that_other_data_is_served(loader: FakeLoader, sequence: RemoteSequence) -> None:
    other = copy.deepcopy(sequence)
    loader.change(fingerprint=b"another")
    loader.drop_streams()

    with pytest.raises(DatasetChanged, match="this RemoteSequence is a copy of one that read 'voxels'"):
        other[0]


def test_a_fingerprint_chooses_the_version_that_is_read_or_is_an_error(loader: FakeLoader) -> None:
    with feedline.connect(loader.address) as connected:
        fingerprint = connected.dataset().fingerprint
    for chosen in (fingerprint, fingerprint.hex()[:12]):
        with RemoteSequence(loader.address, batch_size=ROWS, fingerprint=chosen) as sequence:
            assert sequence[0][0].shape[0] == ROWS

    with pytest.raises(DatasetChanged, match="no dataset with the fingerprint 0123456789 is served"):
        RemoteSequence(loader.address, batch_size=ROWS, fingerprint="0123456789")


def test_a_copy_of_a_closed_sequence_is_closed(sequence: RemoteSequence) -> None:
    sequence.close()

    for other in copies(sequence):
        with pytest.raises(Closed):
            other[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_in_a_forked_process_a_sequence_says_that_it_does_not_survive_a_fork(sequence: RemoteSequence) -> None:
    sequence[0]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # nothing may leave this branch: the child is a copy of the test run
        try:
            sequence[0]
            outcome = "a batch"
        except BaseException as error:  # it is reported
            outcome = f"{type(error).__name__}: {error}"
        sequence.close()
        os.write(writing, outcome.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        outcome = pipe.read()
    os.waitpid(child, 0)

    assert outcome.startswith("Closed: this RemoteSequence was connected by process")
    assert "a connection does not survive a fork" in outcome
    assert rows(sequence[1]) == IN_ORDER[1]


# ---- the callback ----


def test_epochs_are_followed_by_a_keras_callback(sequence: RemoteSequence) -> None:
    callback = sequence.follow_epochs()

    callback.on_epoch_begin(6)

    assert isinstance(callback, keras.callbacks.Callback)
    assert "epoch=6" in repr(sequence)


def test_an_epoch_is_a_number_from_0_on(sequence: RemoteSequence) -> None:
    with pytest.raises(InvalidRequest, match="epoch is -1"):
        sequence.set_epoch(-1)


def test_it_is_part_of_the_library() -> None:
    assert feedline.RemoteSequence is RemoteSequence
