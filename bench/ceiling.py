"""Starts the process that measures the ceiling, and asks it for bursts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wicketgate.platform import engine_environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self


class CeilingFailedError(RuntimeError):
    """The process ended, or said what is no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Prompts that were computed side by side."""

    duration_s: float
    tokens: int
    ttft_s: tuple[float, ...]
    """Of each prompt, in their order."""
    tpot_s: tuple[float, ...]
    """Time per token after the first."""


class Ceiling:
    """
    BatchGenerator in its own process, idle until it is asked.

    Args:
        model: Folder of the model.
        stderr: File that takes what it complains about.
    """

    def __init__(self, model: Path, *, stderr: Path) -> None:
        self._stderr = stderr
        with stderr.open("ab") as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.ceiling_child", str(model)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env={**os.environ, **engine_environment()},
            )
        self.device = str(self._read()["device"])
        """cpu or gpu."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.communicate()

    def burst(self, prompts: Sequence[Sequence[int]], *, max_tokens: int) -> Burst:
        """
        Compute prompts at once.

        Raises:
            CeilingFailedError: the process is gone.
        """
        assert self._process.stdin is not None
        order = json.dumps({"prompts": prompts, "max_tokens": max_tokens})
        try:
            self._process.stdin.write(order.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failed() from error
        done = self._read()
        return Burst(
            duration_s=done["duration_s"],
            tokens=done["tokens"],
            ttft_s=tuple(done["ttft_s"]),
            tpot_s=tuple(each / (max_tokens - 1) for each in done["decode_s"]),
        )

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise self._failed() from error
        return answer

    def _failed(self) -> CeilingFailedError:
        said = self._stderr.read_text(encoding="utf-8", errors="replace")[-500:]
        return CeilingFailedError(f"the process that measures the ceiling ended: {said}")
