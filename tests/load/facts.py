"""What load tests share: the configuration, sizes, and what /proc says of a process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wicketgate.platform import process_memory_bytes

if TYPE_CHECKING:
    from bench.answers import Answer

ON = {"enabled": True}
CONFIG: dict[str, object] = {
    "phase4_rollout": {
        "adaptive_governor": ON,
        "http2_transport": ON,
        "qos_monitoring": ON,
        "ttft_pipeline": {"enabled": True, "mode": "staged"},
    }
}
TOKENS = 64
MIN_DIFFERENT = 20
PROMPT_TOKENS = (24, 48, 64, 96)
STREAMS = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class Solo:
    """A greedy request of TOKENS tokens that ran alone."""

    prompt: list[int]
    text: str


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    size = process_memory_bytes(pid)
    if size is None:
        pytest.skip("this system does not tell the memory of another process (/proc)")
    return size


def open_files(pid: int) -> int:
    """Return how many file descriptors a process has open."""
    folder = Path(f"/proc/{pid}/fd")
    if not folder.is_dir():
        pytest.skip("this system does not tell the open files of another process (/proc)")
    return sum(1 for _ in folder.iterdir())


def not_ok(answers: tuple[Answer, ...]) -> list[tuple[int, object]]:
    """Return status and error of those that did not succeed."""
    return [(each.status, each.error) for each in answers if each.status != 200 or each.error]
