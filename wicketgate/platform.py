"""
Everything that differs between operating systems, in one place.

Each function takes the platform's name, the environment or the folder that it would look at as an argument
with the real one as default, so that a test on one system can ask what another would do.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wicketgate.macos import Mac

SOCKET_PATH_BYTES: Final = 103
"""Longest path of a Unix socket on macOS, without its NUL; Linux allows 107."""
_TRIAL_TIMEOUT_S: Final = 10.0
_TOOL_TIMEOUT_S: Final = 5.0
_REPORTS_S: Final = 7 * 86_400.0
_F_FULLFSYNC: Final = 51
"""fcntl.F_FULLFSYNC, which Python knows on macOS only."""


def is_macos(system: str = sys.platform) -> bool:
    """Say whether this is macOS."""
    return system == "darwin"


def macos_version(*, system: str = sys.platform, release: str | None = None) -> tuple[int, ...] | None:
    """Return the version of macOS, such as (15, 5); None on any other system."""
    if not is_macos(system):
        return None
    if release is None:
        import platform

        release = platform.mac_ver()[0]
    return tuple(int(part) for part in release.split(".") if part.isdigit()) or None


# Folders


def default_state_dir(
    name: str, *, system: str = sys.platform, env: Mapping[str, str] = os.environ, home: Path | None = None
) -> Path:
    """Return the folder for the ledger, the control socket and the pid file of the runtime `name`."""
    if is_macos(system):
        return _home(home) / "Library" / "Application Support" / "wicketgate" / name
    root = env.get("XDG_STATE_HOME")
    return (Path(root) if root else _home(home) / ".local" / "state") / "wicketgate" / name


def default_kv_dir(
    name: str,
    *,
    state_dir: Path,
    system: str = sys.platform,
    home: Path | None = None,
) -> Path:
    """Return the folder for KV on disk; on macOS one that backups and snapshots leave out."""
    if is_macos(system):
        return _home(home) / "Library" / "Caches" / "wicketgate" / name / "kv"
    return state_dir / "kv"


def control_socket_path(state_dir: Path, *, home: Path | None = None) -> Path:
    """Return where the control socket of a state folder lives, short enough to be bound on every system."""
    path = state_dir / "control.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]
    return _home(home) / ".wicketgate" / "run" / f"{digest}.sock"


def _home(home: Path | None) -> Path:
    return Path.home() if home is None else home


# Limits and durability


def raise_open_files_limit(wanted: int = 10_240) -> int:
    """Raise the soft limit of open files towards `wanted`; returns the limit in force."""
    import resource  # here and below: the three cost `rollback` 25 ms, and it needs none of them

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Never RLIM_INFINITY: macOS answers EINVAL.
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return wanted if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (ValueError, OSError):
        return soft
    return target


def sqlite_needs_fullfsync(system: str = sys.platform) -> bool:
    """Say whether SQLite needs the pragmas fullfsync and checkpoint_fullfsync to reach the disk itself."""
    return is_macos(system)


def flush_to_disk(
    descriptor: int,
    *,
    system: str = sys.platform,
    control: Callable[[int, int], int] = fcntl.fcntl,
    sync: Callable[[int], None] = os.fsync,
) -> None:
    """Write a file through to the disk itself; on macOS fsync stops at the drive's cache."""
    if is_macos(system):
        try:
            control(descriptor, _F_FULLFSYNC)
            return
        except OSError as error:
            # Network and foreign file systems do not know it.
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
    sync(descriptor)


# Memory and processes


def total_memory_bytes() -> int | None:
    """Return the machine's memory, or None where it cannot be asked."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def usable_memory_bytes(
    *, total_bytes: int | None = None, groups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the machine's memory, or what the container that this runs in may use, where that is less."""
    known = [total_memory_bytes() if total_bytes is None else total_bytes]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            known.append(int((groups / name).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return min((size for size in known if size is not None), default=None)


def process_memory_bytes(
    pid: int,
    *,
    proc: Path = Path("/proc"),
    this_mac: Mac | None = None,
) -> int | None:
    """
    Return the memory of a process, or None where it cannot be read.

    On Linux what is resident, on macOS the footprint that the system judges it by.
    """
    this_mac = this_mac or mac()
    if this_mac is not None:
        return this_mac.footprint_bytes(pid)
    try:
        pages = int((proc / str(pid) / "statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def process_cpu_s(pid: int, *, proc: Path = Path("/proc")) -> float | None:
    """Return the user and system time that a process has used, or None where it cannot be read."""
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        # The second field is the program's name in parentheses and may hold spaces.
        fields = text.rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def open_file_descriptors(
    *, folders: tuple[Path, ...] = (Path("/proc/self/fd"), Path("/dev/fd"))
) -> int | None:
    """Count this process's open file descriptors, or None where they cannot be listed."""
    for folder in folders:
        try:
            # The listing itself holds one descriptor open.
            return sum(1 for _ in folder.iterdir()) - 1
        except OSError:
            continue
    return None


# What only a Mac has


def mac(system: str = sys.platform) -> Mac | None:
    """Return this Mac, to be asked for its state; None on any other system."""
    if not is_macos(system):
        return None
    from wicketgate.macos import PROCESS_LIBRARY, SYSTEM_LIBRARY, Mac, open_library

    return Mac(system=open_library(SYSTEM_LIBRARY), processes=open_library(PROCESS_LIBRARY), run=output_of)


def launchd_sockets(name: str, system: str = sys.platform) -> list[int]:
    """Take the listening sockets that launchd opened for this process under a name; elsewhere none."""
    here = mac(system)
    return [] if here is None else here.activated_sockets(name) or []


def crash_reports(
    now_unix_s: float, *, system: str = sys.platform, home: Path | None = None
) -> tuple[str, ...]:
    """Name what macOS reported in the last days about panics, the GPU, memory and Python."""
    if not is_macos(system):
        return ()
    from wicketgate import macos

    folder = Path("Library", "Logs", "DiagnosticReports")
    return macos.crash_reports(
        [_home(home) / folder, Path("/") / folder], since_unix_s=now_unix_s - _REPORTS_S
    )


def output_of(command: list[str]) -> str | None:
    """Run a program of the system and return what it printed; None where it is missing, slow or fails."""
    import subprocess

    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TOOL_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def sleeping_clock(system: str = sys.platform) -> Callable[[], float]:
    """Return a monotonic clock that goes on while the machine sleeps, as `time.monotonic` does not."""
    # On macOS CLOCK_MONOTONIC_RAW is mach_continuous_time.
    clock = "CLOCK_MONOTONIC_RAW" if is_macos(system) else "CLOCK_BOOTTIME"
    number: int | None = getattr(time, clock, None)
    return time.monotonic if number is None else lambda: time.clock_gettime(number)


# The engine host


def engine_environment(
    blas: str = "auto", *, system: str = sys.platform, env: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """
    Return what the engine host's environment needs beside the gateway's own.

    Args:
        blas: auto preloads OpenBLAS on Linux where a trial child starts with it; off leaves MLX's own.
        system: The platform's name.
        env: The gateway's environment; what it preloads already stays preloaded.
    """
    # No library of the host may go to the network.
    variables = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if is_macos(system):
        # 1 has spun a GPU for ever (jundot/omlx#2183).
        return variables | {"MLX_METAL_FAST_SYNCH": "0"}
    library = openblas_preload(system=system) if blas == "auto" else None
    if library is None:
        return variables
    # Two BLAS threads thrash as soon as the cores are shared: 15 ms for a 0.5 ms product.
    preload = ":".join(filter(None, [str(library), env.get("LD_PRELOAD")]))
    return variables | {"LD_PRELOAD": preload, "OPENBLAS_NUM_THREADS": "1"}


def engine_silence_s(system: str = sys.platform) -> float:
    """Return the least silence that counts as a frozen engine host; Metal may compile kernels for seconds."""
    return 10.0 if is_macos(system) else 2.0


def openblas_preload(
    *, system: str = sys.platform, root: Path = Path("/usr/lib"), multiarch: str | None = None
) -> Path | None:
    """
    Find an OpenBLAS that the engine host can be started with; None where there is none, or never on macOS.

    MLX's wheel for Linux is linked to reference BLAS: 5 instead of 70 to 138 GFLOP/s.
    """
    if not system.startswith("linux"):
        return None
    import sysconfig

    arch = sysconfig.get_config_var("MULTIARCH") if multiarch is None else multiarch
    folders = [root / str(arch), root, root.with_name("lib64")]
    names = ("openblas-pthread/libopenblas.so.0", "libopenblas.so.0", "openblas-serial/libopenblas.so.0")
    for path in (folder / name for folder in folders for name in names):
        if path.exists() and _starts_with(path):
            return path
    return None


def blas_in_use(*, system: str = sys.platform, env: Mapping[str, str] = os.environ) -> str:
    """Name the BLAS that MLX computes with in this process: accelerate, openblas or reference."""
    if is_macos(system):
        return "accelerate"
    return "openblas" if "openblas" in env.get("LD_PRELOAD", "") else "reference"


def _starts_with(library: Path) -> bool:
    # With a dependency such as libgfortran missing, the loader ends the child at exec.
    import subprocess

    try:
        trial = subprocess.run(
            [sys.executable, "-S", "-c", "pass"],
            env={**os.environ, "LD_PRELOAD": str(library)},
            capture_output=True,
            timeout=_TRIAL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    # A preload that cannot be read at all is only a message on stderr.
    return trial.returncode == 0 and not trial.stderr
