"""Whatever is sent to a loader, it answers or refuses, stays well, and serves the next one.

A real loader in a process of its own; what is generated is little enough for every run.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedline_wire import PROTOCOL, frames, rpc, tensors
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import read_failure
from feedline_wire.lane import GREETING, TCP

ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,  # no request of the contract
    grpc.StatusCode.FAILED_PRECONDITION,  # another version of it
    grpc.StatusCode.UNAVAILABLE,  # ends like a request with a checksum, which is another: damaged on its way
}
"""How a call may end. Not UNKNOWN or INTERNAL, which are faults of the loader, nor DEADLINE_EXCEEDED."""

uint64 = st.integers(0, 2**64 - 1)
names = st.text(max_size=40) | st.sampled_from(
    ["digits", "scans", "train", "shuffle", "sequential", "", "../digits", "/etc/passwd", "os.system", "\0", "{}", "%s"]
)
keys = st.builds(
    pb.Key,
    dataset=st.sampled_from(["digits", "scans"]) | names,
    fingerprint=st.binary(max_size=40),
    view=st.just("train") | names,
    order=st.sampled_from(["shuffle", "sequential"]) | names,
    seed=uint64,
    epoch=st.sampled_from([0, 2**64 - 1]) | uint64,
    offset=st.integers(0, 110) | uint64,
    rows=st.integers(0, 110) | st.integers(0, 2**32 - 1),
)
requests = st.builds(
    pb.FetchRequest,
    protocol=st.just(PROTOCOL) | st.integers(0, 2**32 - 1),
    wants=st.lists(st.builds(pb.Want, ticket=st.integers(0, 5) | uint64, key=keys), max_size=12),
    cancelled=st.lists(st.integers(0, 5) | uint64, max_size=6),
)


def mangled(wire: bytes, at: int, byte: int) -> bytes:
    """One byte of a request is another."""
    if not wire:
        return bytes([byte])
    return wire[: at % len(wire)] + bytes([byte]) + wire[at % len(wire) + 1 :]


request_bytes = (
    st.binary(max_size=200)
    | requests.map(pb.FetchRequest.SerializeToString)
    | st.builds(mangled, requests.map(pb.FetchRequest.SerializeToString), uint64, st.integers(0, 255))
)


class Patient:
    """The loader under test: its description, which nothing may change, and whether it is well."""

    def __init__(self, caller: Any, secured: Any) -> None:
        self.caller = caller
        self.secured = secured
        self.description = caller.describe()
        self.fingerprints = {dataset.name: dataset.fingerprint for dataset in self.description.datasets}

    def check(self) -> None:
        """It is serving, describes itself as before, and a batch of it is right."""
        assert self.caller.call("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"
        assert self.caller.describe() == self.description
        key = pb.Key(dataset="scans", fingerprint=self.fingerprints["scans"], view="train", order="sequential", rows=7)
        request = pb.FetchRequest(protocol=PROTOCOL, wants=[pb.Want(ticket=9, key=key)])
        (wire,) = self.caller.fetch(request.SerializeToString())
        (piece,) = frames.decode(wire).pieces
        layout = tensors.read_header(piece.header)
        ids = next(array for array in layout.arrays if array.name == "__ids__")
        assert bytes(piece.data[ids.offset : ids.offset + 56]) == b"".join(i.to_bytes(8, "little") for i in range(7))


@pytest.fixture(scope="module")
def patient(open_loader: Any, raw: Callable[..., Any]) -> Iterator[Patient]:
    with raw(open_loader.address) as caller:
        patient = Patient(caller, open_loader)
        yield patient

        patient.check()
        while (status := caller.status()).trainers or status.counters[
            "arena_lent"
        ]:  # the last streams are being taken down
            pass
    assert status.counters["workers_restarted"] == 0
    log = open_loader.log
    assert "Traceback" not in log
    assert '"level": "error"' not in log


def ending(call: Callable[[], object]) -> grpc.StatusCode:
    """How a call ended."""
    try:
        call()
    except grpc.RpcError as error:
        failed: Any = error
        return failed.code()
    return grpc.StatusCode.OK


@settings(max_examples=60)
@given(method=st.sampled_from([rpc.DESCRIBE, rpc.STATUS]), wire=st.binary(max_size=200))
def test_any_bytes_as_a_request(patient: Patient, method: str, wire: bytes) -> None:
    assert ending(lambda: patient.caller.call(method, wire)) in ANSWERS


@settings(max_examples=60)
@given(wires=st.lists(request_bytes, max_size=5))
def test_any_bytes_as_a_stream(patient: Patient, wires: list[bytes]) -> None:
    call = patient.caller.fetch(*wires)

    def read() -> None:
        for wire in call:
            frames.decode(wire)

    assert ending(read) in ANSWERS


@settings(max_examples=80)
@given(wanted=st.lists(keys, max_size=8), real=st.booleans())
def test_any_keys_are_each_answered_once(patient: Patient, wanted: list[pb.Key], real: bool) -> None:
    """With the right fingerprint nearly all of them pass the first check and reach what stands behind it."""
    for key in wanted:
        if real and key.dataset in patient.fingerprints:
            key.fingerprint = patient.fingerprints[key.dataset]
    wants = [pb.Want(ticket=ticket, key=key) for ticket, key in enumerate(wanted)]
    answered: list[int] = []

    for wire in patient.caller.fetch(pb.FetchRequest(protocol=PROTOCOL, wants=wants).SerializeToString()):
        for piece in frames.decode(wire).pieces:
            if piece.failure is not None:
                assert str(read_failure(piece.failure))
            if piece.failure is not None or piece.start == 0:
                answered.append(piece.ticket)

    assert sorted(answered) == list(range(len(wanted)))


@settings(max_examples=30)
@given(requests=st.lists(requests, max_size=5), seconds=st.sampled_from([0.0005, 0.002, 0.01]))
def test_callers_that_leave_in_the_middle(patient: Patient, requests: list[pb.FetchRequest], seconds: float) -> None:
    call = patient.caller.fetch(*(request.SerializeToString() for request in requests), timeout_s=seconds)

    with contextlib.suppress(grpc.RpcError):
        for _ in call:
            pass


@settings(max_examples=30)
@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60), wire=st.binary(max_size=20))
def test_any_method(patient: Patient, path: str, wire: bytes) -> None:
    assert ending(lambda: patient.caller.call(f"/{path}", wire)) is grpc.StatusCode.UNIMPLEMENTED


@settings(max_examples=30)
@given(name=st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True).filter(lambda name: name != "te"), value=st.text(
    st.characters(min_codepoint=32, max_codepoint=126), max_size=200))  # fmt: skip
def test_any_header(patient: Patient, name: str, value: str) -> None:
    metadata = ((name, value.encode() if name.endswith("-bin") else value), (rpc.AUTHORIZATION, value))
    call = patient.caller.channel.unary_unary(rpc.STATUS)

    with contextlib.suppress(grpc.RpcError):  # gRPC itself refuses some names
        call(b"", timeout=30, metadata=metadata)


@settings(max_examples=40)
@given(chunks=st.lists(st.binary(max_size=100), max_size=4), preface=st.booleans())
def test_any_bytes_on_the_connection(patient: Patient, chunks: list[bytes], preface: bool) -> None:
    host, port = patient.secured.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 30) as connection, contextlib.suppress(OSError):
        if preface:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        for chunk in chunks:
            connection.sendall(chunk)


@settings(max_examples=30)
@given(said=st.binary(max_size=100) | st.binary(max_size=40).map(GREETING.__add__))
def test_any_bytes_on_the_tcp_lane(patient: Patient, said: bytes) -> None:
    host = patient.secured.address.rsplit(":", 1)[0]
    [port] = [int(lane.address) for lane in patient.description.lanes if lane.name == TCP]
    with socket.create_connection((host, port), 30) as connection:
        connection.sendall(said)
        with contextlib.suppress(OSError):  # it was sent away already: what it said beyond a greeting was not read
            connection.shutdown(socket.SHUT_WR)

        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""


def test_it_is_well_after_all_that(patient: Patient) -> None:
    patient.check()
