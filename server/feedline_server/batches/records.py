"""What the files of all datasets were when the loader opened them, in memory without a name that its workers map too.

40 bytes a file, once a loader. Workers write to it what they learn: the digest of a file that was read whole for the
first time, and the new times of one whose content is the same.
"""

import fcntl
import mmap
import os
from collections.abc import Mapping

from feedline_server.batches.dataset import Dataset
from feedline_server.sources.arrays.stamp import NBYTES


class Records:
    """Takes over the records of datasets; `close` it when no more workers are started."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        ends = [0]
        for dataset in datasets.values():
            ends.append(ends[-1] + NBYTES * sum(files.count for files in dataset.files))
        self.fd = os.memfd_create("feedline-files", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, max(ends[-1], 1))
        # A worker that could make it shorter would end all others.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        memory = memoryview(mmap.mmap(self.fd, 0))
        self.places = dict(zip(datasets, map(slice, ends, ends[1:]), strict=True))
        """Where those of each dataset are."""
        for name, dataset in datasets.items():
            at = self.places[name].start
            for files in dataset.files:
                files.share(memory[at : at + files.count * NBYTES])
                at += files.count * NBYTES

    def __repr__(self) -> str:
        return f"<Records {len(self.places)} datasets>"

    def close(self) -> None:
        """Close the descriptor. Idempotent. What was mapped stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
