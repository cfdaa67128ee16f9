"""The loader.toml of converted data: the same views, inputs and targets, of columns now."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedline_server.batches.dataset import Dataset
from feedline_server.declared.datasets import Declaration
from feedline_server.sources.selection import View, compact
from feedline_server.tools.convert.columns import TARGET, ColumnOptions
from feedline_wire.structure import column_names


def write_description(
    folder: Path, config: Declaration, dataset: Dataset, columns: ColumnOptions, bad: Collection[int]
) -> None:
    """Write the loader.toml, and the ids of views that are no range, to a folder of columns without `bad` samples."""
    name, target = dataset.name, columns.target
    categories = {TARGET if column == target else column: names for column, names in dataset.categories.items()}
    there = {column: names for column, names in categories.items() if (folder / f"{column}.npy").exists()}
    lines = [
        f"# {dataset.source.samples - len(bad):,} samples of the dataset {name}, which was of kind {config.kind}.",
        *_notes(config, bad),
        f"[datasets.{in_toml(name)}]",
        'kind = "columns"',
        *(_parts(dataset, columns.drop) if target is None else ()),
        *categories_table(name, there),
        "",
        f"[datasets.{in_toml(name)}.views]",
    ]
    for number, view in enumerate(dataset.views.values()):
        ids = _ids(view, bad)
        file = f"view-{number}.npy"
        if isinstance(ids, range):
            lines.append(f'{in_toml(view.name)} = "{ids.start}:{ids.stop}"')
        elif len(ids):
            np.save(folder / file, ids)
            lines.append(f"{in_toml(view.name)} = {in_toml(file)}")
        else:
            lines.append(f"# {view.name}: none of its samples can be read")
    (folder / "loader.toml").write_text("\n".join(lines) + "\n")


def categories_table(name: str, categories: Mapping[str, Sequence[str]]) -> list[str]:
    """The table of what numbers stand for; nothing where there is none."""
    lines = [f"{in_toml(column)} = [{', '.join(map(in_toml, names))}]" for column, names in categories.items()]
    return ["", f"[datasets.{in_toml(name)}.categories]", *lines] if lines else []


def in_toml(text: str) -> str:
    """A text as TOML has it: as JSON, but that TOML knows no pairs of surrogates and wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _notes(config: Declaration, bad: Collection[int]) -> Iterator[str]:
    if bad:
        yield f"# {len(bad):,} samples cannot be read and were left out."
    if config.transforms:
        yield "# Its transforms were not done to these columns: declare them here as well."


def _parts(dataset: Dataset, dropped: Collection[str]) -> Iterator[str]:
    """Inputs, targets and sample weight, as far as they are columns of the data and not made by a transform."""
    there = {column.name for column in dataset.source.columns} - set(dropped)
    parts = dataset.structure if isinstance(dataset.structure, tuple) else (dataset.structure,)
    for key, part in zip(("inputs", "targets"), parts, strict=False):
        names = [name for name in column_names(part) if name in there]
        if names:
            yield f"{key} = [{', '.join(map(in_toml, names))}]"
    if len(parts) == 1:
        yield "targets = []"
    elif len(parts) > 2 and isinstance(parts[2], str) and parts[2] in there:
        yield f"sample_weight = {in_toml(parts[2])}"


def _ids(view: View, bad: Collection[int]) -> range | NDArray[np.int64]:
    """The samples of a view in its order, without the bad ones, by their numbers without those."""
    if not bad and isinstance(view.selection, range):
        return view.selection
    ids, left_out = view.ids(np.arange(view.samples)), np.sort(list(bad))
    kept = ids[~np.isin(ids, left_out)]
    return compact(kept - np.searchsorted(left_out, kept)) if len(kept) else kept
