"""
What only a Mac can be asked, through its C libraries and its tools.

`Mac` is handed the libraries and the runner of programs, so that a test can give it fakes; `platform.mac()`
makes the one of this machine. What cannot be read is None, never 0: a missing figure must not look like a
good one.
"""

from __future__ import annotations

import ctypes
import errno
import re
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

SYSTEM_LIBRARY: Final = "/usr/lib/libSystem.B.dylib"
PROCESS_LIBRARY: Final = "/usr/lib/libproc.dylib"

_RUSAGE_FLAVOUR: Final = 4
_RUSAGE_BYTES: Final = 512
"""More than any version of the structure has had; the system writes as much as the flavour has."""
_FOOTPRINT_AT: Final = 72
"""After a uuid of 16 bytes and seven numbers of 8."""
_PRESSURE: Final = {1: 0, 2: 1, 4: 2}
_POWER_MODES: Final = ("automatic", "low", "high")
_THERMAL_LEVELS: Final = 5
_SWAP_BYTES: Final = 32
"""Three numbers of 8 bytes (in all, free, used), the page size, whether it is encrypted, padding."""
_USER_INITIATED: Final = 0x19
"""Quality of service of a thread that somebody waits for."""
_REPORTS: Final = ("*.panic", "gpuEvent*", "JetsamEvent*", "[Pp]ython*.ips")
_MOST_REPORTS: Final = 5


class Mac:
    """
    A Mac and what it tells.

    Args:
        system: The library libSystem; None where it could not be opened.
        processes: The library libproc.
        run: Runs a program and returns what it printed, None where it failed.
    """

    def __init__(
        self,
        *,
        system: ctypes.CDLL | None,
        processes: ctypes.CDLL | None,
        run: Callable[[list[str]], str | None],
    ) -> None:
        self._system = system
        self._processes = processes
        self._run = run

    # What it is

    def chip(self) -> str | None:
        """Return the chip's name, such as `Apple M4 Max`."""
        data = self._sysctl("machdep.cpu.brand_string", 256)
        return None if data is None else data.split(b"\0", 1)[0].decode("utf-8", "replace") or None

    def gpu_cores(self) -> int | None:
        """Return how many cores the GPU has."""
        text = self._run(["ioreg", "-rc", "AGXAccelerator", "-d1"]) or ""
        found = re.search(r'"gpu-core-count"\s*=\s*(\d+)', text)
        return None if found is None else int(found[1])

    def is_translated(self) -> bool | None:
        """Say whether this process runs under Rosetta."""
        number = self._number("sysctl.proc_translated")
        return None if number is None else bool(number)

    # Memory

    def footprint_bytes(self, pid: int) -> int | None:
        """
        Return what the system counts for a process when it decides whom to end.

        Neither resident memory nor mlx's own figures see all of it.
        """
        proc_pid_rusage = _function(self._processes, "proc_pid_rusage")
        buffer = ctypes.create_string_buffer(_RUSAGE_BYTES)
        if proc_pid_rusage is None or proc_pid_rusage(pid, _RUSAGE_FLAVOUR, buffer) != 0:
            return None
        (footprint,) = struct.unpack_from("=Q", buffer, _FOOTPRINT_AT)
        return int(footprint) or None

    def memory_pressure(self) -> int | None:
        """Return how short of memory the system is: 0 normal, 1 warning, 2 critical."""
        level = self._number("kern.memorystatus_vm_pressure_level")
        return None if level is None else _PRESSURE.get(level)

    def swap_used_bytes(self) -> int | None:
        """Return how much memory lies on the disk."""
        data = self._sysctl("vm.swapusage", _SWAP_BYTES)
        if data is None or len(data) != _SWAP_BYTES:
            return None
        return int(struct.unpack_from("=QQQ", data)[2])

    def wired_limit_mb(self) -> int | None:
        """Return how much the GPU may keep resident, in MiB; 0 is the system's own bound."""
        return self._number("iogpu.wired_limit_mb")

    # Heat, power, priority

    def thermal_level(self) -> int | None:
        """Return how hot the machine is: 0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping."""
        register = _function(self._system, "notify_register_check")
        get_state = _function(self._system, "notify_get_state")
        cancel = _function(self._system, "notify_cancel")
        if register is None or get_state is None or cancel is None:
            return None
        token = ctypes.c_int()
        if register(b"com.apple.system.thermalpressurelevel", ctypes.byref(token)) != 0:
            return None
        state = ctypes.c_uint64()
        failed = get_state(token, ctypes.byref(state)) != 0
        cancel(token)
        return None if failed or state.value >= _THERMAL_LEVELS else state.value

    def power_mode(self) -> str | None:
        """Return automatic, low or high. It starts a program: ask now and then, not in a step."""
        settings = self._run(["pmset", "-g"]) or ""
        # Macs with a high power mode have the first, all others the second.
        for name in ("powermode", "lowpowermode"):
            found = re.search(rf"^\s*{name}\s+(\d+)", settings, re.MULTILINE)
            if found is not None:
                value = int(found[1])
                return _POWER_MODES[value] if value < len(_POWER_MODES) else None
        return None

    def prefer_this_thread(self) -> bool:
        """Have the calling thread run as one that a user waits for; returns whether it will."""
        set_class = _function(self._system, "pthread_set_qos_class_self_np")
        return set_class is not None and set_class(_USER_INITIATED, 0) == 0

    # launchd

    def activated_sockets(self, name: str) -> list[int] | None:
        """
        Take the listening sockets that launchd opened for this job; it hands them out once.

        Args:
            name: Key under `Sockets` in the job's property list.

        Returns:
            Their descriptors; None where this process is no job of launchd, or has no such key.

        Raises:
            OSError: EALREADY: they were taken before.
        """
        activate = _function(self._system, "launch_activate_socket")
        free = _function(self._system, "free")
        if activate is None or free is None:
            return None
        array = ctypes.POINTER(ctypes.c_int)()
        count = ctypes.c_size_t()
        code = activate(name.encode(), ctypes.byref(array), ctypes.byref(count))
        if code == errno.EALREADY:
            raise OSError(code, f"the sockets {name} were taken before")
        if code != 0:
            return None
        descriptors = array[: count.value]
        free(array)
        return descriptors

    def _number(self, name: str) -> int | None:
        data = self._sysctl(name, 8)
        if data is None or len(data) not in (4, 8):
            return None
        return int.from_bytes(data, "little", signed=True)

    def _sysctl(self, name: str, size: int) -> bytes | None:
        sysctlbyname = _function(self._system, "sysctlbyname")
        if sysctlbyname is None:
            return None
        buffer = ctypes.create_string_buffer(size)
        length = ctypes.c_size_t(size)
        if sysctlbyname(name.encode(), buffer, ctypes.byref(length), None, ctypes.c_size_t(0)) != 0:
            return None
        return buffer.raw[: length.value]


def open_library(path: str) -> ctypes.CDLL | None:
    """Open a library of the system; None where there is none."""
    try:
        return ctypes.CDLL(path)
    except OSError:
        return None


def _function(library: ctypes.CDLL | None, name: str) -> Callable[..., int] | None:
    # A library that has no such function raises AttributeError, as does None.
    return getattr(library, name, None)


def crash_reports(folders: Sequence[Path], *, since_unix_s: float) -> tuple[str, ...]:
    """
    Return the names of reports about panics, the GPU, memory and Python itself, newest first, at most five.

    Args:
        folders: Where the system writes them; one that cannot be read holds none.
        since_unix_s: Older ones are left out.
    """
    found = sorted(_reports(folders), reverse=True)
    return tuple(name for at_unix_s, name in found if at_unix_s >= since_unix_s)[:_MOST_REPORTS]


def _reports(folders: Sequence[Path]) -> Iterator[tuple[float, str]]:
    for path in (path for folder in folders for pattern in _REPORTS for path in folder.glob(pattern)):
        try:
            yield path.stat().st_mtime, path.name
        except OSError:
            continue
