"""Conditions on a row, such as `clip >= 0.27 and not nsfw`: parsed with Python's `ast`, evaluated here.

Names are columns. As in SQL, unknown values (null, NaN) make results unknown, and an unknown condition does not hold.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sdbatch.errors import UsageError

__all__ = ["Expression", "Kind", "named_columns"]

Kind = Literal["number", "flag", "text"]

MAX_CHARACTERS = 2_000
MAX_DEPTH = 50
COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
CONSTANTS = {"true": True, "false": False}
FORMS = "names of columns, numbers, 'text', and, or, not, <, <=, >, >=, ==, !=, in (…), +, -, *, / and parentheses"


@dataclass(frozen=True)
class Expression:
    """A condition with checked names and types. It compares, combines and calculates; it cannot call functions.

    Attributes:
        text: the condition as given.
        names: the columns that it uses, in order of appearance.
    """

    text: str
    names: tuple[str, ...]
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str, kinds: Mapping[str, Kind], option: str) -> Expression:
        """Parse a condition.

        Args:
            kinds: the kinds of the columns that it may name.
            option: the option that it comes from, for messages.

        Raises:
            UsageError: it cannot be parsed, names an unknown column, or compares values of different kinds.
        """
        if len(text) > MAX_CHARACTERS:
            raise UsageError(f"{option}: at most {MAX_CHARACTERS:,} characters, not {len(text):,}")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
            reason = exc.msg if isinstance(exc, SyntaxError) else str(exc)
            raise UsageError(
                f"{option} {text!r}: {reason}; write a condition such as 'clip >= 0.27 and not nsfw'"
            ) from exc
        checker = _Checker(kinds, f"{option} {text!r}")
        if checker.kind(tree, 0) != "flag":
            raise UsageError(f"{option} {text!r}: is not a condition; compare with a value, such as 'clip >= 0.27'")
        return cls(text, tuple(checker.names), tree)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether a row with these values meets the condition."""
        return _value(self._tree, values) is True

    def unfulfilled(self, values: Mapping[str, Any]) -> list[str]:
        """The parts joined with `and` that a row with these values does not meet."""
        tree = self._tree
        parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
        return [ast.unparse(part) for part in parts if _value(part, values) is not True]

    def prefers_low(self, name: str) -> bool:
        """Whether lower values of a column are better: the condition compares it with `<` or `<=`."""
        for node in ast.walk(self._tree):
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            for left, sign, right in zip(sides, node.ops, sides[1:], strict=False):
                if isinstance(left, ast.Name) and left.id == name and isinstance(sign, ast.Lt | ast.LtE):
                    return True
                if isinstance(right, ast.Name) and right.id == name and isinstance(sign, ast.Gt | ast.GtE):
                    return True
        return False


def named_columns(condition: str | None) -> frozenset[str]:
    """The column names in a condition that was parsed before."""
    tree = ast.parse((condition or "True").strip(), mode="eval")
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


class _Checker:
    """Determines the kind of every part, or the error in it."""

    def __init__(self, kinds: Mapping[str, Kind], where: str) -> None:
        self._kinds = kinds
        self._where = where
        self.names: dict[str, None] = {}

    def kind(self, node: ast.expr, depth: int) -> Kind:
        if depth > MAX_DEPTH:
            raise self._error(f"is nested more than {MAX_DEPTH} deep")
        match node:
            case ast.Constant(value=value) if (kind := _kind_of(value)) is not None:
                return kind
            case ast.Name(id=name):
                return self._column(name)
            case ast.BoolOp(values=parts):
                for part in parts:
                    self._wanted(part, "flag", depth)
                return "flag"
            case ast.UnaryOp(op=ast.Not(), operand=part):
                self._wanted(part, "flag", depth)
                return "flag"
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=part):
                self._wanted(part, "number", depth)
                return "number"
            case ast.BinOp(op=sign, left=left, right=right) if type(sign) in ARITHMETIC:
                self._wanted(left, "number", depth)
                self._wanted(right, "number", depth)
                return "number"
            case ast.Compare(left=left, ops=signs, comparators=others):
                self._comparison([left, *others], signs, depth)
                return "flag"
        raise self._error(f"{ast.unparse(node)!r} is not supported; a condition has {FORMS}")

    def _comparison(self, sides: list[ast.expr], signs: list[ast.cmpop], depth: int) -> None:
        for left, sign, right in zip(sides, signs, sides[1:], strict=False):
            if isinstance(sign, ast.In | ast.NotIn):
                if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
                    raise self._error("'in' takes values in parentheses, such as sampler in ('ddim', 'ddpm')")
                options = right.elts
            elif type(sign) in COMPARISONS:
                options = [right]
            else:
                raise self._error(f"{ast.unparse(ast.Compare(left, [sign], [right]))!r} is not supported; use ==")
            wanted = self.kind(left, depth + 1)
            for option in options:
                if (found := self.kind(option, depth + 1)) != wanted:
                    raise self._error(
                        f"compares {ast.unparse(left)!r}, a {wanted}, with {ast.unparse(option)!r}, a {found}"
                    )

    def _wanted(self, node: ast.expr, wanted: Kind, depth: int) -> None:
        if (found := self.kind(node, depth + 1)) != wanted:
            hint = "; compare it with a value" if wanted == "flag" else ""
            raise self._error(f"{ast.unparse(node)!r} is a {found}; expected a {wanted}{hint}")

    def _column(self, name: str) -> Kind:
        if name in CONSTANTS and name not in self._kinds:
            return "flag"
        if name not in self._kinds:
            close = difflib.get_close_matches(name, self._kinds, n=1)
            known = f"did you mean {close[0]!r}?" if close else f"known names: {', '.join(sorted(self._kinds))}"
            raise self._error(f"there is no column {name!r}; {known}")
        self.names[name] = None
        return self._kinds[name]

    def _error(self, reason: str) -> UsageError:
        return UsageError(f"{self._where}: {reason}")


def _kind_of(value: object) -> Kind | None:
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else None


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """The value of a checked part; None if unknown."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            value = values.get(name) if name in values else CONSTANTS.get(name)
            return None if isinstance(value, float) and math.isnan(value) else value
        case ast.BoolOp(op=sign, values=parts):
            found = [_value(part, values) for part in parts]
            decisive = isinstance(sign, ast.Or)
            return decisive if decisive in found else (None if None in found else not decisive)
        case ast.UnaryOp(op=sign, operand=part):
            value = _value(part, values)
            if value is None:
                return None
            return not value if isinstance(sign, ast.Not) else (-value if isinstance(sign, ast.USub) else value)
        case ast.BinOp(op=sign, left=left, right=right):
            return _calculated(ARITHMETIC[type(sign)], _value(left, values), _value(right, values))
        case ast.Compare(left=left, ops=signs, comparators=others):
            return _compared([left, *others], signs, values)
    raise AssertionError(ast.dump(node))  # `parse` rejects everything else


def _calculated(function: Callable[[Any, Any], float], left: Any, right: Any) -> float | None:
    if left is None or right is None:
        return None
    try:
        return function(left, right)
    except (ZeroDivisionError, OverflowError):
        return None


def _compared(sides: list[ast.expr], signs: list[ast.cmpop], values: Mapping[str, Any]) -> bool | None:
    found: list[bool | None] = []
    for left, sign, right in zip(sides, signs, sides[1:], strict=False):
        value = _value(left, values)
        if isinstance(sign, ast.In | ast.NotIn) and isinstance(right, ast.Tuple | ast.List):
            options = [_value(option, values) for option in right.elts]
            is_in = None if value is None else value in options
            found.append(is_in if is_in is None or isinstance(sign, ast.In) else not is_in)
        else:
            other = _value(right, values)
            found.append(None if value is None or other is None else COMPARISONS[type(sign)](value, other))
    return False if False in found else (None if None in found else True)
