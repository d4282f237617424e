"""The ratchet of STYLE: modules stop at 400 lines and functions at 50; the exceptions may only shrink."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("wicketgate", "governor", "qos", "rollout", "transport", "bench")
MODULE_LINES, FUNCTION_LINES = 400, 50
MODULES: dict[str, int] = {}
"""Modules over the bound, with the size that they must not exceed."""
FUNCTIONS: dict[str, int] = {}
"""Functions over the bound, as module:name, with the size that they must not exceed."""


def modules(root: Path) -> dict[str, str]:
    files = [file for package in PACKAGES for file in (root / package).rglob("*.py")]
    return {str(file.relative_to(root)): file.read_text() for file in files}


def functions(name: str, text: str) -> dict[str, int]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    return {f"{name}:{node.name}": (node.end_lineno or 0) - node.lineno + 1 for node in nodes}


def over(sizes: dict[str, int], bound: int) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if size > bound}


def test_no_module_is_over_the_bound(root: Path) -> None:
    sizes = {name: text.count("\n") for name, text in modules(root).items()}

    assert over(sizes, MODULE_LINES) == MODULES


def test_no_function_is_over_the_bound(root: Path) -> None:
    sizes: dict[str, int] = {}
    for name, text in modules(root).items():
        sizes |= functions(name, text)

    assert over(sizes, FUNCTION_LINES) == FUNCTIONS
