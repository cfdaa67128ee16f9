"""A trainer on a Ray cluster that reads whole epochs, from a fleet of feedline or from Ray Data, and says how it went.

    python -m benchmarks.peers.ray_trainer feedline|ray_data OPTIONS

A line of JSON for every epoch. In the last one it also says when it is at the batch `tell_at`, so that something can be
killed there. Rows are counted by their ids: an epoch that is not whole ends the program.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import psutil


def epochs(kind: str, options: Mapping[str, Any]) -> Iterator[Iterator[Any]]:
    """The ids of each batch, epoch after epoch."""
    if kind == "feedline":
        import feedline

        feed = feedline.connect(options["target"], timeout_s=120).feed(batch_size=options["batch"], timeout_s=300)
        for _ in range(options["epochs"]):
            yield (np.asarray(y) for _, y in feed.torch())
        return
    import ray

    ray.init(logging_level="ERROR", log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A file's worth, so that many tasks read and batches come early; by default all 197 MB of row 18 are two blocks.
    context.target_max_block_size = 16 << 20
    rows = ray.data.read_parquet(options["folder"])
    for _ in range(options["epochs"]):
        shuffled = rows.randomize_block_order() if options["buffer"] else rows
        found = shuffled.iter_torch_batches(
            batch_size=options["batch"], prefetch_batches=4, local_shuffle_buffer_size=options["buffer"] or None
        )
        yield (batch["y"].numpy() for batch in found if len(batch["x"][0]))


def main() -> None:
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    me = psutil.Process()
    for epoch, batches in enumerate(epochs(kind, options)):
        used, began = sum(me.cpu_times()[:2]), time.perf_counter()
        ids, longest_s, last = [], 0.0, began
        for at, batch in enumerate(batches):
            now = time.perf_counter()
            longest_s, last = max(longest_s, now - last if at else 0.0), now
            ids.append(batch)
            if at == options["tell_at"] and epoch == options["epochs"] - 1:
                print(json.dumps({"at": at}), flush=True)
        seconds = time.perf_counter() - began
        read = np.concatenate(ids)
        if not np.array_equal(np.sort(read), np.arange(options["rows"])):
            sys.exit(f"{len(read)} rows, {len(np.unique(read))} of them different, are not an epoch")
        cpu_s = sum(me.cpu_times()[:2]) - used
        print(json.dumps({"rows": len(read), "seconds": seconds, "cpu_s": cpu_s, "longest_s": longest_s}), flush=True)


if __name__ == "__main__":
    main()
