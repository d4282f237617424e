"""Calls written as a list of Python calls with keyword arguments (pure)."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final

from wicketgate.pipeline.tools.tagged import blocks
from wicketgate.pipeline.tools.values import parsed, python_literal
from wicketgate.pipeline.tools.whole_calls import Call

if TYPE_CHECKING:
    from wicketgate.pipeline.tools.body import Tools

_JSON_NAMES: Final = {"true": True, "false": False, "null": None}
_HEAD: Final = re.compile(r"\[([\w.]+)\(")
_ARGUMENT: Final = re.compile(r"""\b(\w+)=(?:"([^"]*)"|'([^']*)'|([^,]+))(?:,\s*|$)""", re.DOTALL)


def pythonic(text: str, _: Tools) -> list[Call]:
    """
    Read `[f(a=1, b="x"), g()]`; one call that is no valid Python argument by argument.

    Raises:
        TypeError: not all are calls with names for all their arguments.
    """
    begin, end = text.find("["), text.rfind("]")
    if begin < 0:
        return []
    try:
        listed = parsed(text[begin : end + 1])
        if isinstance(listed, ast.List):
            return [_call(element) for element in listed.elts]
    except (SyntaxError, ValueError):
        pass
    return _loosely(text)


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args:
        raise TypeError("no call with keyword arguments only")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise TypeError("an argument without a name")
        arguments[keyword.arg] = ast.literal_eval(_JsonNames().visit(keyword.value))
    return Call(_name(node.func), arguments)


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=parent, attr=name):
            return f"{_name(parent)}.{name}"
        case _:
            raise TypeError("no name")


class _JsonNames(ast.NodeTransformer):
    """Templates write containers as JSON, with true, false and null in them."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Replace the names that JSON has for constants."""
        return ast.Constant(_JSON_NAMES[node.id]) if node.id in _JSON_NAMES else node


def _loosely(text: str) -> list[Call]:
    for head, body in blocks(text, _HEAD, ")]"):
        found = _ARGUMENT.findall(body)
        values = ((key, bare.strip() if bare else double or single) for key, double, single, bare in found)
        return [Call(head[1], {key: python_literal(value) for key, value in values})]
    return []
