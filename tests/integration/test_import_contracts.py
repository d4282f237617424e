"""Each import contract is seen to fail: a copy of the tree with one forbidden import must break it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("wicketgate", "governor", "qos", "rollout", "transport", "bench")

OFFENCES = [
    ("independence", "governor/pid.py", "import qos.digest"),
    ("outward", "qos/digest.py", "import wicketgate.errors"),
    ("layers", "wicketgate/errors.py", "import wicketgate.runtime"),
    ("layers", "wicketgate/stray.py", "x = 1"),
    ("engine", "wicketgate/engine/wire.py", "import wicketgate.engine.host"),
    ("pure", "rollout/stages.py", "import time"),
    ("pure", "wicketgate/pipeline/queue.py", "import asyncio"),
    ("mlx-door", "wicketgate/pipeline/text.py", "import mlx_lm"),
    ("mlx-caller", "wicketgate/runtime.py", "import wicketgate.engine.mlx"),
]


@pytest.mark.parametrize(("contract", "file", "line"), OFFENCES)
def test_a_forbidden_import_breaks_its_contract(
    contract: str, file: str, line: str, root: Path, tmp_path: Path
) -> None:
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "model", "text", "out")
        shutil.copytree(root / package, tmp_path / package, ignore=ignored)
    shutil.copy(root / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as module:
        module.write(f"\n{line}\n")
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--contract", contract]

    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 1
    assert "Contracts: 0 kept, 1 broken" in done.stdout
