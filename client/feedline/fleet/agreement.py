"""Which version of each dataset a trainer begins with: the newest that all loaders of its target serve.

Pure. Which loader answered first decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from feedline.connection.description import DatasetInfo, Description
from feedline_wire.errors import DatasetChanged, FeedlineError
from feedline_wire.listing import listed


def agreed(
    loaders: Sequence[tuple[str, Description]], fingerprint: str | None, begun: Mapping[str, str] | None = None
) -> Description:
    """The description of the first, with the version of each dataset that all serve, or that has this `fingerprint`.

    `loaders` are addresses and what they serve; a fingerprint is in hexadecimal, or how it begins. `begun` has those of
    datasets that the trainer is on already. DatasetChanged, with the fingerprints and what differs, if no dataset is
    left.
    """
    names = dict.fromkeys(name for _, one in loaders for name in one.datasets)
    chosen: dict[str, DatasetInfo] = {}
    disagreed: dict[str, FeedlineError] = {}
    for name in names:
        serving = [(address, one.versions(name)) for address, one in loaders if name in one.datasets]
        wanted = (begun or {}).get(name) if fingerprint is None else fingerprint
        found = _newest_of_all(serving) if wanted is None else _of_fingerprint(serving, wanted)
        if found is not None:
            chosen[name] = found
        elif wanted is None:
            disagreed[name] = _disagreement(name, serving)
        elif fingerprint is None:
            disagreed[name] = _gone(name, wanted, serving)
    if not chosen and disagreed:
        raise next(iter(disagreed.values()))
    if fingerprint is not None and not chosen:
        there = [
            f"{name} {one.fingerprint.hex()}" for _, each in loaders for name in names for one in each.versions(name)
        ]
        raise DatasetChanged(
            f"no dataset with the fingerprint {fingerprint} is served at "
            f"{', '.join(address for address, _ in loaders)}; there is: {listed(sorted(set(there)))}"
        )
    _, first = loaders[0]
    older = {name: tuple(one for one in first.versions(name) if one != now) for name, now in chosen.items()}
    return replace(first, datasets=chosen, older=older, disagreed=disagreed)


def _newest_of_all(serving: Sequence[tuple[str, Sequence[DatasetInfo]]]) -> DatasetInfo | None:
    """What all have, and is the newest in most of them; None if they have nothing in common."""
    ages = [{one.fingerprint: age for age, one in enumerate(versions)} for _, versions in serving]
    _, firsts = serving[0]
    common = [one for one in firsts if all(one.fingerprint in known for known in ages)]
    # Equally new ones by their fingerprints, so that all trainers take the same.
    return min(common, key=lambda one: (sum(age[one.fingerprint] for age in ages), one.fingerprint), default=None)


def _of_fingerprint(serving: Sequence[tuple[str, Sequence[DatasetInfo]]], fingerprint: str) -> DatasetInfo | None:
    begins = (one for _, versions in serving for one in versions if one.fingerprint.hex().startswith(fingerprint))
    return next(begins, None)


def _gone(name: str, wanted: str, serving: Sequence[tuple[str, Sequence[DatasetInfo]]]) -> DatasetChanged:
    there = sorted({one.fingerprint.hex() for _, versions in serving for one in versions})
    return DatasetChanged(
        f"dataset {name!r} is not served any more as it was when this was connected first, with the fingerprint "
        f"{wanted}; {', '.join(address for address, _ in serving)} has {listed(there)}. Serve the same data again, or "
        "connect anew and start over"
    )


def _disagreement(name: str, serving: Sequence[tuple[str, Sequence[DatasetInfo]]]) -> DatasetChanged:
    (here, (one, *_)), *others = serving
    there, (other, *_) = next(two for two in others if one.fingerprint not in {each.fingerprint for each in two[1]})
    return DatasetChanged(
        f"the loaders serve no version of dataset {name!r} in common: at {here} it has the fingerprint "
        f"{one.fingerprint.hex()}, at {there} {other.fingerprint.hex()}, which differ in {difference(one, other)}. "
        "Serve the same data and specification (`feedline reload` for files that were updated), or choose one of them: "
        f'connect(…, fingerprint="{one.fingerprint.hex()[:12]}")'
    )


def difference(one: DatasetInfo, other: DatasetInfo) -> str:
    """What two versions differ in, as far as their descriptions show it."""
    pairs = {
        "the number of samples": (one.samples, other.samples),
        "the columns": (listed(list(map(str, one.columns))), listed(list(map(str, other.columns)))),
        "the views": (dict(one.views), dict(other.views)),
        "what is input and target": (one.structure, other.structure),
        "the orders": (one.orders, other.orders),
    }
    found = [f"{what} ({mine} and {theirs})" for what, (mine, theirs) in pairs.items() if mine != theirs]
    return " and ".join(found) or "the content of files, or what is declared about them"
