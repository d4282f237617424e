"""Pins what a command imports: `rollback` must not wait for what it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = {
    "asyncio", "concurrent", "dataclasses", "difflib", "email", "http", "importlib.metadata", "inspect",
    "logging", "multiprocessing", "ssl", "tempfile", "traceback", "unittest", "xml", "zipfile",
}  # fmt: skip
TREE = {
    "wicketgate", "wicketgate.cli", "wicketgate.cli.command", "wicketgate.cli.commands",
    "wicketgate.cli.commands_rollout", "wicketgate.cli.main", "wicketgate.cli.options",
    "wicketgate.cli.output", "wicketgate.errors",
}  # fmt: skip
LEDGER = {"wicketgate.audit", "wicketgate.ledger", "wicketgate.ledger_file"}
PLACE = {"wicketgate.cli.place", "wicketgate.platform"}
ROLLBACK = {
    *TREE, *LEDGER, *PLACE, "rollout", "rollout.latch", "wicketgate.cli.control", "wicketgate.cli.rollback",
}  # fmt: skip


def imported(tmp_path, *words: str) -> tuple[set[str], set[str]]:
    """Run a command in its own interpreter; return what it imported: of others, and of ours."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from wicketgate.cli.main import run\n"
        f"assert run({list(words)!r}) == 0\n"
        "print('\\n' + ' '.join(set(sys.modules) - before))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    modules = {name for name in done.stdout.splitlines()[-1].split() if not name.startswith("_")}
    ours = {name for name in modules if name.split(".")[0] in ("wicketgate", "rollout")}
    return modules - ours, ours


def test_a_rollback_imports_little(tmp_path):
    others, ours = imported(tmp_path, "rollback", "ttft_pipeline", "--state-dir", str(tmp_path / "s"))

    assert {name.split(".")[0] for name in others} <= sys.stdlib_module_names
    assert others.isdisjoint(SLOW)
    assert ours == ROLLBACK


def test_a_kill_imports_as_little(tmp_path):
    others, ours = imported(tmp_path, "rollout", "kill", "--state-dir", str(tmp_path / "s"))

    assert others.isdisjoint({*SLOW, "yaml"})
    assert ours == ROLLBACK | {"wicketgate.cli.kill", "wicketgate.cli.question"}


def test_a_completion_asks_no_gateway_and_imports_no_configuration(tmp_path):
    others, ours = imported(tmp_path, "__complete", "rollback", "--state-dir", str(tmp_path / "s"), "t")

    assert others.isdisjoint({*SLOW, "socket", "yaml", "pydantic"})
    assert ours == TREE | LEDGER | PLACE | {"wicketgate.cli.completion"}


@pytest.mark.parametrize("words", [["__complete", "rollout", "st"], ["completion", "bash"]])
def test_a_completion_of_commands_imports_the_tree_alone(tmp_path, words):
    others, ours = imported(tmp_path, *words)

    assert others.isdisjoint({*SLOW, "json", "socket", "sqlite3", "yaml"})
    assert ours == TREE | {"wicketgate.cli.completion"}


@pytest.mark.parametrize("words", [["--help"], ["rollout"], ["rollback", "--help"]])
def test_help_imports_less(tmp_path, words):
    others, ours = imported(tmp_path, *words)

    assert others.isdisjoint({*SLOW, "json", "socket", "sqlite3", "pathlib", "yaml"})
    assert ours == TREE
