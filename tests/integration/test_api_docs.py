"""
Runs the examples of the pages on the APIs against a really started gateway.

A shell block is a script of its own, in which curl fails on any answer of 400 and above. The blocks of Python
of one page are one program, in their order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.unit.test_docs import blocks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Gateway

PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("api*.md"))
SHELL = [(page, block.text) for page in PAGES for block in blocks(page, "sh")]
USUAL = "localhost:8000"
LIMIT_S = 60


def ported(text: str, server: Gateway) -> str:
    return text.replace(USUAL, server.url.removeprefix("http://"))


@pytest.mark.needs("curl")
@pytest.mark.parametrize(("page", "script"), SHELL, ids=[f"{page}-{n}" for n, (page, _) in enumerate(SHELL)])
def test_every_script_gets_the_answers_that_it_asks_for(
    page: str, script: str, server: Gateway, tmp_path: Path
) -> None:
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 30\n")

    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", ported(script, server)],
        cwd=tmp_path,
        env=os.environ | {"CURL_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )

    assert done.returncode == 0, f"{page}\n{script}\n{done.stdout}{done.stderr}"
    assert done.stdout.strip()


@pytest.mark.parametrize("page", PAGES)
def test_the_program_of_a_page_runs_to_its_end(page: str, server: Gateway, tmp_path: Path) -> None:
    program = tmp_path / "page.py"
    program.write_text(ported("\n".join(block.text for block in blocks(page, "python")), server))

    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)], capture_output=True, text=True, timeout=LIMIT_S
    )

    assert done.returncode == 0, f"{page}\n{done.stdout}{done.stderr}"
    assert done.stdout.strip()


def test_every_example_is_marked_as_tested_and_asks_the_usual_port() -> None:
    for page in PAGES:
        for block in (*blocks(page, "sh"), *blocks(page, "python")):
            assert block.mark == "tested", f"{page}\n{block.text}"
    assert all(USUAL in script for _, script in SHELL)
