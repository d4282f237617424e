"""Keeps a Mac awake while there is work, and notices that a machine slept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

LEAST_SLEEP_S: Final = 1.0
"""Less is a difference between two clocks that were read one after the other."""


class Awake:
    """
    Holds `caffeinate` while work is in flight and a while longer; it ends with us by itself.

    A closed lid on battery sleeps all the same.

    Args:
        pid: Of the process that works.
        start: Starts a program.
        hold_s: How long the machine stays awake after the last work.
    """

    def __init__(
        self, pid: int, *, start: Callable[[list[str]], subprocess.Popen[bytes]], hold_s: float = 60.0
    ) -> None:
        self._command = ["caffeinate", "-i", "-w", str(pid)]
        self._start = start
        self._hold_s = hold_s
        self._process: subprocess.Popen[bytes] | None = None
        self._worked_s = float("-inf")
        self._is_missing = False

    @property
    def is_held(self) -> bool:
        """Whether the machine is kept awake now."""
        return self._process is not None and self._process.poll() is None

    def observe(self, *, is_busy: bool, now_s: float) -> None:
        """Note whether there is work; call it at least once a second."""
        if is_busy:
            self._worked_s = now_s
        wanted = now_s - self._worked_s <= self._hold_s
        if wanted and not self.is_held and not self._is_missing:
            try:
                self._process = self._start(self._command)
            except OSError:
                self._is_missing = True
        elif not wanted:
            self.close()

    def close(self) -> None:
        """Let the machine sleep."""
        if self._process is not None:
            # It has nothing to tidy up, and nobody waits for long here.
            self._process.kill()
            self._process.wait()
            self._process = None


class SleepWatch:
    """
    Tells how long the machine slept, from a clock that stops in sleep and one that does not.

    Args:
        awake: Such as `time.monotonic`.
        always: Such as `platform.sleeping_clock()`.
    """

    def __init__(self, *, awake: Callable[[], float], always: Callable[[], float]) -> None:
        self._awake = awake
        self._always = always
        self._ahead_s = always() - awake()

    def slept_s(self) -> float:
        """Return how long the machine slept since the last call; 0 where it did not."""
        ahead_s = self._always() - self._awake()
        slept_s, self._ahead_s = ahead_s - self._ahead_s, ahead_s
        return slept_s if slept_s >= LEAST_SLEEP_S else 0.0
