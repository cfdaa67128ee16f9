"""What stands for a batch's body on a thin line: its arrays in chunks, each compressed by Blosc or as it is.

The chunks of an array are CHUNK_NBYTES long, the last one shorter; `Piece.compressed` says how many bytes stand for
each. So many as the chunk has are the chunk itself, fewer are a buffer of Blosc (extra `compression`: the package
numcodecs). Nothing stands for what lies between arrays. Both ends know from the batch's header how long each chunk is:
no byte that arrives says how much memory to take.
"""

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from feedline_wire import frames
from feedline_wire.errors import InvalidRequest, ProtocolMismatch
from feedline_wire.extras import is_here, need
from feedline_wire.lane import Compression
from feedline_wire.tensors import Array, Layout

if TYPE_CHECKING:
    from numcodecs import Blosc

CHUNK_NBYTES = 1 << 20
"""Longer chunks compressed no better (docs/design.md), and both ends hold one more for each stream."""

LEAST_NBYTES = 1 << 10
"""Shorter chunks go as they are: a call costs as much as their bytes save."""

_HEADER = struct.Struct("<4B3I")
"""Of a buffer of Blosc: its version, that of the codec, flags, bytes of an element; of all, of a block, and here."""

_VERSION = 2
_COPIED = 2
"""The flag of what is not compressed, which never stands for a chunk: it is longer."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to compress."""

    codec: str
    level: int


METHODS = (Method("lz4", 5), Method("zstd", 1))
"""The quick one and the strong one, both behind Blosc's shuffle, which puts bytes of equal weight together. Any other
method of Blosc can be read as well."""


@functools.cache
def is_installed() -> bool:
    """What compresses and decompresses is there: the extra `compression`."""
    return is_here("numcodecs")


def check(said: str) -> None:
    """Of a trainer. InvalidRequest unless it is one of the words; ExtraMissing if it asks for what is not here."""
    if said not in get_args(Compression):
        raise InvalidRequest(f"compression is {said!r}; wanted one of: {', '.join(get_args(Compression))}")
    if said != "off":
        check_installed()


def check_installed() -> None:
    """ExtraMissing, which names the extra, unless `is_installed`."""
    need(("numcodecs",), extra="compression")


def may_be_compressed(said: Compression, *, is_encrypted: bool) -> bool:
    """This side takes part in it, on a connection that is encrypted or not."""
    return (said == "encrypted" or (said == "auto" and not is_encrypted)) and is_installed()


@functools.cache
def _blosc(method: Method) -> "Blosc":
    from numcodecs import Blosc  # 0.1 s, and only for those whose line is thin

    return Blosc(cname=method.codec, clevel=method.level, shuffle=Blosc.SHUFFLE)


def chunks(layout: Layout) -> Iterator[tuple[str, int, int]]:
    """Of each chunk the array, and from where to where it lies in the body."""
    for array in layout.arrays:
        end = array.offset + array.nbytes
        for start in range(array.offset, end, CHUNK_NBYTES):
            yield array.name, start, min(start + CHUNK_NBYTES, end)


def compress(chunk: Array, itemsize: int, method: Method) -> bytes | memoryview:
    """What stands for a chunk (uint8, 1-D) of elements of so many bytes: the chunk itself, if nothing is shorter."""
    if len(chunk) < LEAST_NBYTES:
        return chunk.data
    # Blosc takes the size of an element, by which it shuffles, from the array.
    elements = chunk if len(chunk) % itemsize else chunk.view(np.dtype((np.void, itemsize)))
    found: bytes = _blosc(method).encode(elements)
    return found if len(found) < len(chunk) else chunk.data


def decompress(source: memoryview, chunk: Array) -> None:
    """Fill a chunk with what stands for it. ProtocolMismatch if that cannot be."""
    if len(source) == len(chunk):
        chunk[:] = np.frombuffer(source, np.uint8)
        return
    _check(source, len(chunk))
    try:
        _blosc(METHODS[0]).decode(source, chunk)
    except (RuntimeError, ValueError) as error:
        raise ProtocolMismatch(f"{len(source)} bytes stand for {len(chunk)} and are no buffer of Blosc") from error


def read_body(source: memoryview, lengths: Sequence[int], layout: Layout, body: Array) -> None:
    """Fill a body (uint8, 1-D) with what stands for it. ProtocolMismatch if that cannot be."""
    at = end = 0
    for (_, start, stop), length in zip(chunks(layout), lengths, strict=True):
        body[end:start] = 0
        decompress(source[at : at + length], body[start:stop])
        at += length
        end = stop
    body[end:] = 0


def write_lengths(lengths: Iterable[int]) -> bytes:
    """How many bytes stand for each chunk, as it travels: packed `Piece.compressed`."""
    return b"".join(map(frames.varint, lengths))


def read_lengths(wire: bytes, layout: Layout) -> list[int]:
    """How many bytes stand for each chunk. ProtocolMismatch if there are others, or some for no chunk or too many."""
    lengths: list[int] = []
    at = 0
    whole = [stop - start for _, start, stop in chunks(layout)]
    while at < len(wire) and len(lengths) < len(whole):
        try:
            length, at = frames.number(wire, at)
        except IndexError:
            break
        lengths.append(length)
    fit = len(lengths) == len(whole) and at == len(wire) and sum(lengths) <= layout.nbytes
    if not fit or any(not 0 < length <= most for length, most in zip(lengths, whole, strict=True)):
        raise ProtocolMismatch(f"what is said to stand for the {len(whole)} chunks of a batch is no length of each")
    return lengths


def _check(source: memoryview, nbytes: int) -> None:
    """ProtocolMismatch unless Blosc's own header says what is there: it reads and takes memory on the word of that."""
    if len(source) > _HEADER.size:
        version, _, flags, itemsize, whole, block, here = _HEADER.unpack_from(source)
        fits = (whole, here) == (nbytes, len(source)) and 0 < block <= nbytes and itemsize > 0
        if version == _VERSION and not flags & _COPIED and fits:
            return
    raise ProtocolMismatch(f"{len(source)} bytes stand for {nbytes} and are no buffer of Blosc")
