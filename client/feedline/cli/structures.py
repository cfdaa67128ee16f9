"""A batch's structure as Python writes it."""

from feedline_wire.structure import Structure


def in_words(structure: Structure) -> str:
    """`({"a": a, "b": b}, y)`: what a batch unpacks to."""
    match structure:
        case str():
            return structure
        case dict():
            return "{" + ", ".join(f'"{name}": {in_words(part)}' for name, part in structure.items()) + "}"
        case _:
            return "(" + ", ".join(map(in_words, structure)) + ("," if len(structure) == 1 else "") + ")"
