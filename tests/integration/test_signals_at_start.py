"""
Pins that a gateway ends quietly at any moment of its start: exit code 0, no traceback, no child.

An engine host writes to its gateway's stderr: while one is left that has no end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bench.prompts import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

END_S = 10.0
MOMENTS = {
    "the configuration's library is imported": r"\| +yaml$",
    "the runtime is imported": r"\| +wicketgate\.runtime$",
    "the model's tokenizer is opened": r"\| +tokenizers$",
    "the listeners are open": r'"event":"listening"',
    "the model is loaded": r'"event":"model_loaded"',
    "it says that it serves": r"^wicketgate serves",
}
"""What stands on stderr then; each import is told there."""
HOST_IMPORTS = r"\| +wicketgate\.engine\.kv\.cache$"
"""Only an engine host needs it."""


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a gateway that tells of each import."""
    file = tmp_path / "runtime.yaml"
    file.write_text(json.dumps({"models": [{"id": "demo", "path": str(MODEL)}]}))
    options = ["--config", str(file), "--state-dir", str(tmp_path / "s"), "--port", "0", "--admin-port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "wicketgate", "serve", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        start_new_session=True,
    )
    with process:
        yield process
        process.kill()


def end_at(line: str, starting: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Send the signal once the line was said, as a terminal does; returns the exit code and what was said."""
    assert starting.stderr is not None
    assert any(re.search(line, said) for said in starting.stderr)
    os.killpg(starting.pid, number)
    rest = starting.stderr.read()
    return starting.wait(END_S), rest


@pytest.mark.parametrize("line", MOMENTS.values(), ids=MOMENTS)
def test_sigterm_ends_a_start_quietly(starting: subprocess.Popen[str], line: str) -> None:
    code, rest = end_at(line, starting, signal.SIGTERM)

    assert code == 0
    assert "Traceback" not in rest


def test_ctrl_c_does_not_reach_an_engine_host_that_starts(starting: subprocess.Popen[str]) -> None:
    code, rest = end_at(HOST_IMPORTS, starting, signal.SIGINT)

    assert code == 0
    assert "Traceback" not in rest
