"""What makes no sense on the command line is refused before anything begins, with the line to write."""

import pytest

from feedline_autoscale.command import PROGRAM


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--listen", "0.0.0.0:0"), "listen: 0.0.0.0:0 is reached from other hosts"),
        (("--metrics-listen", "0.0.0.0:0"), "metrics_listen: 0.0.0.0:0 is reached from other hosts"),
        (("--listen", "here"), "--listen: found 'here'; wanted host:port, such as 127.0.0.1:50060"),
        (("--listen", "::1:50060"), "--listen: found '::1:50060'; wanted host:port with an IPv6 host in brackets"),
        (("--min", "5", "--max", "2"), "min is 5 and max 2 loaders; wanted 0 <= min <= max"),
        (("--target", "1.5"), "target is 1.5 of the workers' time; wanted more than 0, and 1 at most"),
        (("--tokens", "/no/such/file"), "/no/such/file"),
        (("--tls-key", "/no/such/file"), "tls_key: is set without tls_certificate"),
        (("--token-file", "/no/such/file", "--certificate", "x"), "certificate is given without key"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_start(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PROGRAM.main(["autoscale", "127.0.0.1:1", "--listen", "127.0.0.1:0", *words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("target", ["loader", "http://loader:1", "", "loader:99999"])
def test_a_target_that_is_none_is_refused(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.main(["autoscale", target]) == 1
    assert "write for example 'loader:50051'" in (said := capsys.readouterr().err) or "is not in 1..65535" in said


def test_an_option_that_there_is_not_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        PROGRAM.main(["autoscale", "a:1", "--minimum", "2"])

    assert ended.value.code == 2
    assert "there is no option --minimum" in capsys.readouterr().err


def test_its_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        PROGRAM.main(["autoscale", "--help"])

    said = capsys.readouterr().out
    for word in ("scalerAddress", "fleet.json", "feedline_fleet_recommended_replicas", "LoaderStarting", "examples:"):
        assert word in said


def test_a_token_itself_is_no_argument(capsys: pytest.CaptureFixture[str]) -> None:
    """`--token SECRET` is no option: every user of the host sees arguments."""
    with pytest.raises(SystemExit):
        PROGRAM.main(["autoscale", "a:1", "--token", "swordfish"])

    assert "swordfish" not in capsys.readouterr().err
