"""What a worker says that does not make what was described before it, or that does not come to an end."""

import os
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from feedline_server.batches.dataset import open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.batches.records import Records
from feedline_server.declared.datasets import PythonConfig
from feedline_server.memory.arena import Arena
from feedline_server.memory.shared_cache import new_memory
from feedline_server.workers.messages import OfferDatasets, OfferedDataset, StartWork
from feedline_server.workers.openings import Offer
from feedline_server.workers.pool import Pool
from feedline_wire.errors import DataError, DatasetChanged, FeedlineError

LATER = "import pathlib; later = pathlib.Path(__file__).with_name('later').exists()\n"
"""Of the operator's modules: whether another process has imported it before."""


def refusal(folder: Path, text: str, rewritten: str | None = None, **declared: Any) -> FeedlineError:
    """Of a worker, after another process has described the objects."""
    module = folder / "opened_by_workers.py"
    module.write_text(LATER + dedent(text))
    config = PythonConfig.declare(path=folder, object="opened_by_workers:made", **declared)
    with closing(open_dataset("d", config)) as dataset:
        wanted, content = fingerprint(dataset, config), tuple(dataset.source.content())
        records = Records({"d": dataset})
    (folder / "later").touch()
    if rewritten is not None:
        module.write_text(LATER + rewritten)
    arena = Arena(1 << 20)
    offered = OfferDatasets((OfferedDataset("d", config, wanted, records.places["d"], content=content),))
    decoded_fd = new_memory(1 << 20)
    fds = {"arena_fd": arena.fd, "decoded_fd": decoded_fd}
    pool = Pool(size=1, work=StartWork(), offer=Offer(offered, os.dup(records.fd)), **fds, batch_timeout_s=60)
    with closing(arena), closing(records), closing(pool), pytest.raises(FeedlineError) as caught:
        pool.start(lambda answers: None, lambda serves: None)
    os.close(decoded_fd)
    return caught.value


def test_other_data_of_the_same_key_is_said_to_be_that_with_sample_and_column(tmp_path: Path) -> None:
    """It said that files changed, and to restart the loader; with `random_split` at module level no restart helped."""
    error = refusal(tmp_path, "made = [(i, 2 * i + later * (i == 6)) for i in range(10)]")

    assert type(error) is DataError
    assert "opened_by_workers:made: a worker made other data of the same key: another sample 6 in column 'y'" in str(
        error
    )
    assert "changed" not in str(error)


def test_objects_of_another_length_are_no_changed_files_either(tmp_path: Path) -> None:
    error = refusal(tmp_path, "made = [1, 2, 3, 4] + [5] * later")

    assert "a worker made other data of the same key: an object of another length" in str(error)


def test_a_module_whose_text_changed_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path, "made = [1, 2]", rewritten="made = [1, 3]")

    assert type(error) is DatasetChanged
    assert "the text of module 'opened_by_workers' changed while it is served; restart the loader" in str(error)


def test_a_worker_that_hangs_while_it_opens_is_given_up_and_says_where(tmp_path: Path) -> None:
    error = refusal(
        tmp_path,
        """
        import threading
        def made():
            if later: threading.Event().wait()
            return [1, 2]
        """,
        start_timeout_s=1.5,
    )

    assert "importing and building it took longer than 1.5 s and was given up; make it quicker" in str(error)
    assert 'opened_by_workers.py", line 5, in made' in error.traceback
