import pytest

from feedline_wire.listing import counted, listed


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "nothing"),
        (["a"], "a"),
        (range(8), "0, 1, 2, 3, 4, 5, 6, 7"),
        (range(9), "0, 1, 2, 3, 4, 5, 6, 7, … (9 in all)"),
    ],
)
def test_a_message_lists_the_first_names_and_says_how_many_there_are(names: list[object], text: str) -> None:
    assert listed(names) == text


def test_a_message_may_list_fewer_names() -> None:
    assert listed("abc", most=2) == "a, b, … (3 in all)"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 ids ()"),
        (1, "1 id (0)"),
        (5, "5 ids (0, 1, 2, 3, 4)"),
        (6, "6 ids (0, 1, 2, 3, 4, …)"),
    ],
)
def test_a_message_counts_and_gives_examples(count: int, text: str) -> None:
    assert counted(range(count), "id") == text
