"""What a loader serves of an object of your own, made by a plain loop in this process: to compare with.

The seeds are the loader's own (feedline_wire/seeding); the loop is written apart from it, so it shares no other fault.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from feedline_wire import seeding


def local_epochs(make: Callable[[], Any], *, epochs: int = 1, seed: int = 0, first: int = 0) -> Iterator[list[Any]]:
    """For each epoch what `object[i]` returns for i = 0, 1, …, drawn as a loader draws it under this `seed`.

    `make` makes the object: a class or a function without arguments. One object lives through all epochs, as in Keras;
    one with `on_epoch_end` gives batches, others samples. `first` is the number of its first item in the dataset, which
    is not 0 in a view behind another. Look at an epoch before you take the next: what the object fills again changes.
    """
    with seeding.building(seeding.number("build")):
        value = make()
    modules = [sys.modules[make.__module__], sys.modules[type(value).__module__]]

    def begin(purpose: str, *place: int) -> None:
        seeding.seed(seeding.number(purpose, seed, *place), seeding.generators_in(value, *modules))

    def tell(name: str, *arguments: int) -> None:
        if callable(method := getattr(value, name, None)):
            method(*arguments)

    item = "batch" if hasattr(value, "on_epoch_end") else "sample"
    for epoch in range(epochs):
        begin("epoch", epoch)
        if epoch:
            tell("on_epoch_end")
        tell("set_epoch", epoch)
        tell("on_epoch_begin")
        items = []
        for index in range(len(value)):
            begin(item, epoch, first + index)
            items.append(value[index])
        yield items
