"""
Runs every `sh` line of the runbooks, and what README marks as tested, against a really started server.

A comment `# exit N` beside a command names its exit code, 0 where there is none. A block under
`<!-- tested without a gateway -->` is run where none is running. Examples use the usual ports.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.server import Server, free_port
from tests.conftest import DEMO, ROOT
from tests.unit.test_docs import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

WITHOUT_GATEWAY = "tested without a gateway"
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "runbooks").glob("*.md"))]
COMMAND_S = 30


def commands(page: str, *, without_gateway: bool) -> list[tuple[str, int]]:
    """Return the commands of a page in order, each with the exit code that the page promises."""
    found = []
    for block in blocks(page, "sh"):
        if (block.mark == WITHOUT_GATEWAY) is without_gateway:
            for line in filter(None, map(str.strip, block.text.splitlines())):
                promise = re.search(r"\s+# exit (\d+)$", line)
                found.append((line, int(promise[1]) if promise else 0))
    return found


class Shell:
    """A shell as an operator has it: `wicketgate` on PATH, runtime.yaml in the folder, the server's ports."""

    def __init__(self, folder: Path, *, port: int, admin_port: int) -> None:
        self._folder = folder
        self._ports = {"localhost:8000": f"localhost:{port}", "localhost:8001": f"localhost:{admin_port}"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if key != "WICKETGATE_CONFIG"}
        self._environment = kept | {"PATH": path, "XDG_STATE_HOME": str(folder / "elsewhere")}

    def ported(self, text: str) -> str:
        for usual, ours in self._ports.items():
            text = text.replace(usual, ours)
        return text

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-c", self.ported(command)],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )

    def check(self, promised: list[tuple[str, int]]) -> None:
        for command, code in promised:
            done = self.run(command)
            told = f"{command}\nexit {done.returncode}, promised {code}\n{done.stdout}{done.stderr}"
            assert done.returncode == code, told


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell beside a running server."""
    folder = tmp_path_factory.mktemp("runbooks")
    with Server(folder, {**DEMO, "state_dir": "./state"}) as server:
        yield Shell(folder, port=server.port, admin_port=server.admin_port)


@pytest.fixture
def fresh(gateway: Shell) -> Shell:
    """The same, with nothing killed, rolled back or under way; only what the page before left is undone."""
    rows = json.loads(gateway.run("wicketgate rollout status --json").stdout)["features"]
    if any(row["cause"] == "killed" for row in rows):
        gateway.run("wicketgate rollout unkill --yes --reason next")
    for row in rows:
        feature, phase = row["feature"], row["phase"]
        if phase == "rolled_back":
            verb = "start" if row["mode"] == "staged" else "reset"
            gateway.run(f"wicketgate rollout {verb} {feature} --yes --reason next")
        if row["mode"] == "staged" and phase != "off":
            gateway.run(f"wicketgate rollout stop {feature}")
    return gateway


@pytest.mark.needs("curl")
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_does_what_the_page_says(page: str, fresh: Shell) -> None:
    fresh.check(commands(page, without_gateway=False))


@pytest.mark.needs("curl")
@pytest.mark.parametrize("page", [p for p in PAGES if commands(p, without_gateway=True)])
def test_commands_for_a_gateway_that_is_down_work_without_one(page: str, tmp_path: Path) -> None:
    (tmp_path / "runtime.yaml").write_text("state_dir: ./state\n")
    shell = Shell(tmp_path, port=free_port(), admin_port=free_port())

    shell.check(commands(page, without_gateway=True))


def test_the_readmes_python_streams_text(gateway: Shell, tmp_path: Path) -> None:
    (block,) = blocks("README.md", "python")
    program = tmp_path / "readme.py"
    program.write_text(gateway.ported(block.text))

    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=COMMAND_S, check=True
    )

    assert len(done.stdout.split()) > 3


def test_the_commands_are_found() -> None:
    assert ("wicketgate rollout promote ttft_pipeline  # exit 4", 4) in commands(
        "runbooks/rollout-procedure.md", without_gateway=False
    )
    assert [page for page in PAGES[1:] if page != "runbooks/README.md" and "```sh" not in _text(page)] == []


def _text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")
