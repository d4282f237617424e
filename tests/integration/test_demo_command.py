"""`wicketgate demo --check` starts the demo, runs every command that it printed, and stops."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bench.server import free_port

if TYPE_CHECKING:
    from pathlib import Path


def demo(root: Path, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wicketgate", "demo", "--check", *words],
        cwd=root,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.needs("curl")
def test_every_printed_command_works_as_printed(root: Path, tmp_path: Path) -> None:
    done = demo(root, tmp_path, "--port", str(free_port()), "--admin-port", str(free_port()))

    screen, _, checks = done.stdout.partition("Checking the commands above")
    assert done.returncode == 0, done.stdout + done.stderr
    assert checks.count("  + ") == 3
    assert max(len(line.partition(" Log: ")[0]) for line in screen.splitlines()) <= 100
    assert screen.strip().count("\n") + 1 <= 21
    assert (tmp_path / "wicketgate" / "demo" / "demo.log").is_file()


@pytest.mark.needs("curl")
def test_a_taken_port_gives_way_to_the_next_free_one(root: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        done = demo(root, tmp_path, "--port", str(taken), "--admin-port", str(free_port()))

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"port {taken} is taken; server uses" in done.stdout
