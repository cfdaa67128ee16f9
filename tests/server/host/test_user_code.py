"""What the operator's code raises, in words."""

from feedline_server.host.user_code import exception_line


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_is_its_kind_and_its_text() -> None:
    assert exception_line(ValueError("no such file")) == "ValueError: no such file"
    assert exception_line(ValueError()) == "ValueError"


def test_an_exception_that_cannot_say_itself_is_its_kind_and_says_so() -> None:
    assert exception_line(Unsayable()) == "Unsayable: (its text cannot be made: RuntimeError)"
