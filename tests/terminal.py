"""A command of ours on a terminal of its own."""

from __future__ import annotations

import os
import pty
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def on_a_terminal(
    options: Sequence[str], *words: str, columns: int = 80, until: bytes = b"[y/N]", typed: bytes = b""
) -> tuple[int, str]:
    """Run a command on a terminal, type once it shows a text; return its exit code and what was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        # A shell that runs the tests in the background lets them, and so this, ignore it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ.update({"COLUMNS": str(columns), "LINES": "50", "TERM": "xterm"})
        os.execv(sys.executable, [sys.executable, "-m", "wicketgate", *words, *options])
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux says so when the other side has closed
            break
        if not part:
            break
        shown += part
        if typed and until in shown:
            os.write(terminal, typed)
            typed = b""
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()
