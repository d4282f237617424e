"""Pins that what differs between systems is asked in `platform.py` and `macos.py` alone."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = ("wicketgate", "governor", "qos", "rollout", "transport", "bench")
DOORS = {"wicketgate/platform.py", "wicketgate/macos.py"}
LEFT = {"bench/machine.py": {"/proc/cpuinfo"}, "bench/attacks/scene.py": {"/proc"}}
"""The other places: what names the processor of a measurement, or reads its peak of memory, where it can."""

ATTRIBUTES = {
    "sys.platform",
    "os.eventfd",
    "os.pidfd_open",
    "os.memfd_create",
    "os.sched_getaffinity",
    "os.fork",
    "select.epoll",
    "select.kqueue",
    "signal.pidfd_send_signal",
    "signal.sigtimedwait",
    "socket.SOCK_SEQPACKET",
    "multiprocessing.Process",
}
NAMES = {"prctl", "epoll", "eventfd", "pidfd_open", "memfd_create", "SOCK_SEQPACKET"}


def branches(source: str) -> Iterator[str]:
    """Name each thing in a source that only some systems have, or that asks which system this is."""
    tree = ast.parse(source)
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute() if ast.unparse(node) in ATTRIBUTES:
                yield ast.unparse(node)
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name) if name in NAMES:
                yield name
            case ast.ImportFrom(module="sys", names=names):
                yield from (f"sys.{each.name}" for each in names if each.name == "platform")
            case ast.Call(
                func=ast.Name(id="get_context") | ast.Attribute(attr="get_context"),
                args=[ast.Constant(value="fork")],
            ):
                yield "get_context('fork')"
            case ast.Constant(value=str(text)) if id(node) not in documents and text.startswith("/proc"):
                yield text


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import sys\nif sys.platform == 'darwin': pass", ["sys.platform"]),
        ("from sys import platform", ["sys.platform"]),
        ("import select\nselect.epoll()", ["select.epoll"]),
        ("from select import epoll", ["epoll"]),
        ("libc.prctl(1, 9)", ["prctl"]),
        ("open('/proc/self/statm')", ["/proc/self/statm"]),
        ("get_context('fork')", ["get_context('fork')"]),
        ("multiprocessing.get_context('spawn')", []),
        ('"""Reads /proc and sys.platform."""\nx = "see /proc"', []),
    ],
)
def test_the_lint_finds_what_it_looks_for(source: str, found: list[str]) -> None:
    assert list(branches(source)) == found


def test_no_other_file_asks_which_system_this_is() -> None:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

    found = {
        name: set(names)
        for path in files
        if (name := str(path.relative_to(ROOT))) not in DOORS
        and (names := list(branches(path.read_text(encoding="utf-8"))))
    }

    assert found == LEFT
