"""The loader.toml of converted data: the same views, inputs and targets, of columns now."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedline_server.batches.dataset import Dataset, View
from feedline_server.declared.datasets import Declaration
from feedline_wire.structure import column_names


def write_description(folder: Path, name: str, config: Declaration, dataset: Dataset, bad: Collection[int]) -> None:
    """Write the loader.toml, and the ids of views that are no range, to a folder of columns; `bad` are in no view."""
    lines = [
        f"# {dataset.source.samples:,} samples of the dataset {name}, which was of kind {config.kind}.",
        *_notes(config, bad),
        f"[datasets.{json.dumps(name)}]",
        'kind = "columns"',
        *_parts(dataset),
        "",
        f"[datasets.{json.dumps(name)}.views]",
    ]
    for number, view in enumerate(dataset.views.values()):
        ids = _ids(view, bad)
        file = f"view-{number}.npy"
        if isinstance(ids, range):
            lines.append(f'{json.dumps(view.name)} = "{ids.start}:{ids.stop}"')
        elif len(ids):
            np.save(folder / file, ids)
            lines.append(f"{json.dumps(view.name)} = {json.dumps(file)}")
        else:
            lines.append(f"# {view.name}: none of its samples can be read")
    (folder / "loader.toml").write_text("\n".join(lines) + "\n")


def _notes(config: Declaration, bad: Collection[int]) -> Iterator[str]:
    if bad:
        yield f"# {len(bad):,} samples cannot be read and are in no view."
    if config.transforms:
        yield "# Its transforms were not done to these columns: declare them here as well."


def _parts(dataset: Dataset) -> Iterator[str]:
    """Inputs, targets and sample weight, as far as they are columns of the data and not made by a transform."""
    there = {column.name for column in dataset.source.columns}
    parts = dataset.structure if isinstance(dataset.structure, tuple) else (dataset.structure,)
    for key, part in zip(("inputs", "targets"), parts, strict=False):
        names = [name for name in column_names(part) if name in there]
        if names:
            yield f"{key} = {json.dumps(names)}"
    if len(parts) == 1:
        yield "targets = []"
    elif len(parts) > 2 and isinstance(parts[2], str) and parts[2] in there:
        yield f"sample_weight = {json.dumps(parts[2])}"


def _ids(view: View, bad: Collection[int]) -> range | NDArray[np.int64]:
    """The samples of a view in its order, without the bad ones."""
    if not bad and isinstance(view.selection, range):
        return view.selection
    ids = view.ids(np.arange(view.samples))
    return ids[~np.isin(ids, list(bad))]
