"""Which mutants there are of a module: one small fault in its logic each, made by cosmic-ray's operators.

Only logic: comparisons, boolean and arithmetic operators, `not`, `in`, True and False, break and continue, numbers.
What tests do not promise stays as it is: strings, log lines, annotations, decorators, assertions, `__repr__`, and the
values of named constants, which were chosen by measuring.
"""

import ast
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

COMPARISONS: Final = (
    *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
    *("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
)
"""The bound moved by one, and the opposite. Others of cosmic-ray's 56 are caught by whatever catches these."""

ARITHMETIC: Final = (
    *("Add_Sub", "Sub_Add", "Mul_FloorDiv", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul"),
    *("RShift_LShift", "LShift_RShift", "BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitOr"),
)
"""One for each operator; most of cosmic-ray's 132 give a TypeError or nonsense, which any test catches."""

OTHERS: Final = (
    *("ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_USub", "AddNot"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer"),
)

NAMES: Final = (
    *(f"core/ReplaceComparisonOperator_{name}" for name in COMPARISONS),
    *(f"core/ReplaceBinaryOperator_{name}" for name in ARITHMETIC),
    *(f"core/{name}" for name in OTHERS),
)

LOG_METHODS: Final = frozenset({"debug", "info", "warning", "error", "exception"})

Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault in one line of a module."""

    path: str
    line: int
    before: str
    """The line as it stands, without indentation."""
    after: str
    """The line with the fault."""
    source: str
    """The whole module with the fault."""

    @property
    def key(self) -> str:
        """Names it as long as the module stays the same."""
        return hashlib.blake2b(f"{self.path}\n{self.source}".encode(), digest_size=12).hexdigest()

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n    - {self.before}\n    + {self.after}"


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All of them, from the first line to the last. Two operators that make the same fault make one mutant."""
    left_out = list(_not_logic(ast.parse(source)))
    tree = get_ast(source)
    found: dict[str, Mutant] = {}
    for operator in _operators():
        positions = (start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node))
        for occurrence, start in enumerate(positions):
            if not any(first <= start < last for first, last in left_out):
                mutated = mutate_code(source, operator, occurrence)
                if mutated is not None and _compiles(mutated):
                    found.setdefault(mutated, _mutant(path, source, mutated))
    return sorted(found.values(), key=lambda one: (one.line, one.after))


def _operators() -> Iterator[Operator]:
    for name in NAMES:
        yield _Selective(get_operator(name)()) if name == "core/AddNot" else get_operator(name)()
    yield from (_Membership(), _InPlace())


def _mutant(path: str, source: str, mutated: str) -> Mutant:
    pairs = itertools.zip_longest(source.splitlines(), mutated.splitlines(), fillvalue="")
    line, (before, after) = next((number, pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return Mutant(path, line, before.strip(), after.strip(), mutated)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def _not_logic(module: ast.Module) -> Iterator[tuple[Position, Position]]:
    """The parts of a module that stay as they are."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from map(_span, node.decorator_list)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name in {"__repr__", "__str__"}:
                yield _span(node)
            if node.returns is not None:
                yield _span(node.returns)
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield _span(node.annotation)
        if isinstance(node, ast.JoinedStr | ast.Assert) or _is_log_line(node) or _is_constant(node):
            yield _span(node)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield _span(node.test)


def _is_constant(node: ast.AST) -> bool:
    """A name in capitals gets a value, in a module or class."""
    match node:
        case ast.Assign(targets=targets):
            names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        case ast.AnnAssign(target=ast.Name() as name):
            names = [name]
        case _:
            return False
    return all(name.id.isupper() for name in names) and bool(names)


def _is_log_line(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)):
            return attr in LOG_METHODS and "log" in name.lower()
    return False


def _span(node: Any) -> tuple[Position, Position]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


# ---- operators that cosmic-ray has not, or has in another form ----


class _Selective(Operator):  # type: ignore[misc]
    """cosmic-ray's `AddNot`, but where another operator makes the same fault: before a comparison or a `not`."""

    def __init__(self, every: Operator) -> None:
        self._every = every

    def mutation_positions(self, node: Any) -> Iterator[tuple[Position, Position]]:
        for start, end in self._every.mutation_positions(node):
            condition = node.children[2] if node.type == "test" else node.children[1]
            if condition.type not in {"comparison", "not_test"}:
                yield start, end

    def mutate(self, node: Any, index: int) -> Any:
        return self._every.mutate(node, index)

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class _Membership(Operator):  # type: ignore[misc]
    """`in` becomes `not in`, and the other way round."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Position, Position]]:
        if node.type == "comparison":
            for operator in self._operators(node):
                yield operator.start_pos, operator.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        operator = list(self._operators(node))[index]
        place = next(place for place, child in enumerate(node.children) if child is operator)
        node.children[place] = parso.parse(" in" if operator.type == "comp_op" else " not in")
        return node

    @staticmethod
    def _operators(node: Any) -> Iterator[Any]:
        return (child for child in node.children[1::2] if child.get_code().split() in (["in"], ["not", "in"]))

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class _InPlace(Operator):  # type: ignore[misc]
    """`+=` becomes `-=`, and so on."""

    BECOMES: Final = {"+=": "-=", "-=": "+=", "*=": "//=", "//=": "*=", "/=": "*=", "%=": "//=", "|=": "&=", "&=": "|=",
                      "^=": "|=", "<<=": ">>=", ">>=": "<<="}  # fmt: skip

    def mutation_positions(self, node: Any) -> Iterator[tuple[Position, Position]]:
        if node.type == "operator" and node.value in self.BECOMES:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        del index
        node.value = self.BECOMES[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()
