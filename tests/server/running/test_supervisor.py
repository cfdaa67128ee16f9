"""What each of several loaders of one command is told, and what the command's end says of theirs."""

from pathlib import Path

import numpy as np
import pytest

from feedline_server.declared.datasets import ArrowConfig
from feedline_server.host.addresses import beside, write_lines
from feedline_server.running.supervisor import divide, exit_code
from feedline_server.settings.settings import Settings, load_settings
from feedline_wire.errors import InvalidRequest


def settings(folder: Path, **changes: object) -> Settings:
    np.save(folder / "x.npy", np.zeros((4, 3)))
    return load_settings(folder, {"listen": "127.0.0.1:50051", "workers": 5, "memory": "64MiB", **changes})


def test_workers_and_memory_are_divided_and_ports_are_counted_up(tmp_path: Path) -> None:
    divided = divide(
        settings(
            tmp_path,
            replicas=3,
            health_listen="0.0.0.0:8080",
            tcp_port=6000,
            insecure=True,
            metrics_listen="127.0.0.1:9100",
        )
    )

    assert [one.listen for one in divided] == ["127.0.0.1:50051", "127.0.0.1:50052", "127.0.0.1:50053"]
    assert [one.health_listen for one in divided] == ["0.0.0.0:8080", "0.0.0.0:8081", "0.0.0.0:8082"]
    assert [one.metrics_listen for one in divided] == ["127.0.0.1:9100", "127.0.0.1:9101", "127.0.0.1:9102"]
    assert [one.tcp_port for one in divided] == [6000, 6001, 6002]
    assert [one.workers for one in divided] == [2, 2, 1]
    assert [one.memory for one in divided] == [22369621, 22369621, 22369621]
    assert [one.replicas for one in divided] == [1, 1, 1]


def test_ports_that_may_be_any_stay_so(tmp_path: Path) -> None:
    divided = divide(settings(tmp_path, replicas=2, listen="127.0.0.1:0"))

    assert [(one.listen, one.tcp_port, one.health_listen) for one in divided] == [("127.0.0.1:0", 0, None)] * 2


def test_what_is_no_number_arrives_at_a_replica(tmp_path: Path) -> None:
    (tmp_path / "loader.toml").write_text('[datasets.d]\nkind = "arrow"\nfill = {x = nan, y = 1, z = "a"}\n')

    for one in divide(load_settings(tmp_path, {"workers": 2, "replicas": 2})):
        found = Settings.model_validate_json(one.model_dump_json()).datasets["d"]
        assert isinstance(found, ArrowConfig)
        assert repr(found.fill) == "{'x': nan, 'y': 1, 'z': 'a'}"


def test_the_settings_of_a_replica_arrive_as_they_were_sent(tmp_path: Path) -> None:
    for one in divide(settings(tmp_path, replicas=2)):
        assert Settings.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize("changes", [{"workers": 1}, {"memory": "1.5MiB"}])
def test_more_replicas_than_there_is_to_divide_are_refused_with_the_numbers(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest, match=r"replicas is 2, with \d workers and \d+ bytes of memory to divide"):
        divide(settings(tmp_path, replicas=2, **changes))


@pytest.mark.parametrize(
    ("address", "index", "found"),
    [
        ("127.0.0.1:50051", 0, "127.0.0.1:50051"),
        ("loader:50051", 2, "loader:50053"),
        ("[::1]:50051", 1, "[::1]:50052"),
        ("0.0.0.0:0", 3, "0.0.0.0:0"),
    ],
)
def test_an_address_some_ports_further(address: str, index: int, found: str) -> None:
    assert beside(address, index) == found


def test_ports_are_written_one_a_line(tmp_path: Path) -> None:
    write_lines(tmp_path / "ports", [50051, 50052])

    assert (tmp_path / "ports").read_text() == "50051\n50052\n"


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, -15, -2], 0),  # told to stop before they could listen
        ([0, 1], 1),
        ([130, 130], 130),  # Ctrl-C while they started
        ([1, 130], 1),  # one could not begin, and the other was told to stop while it started
        ([0, -9], 1),  # one did not end and was killed
    ],
)
def test_the_exit_code_is_the_worst_of_theirs(codes: list[int], code: int) -> None:
    assert exit_code(codes) == code
