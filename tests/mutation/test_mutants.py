"""The mutation test changes logic, and nothing else."""

import pytest

pytestmark = pytest.mark.mutate

mutants = pytest.importorskip("mutants", reason="needs the packages of the group mutate")


def faults(source: str) -> list[str]:
    return [mutant.after for mutant in mutants.mutants_of("module.py", source)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a < b", ["a <= b", "a >= b"]),
        ("a == b", ["a != b"]),
        ("a is None", ["a is not None"]),
        ("a in b", ["a not in b"]),
        ("a not in b", ["a in b"]),
        ("a and not b", ["a and  b", "a or not b"]),
        ("a + b", ["a - b"]),
        ("a += b", ["a -= b"]),
        ("a << b", ["a >> b"]),
        ("a = True", ["a = False"]),
        ("a = 4", ["a = 3", "a = 5"]),
        ("a if b else c", ["a if not b else c"]),
        ("a if b > c else d", ["a if b <= c else d", "a if b >= c else d"]),
    ],
)
def test_logic_is_changed(line: str, expected: list[str]) -> None:
    assert faults(line) == expected


def test_loops_and_conditions_are_changed() -> None:
    source = "for a in b:\n    if a:\n        continue\n    break\n"

    assert faults(source) == ["if not a:", "break", "continue"]


@pytest.mark.parametrize(
    "source",
    [
        "a = 'text'",
        "a = f'{b + 1} and {c > 2}'",
        "_log.info('text', number=1 + b)",
        "def f(a: int | None) -> str | None: ...",
        "a: int | None = b",
        "@dataclass(frozen=True)\nclass A: ...",
        "assert a > 0",
        "class A:\n    def __repr__(self):\n        return a + b",
        "if TYPE_CHECKING:\n    import a",
        "LIMIT = 4",
        "class A:\n    FIRST, _LAST = 1, 2\n    MOST: int = 3",
    ],
)
def test_what_tests_do_not_promise_stays_as_it_is(source: str) -> None:
    assert faults(source) == []


def test_a_mutant_says_where_it_is() -> None:
    [mutant] = mutants.mutants_of("a/b.py", "x = 'one'\n\nif x == y:\n    pass\n")

    assert str(mutant) == "a/b.py:3\n    - if x == y:\n    + if x != y:"
    assert mutant.source == "x = 'one'\n\nif x != y:\n    pass\n"
