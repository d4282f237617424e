"""Where and with what was measured; without it a figure says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

import bench
from wicketgate.platform import total_memory_bytes

_PACKAGES: Final = ("wicketgate", "mlx", "mlx-lm", "hypercorn", "h2", "uvloop", "numpy")


def facts() -> dict[str, object]:
    """Return what does not change while a measurement runs."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": total_memory_bytes(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def load_average() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def cpu(proc: Path = Path("/proc/cpuinfo")) -> str:
    """Name the processor, from the file in which Linux tells it; elsewhere as Python knows it."""
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of our tree, `+` behind it where files differ; None outside of a tree."""
    root = Path(bench.__path__[0]).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
