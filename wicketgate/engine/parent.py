"""
Ends an engine host whose gateway is gone, whatever the host is doing.

Theory of operation. macOS has no PDEATHSIG, and nothing inside the host can be relied on: its loop may wait
in the device's driver, and no thread of ours runs while native code holds the interpreter lock. So the host
starts a process of a few megabytes that waits for two pipes to close. The first is the *lifeline*: the
gateway holds its other end and never writes, so that end of file means that the gateway is gone, however it
went; then the host is killed. The second is held by the host, so that the watcher never outlives it.

Left out on purpose: `faulthandler.dump_traceback_later(exit=True)`, re-armed by each step. It fires with the
lock held, but cannot ask whether the gateway lives: short enough to end an orphan within 2 s, it would also
end a host that compiles kernels for 3.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import Final

LIFELINE: Final = 0
"""The host's stdin."""

_WATCHER: Final = """
import os, select, sys
host, theirs = int(sys.argv[1]), int(sys.argv[2])
closed, _, _ = select.select([0, theirs], [], [])
if 0 in closed and theirs not in closed and os.getppid() == host:
    os.kill(host, 9)
"""
# select and not poll: macOS's poll is silent about the end of some files. The parent is compared because a
# process id may have been given to another program meanwhile.


class ParentWatch:
    """
    The process that watches over this one.

    Start it before anything that may hang, and after SIGINT and SIGTERM are ignored, which it inherits: the
    gateway decides when its host ends. Keep the object.

    Args:
        lifeline: A pipe or socket that the gateway holds the other end of and never writes to. Anything else,
            such as the stdin of a host started by hand, is not watched.
    """

    def __init__(self, lifeline: int = LIFELINE) -> None:
        self._watcher: subprocess.Popen[bytes] | None = None
        self._held = -1
        mode = os.fstat(lifeline).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            self._start(lifeline)

    def _start(self, lifeline: int) -> None:
        theirs, self._held = os.pipe()
        try:
            self._watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCHER, str(os.getpid()), str(theirs)],
                stdin=lifeline,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs],
                # Not the gateway's: no library may be preloaded into a process that only waits.
                env={},
            )
        finally:
            os.close(theirs)

    @property
    def pid(self) -> int | None:
        """Process id of the watcher; None where there is no lifeline."""
        return None if self._watcher is None else self._watcher.pid

    def close(self) -> None:
        """Let the watcher end."""
        if self._watcher is not None:
            os.close(self._held)
            self._watcher.wait()
            self._watcher = None
