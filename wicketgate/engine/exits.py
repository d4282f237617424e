"""How a host ended: what kind of end it was, whose fault, and in words. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

METAL: Final = "[METAL]"
"""How mlx's messages about a failed command buffer begin."""
_OUT_OF_MEMORY: Final = (
    "insufficient memory",
    "unable to allocate",
    "attempting to allocate",
    "out of memory",
    "memoryerror",
    "bad_alloc",
    "resource limit",
)
"""What stands in the messages of mlx, Metal, C++ and Python about memory that could not be had."""
_METAL_WORDS: Final = (
    ("gpu timeout", "Metal timeout"),
    ("gpu hang", "GPU hang"),
    ("insufficient memory", "Metal ran out of memory"),
    ("impacting interactivity", "Metal stopped work that held up the screen"),
)
"""What Metal calls it, and what we do."""
_CRASHES: Final = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}
)
REBOOT: Final = "the GPU's memory is not free after a hang: reboot the Mac"
LITTLE_RATIO: Final = 0.5
"""A host that holds less than this share of the memory has not filled it."""


class End(StrEnum):
    """The kinds of ends."""

    CLEAN = "clean"
    """It was told to stop, and stopped."""
    SIGNALLED = "signalled"
    """Somebody else killed or stopped it; where memory is short, the system."""
    CRASHED = "crashed"
    """A fault in native code."""
    ABORTED = "aborted"
    """Native code gave up: a Metal assertion, or an exception that nobody caught."""
    DEVICE_FAILED = "device_failed"
    """The device reported an error."""
    FROZEN = "frozen"
    """It was silent for too long, and we killed it."""
    FAILED = "failed"
    """An exception, a lost connection, an exit that nobody asked for."""
    LOAD_FAILED = "load_failed"
    """It was never ready."""
    LOAD_OUT_OF_MEMORY = "load_out_of_memory"
    """It was never ready, for want of memory."""


BY_GPU: Final = frozenset({End.ABORTED, End.DEVICE_FAILED, End.FROZEN})
"""Ends that a GPU may be to blame for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """What is known of a host that is gone."""

    code: int | None = None
    """Exit code, or minus the signal that ended it; None where none could be started, or it would not end."""
    was_ready: bool = False
    fatal: str = ""
    """Its last words."""
    silence_s: float | None = None
    """How long it had been silent when we killed it for that."""
    is_suspended: bool = False
    """Whether a signal from outside had stopped it then."""
    given_up: str = ""
    """Why else we let go of it, in words."""
    stopping: bool = False
    """Whether it had been told to stop."""
    doing: str = ""
    """What it was computing: prefill, decode, or empty."""
    used_ratio: float | None = None
    """Share of the machine's memory that it held at its last words, where that could be told."""


def classify(ended: Exit) -> End:
    """Say what kind of end it was."""
    if not ended.was_ready and not ended.stopping:
        return End.LOAD_OUT_OF_MEMORY if _is_out_of_memory(ended.fatal) else End.LOAD_FAILED
    if ended.silence_s is not None:
        return End.SIGNALLED if ended.is_suspended else End.FROZEN
    if ended.fatal:
        return End.DEVICE_FAILED if _is_device_error(ended.fatal) else End.FAILED
    if ended.given_up:
        return End.CLEAN if ended.stopping else End.FAILED
    return _by_code(ended)


def _by_code(ended: Exit) -> End:
    code = ended.code
    if code is None or code >= 0:
        return End.CLEAN if code == 0 and ended.stopping else End.FAILED
    if -code == signal.SIGABRT:
        return End.ABORTED
    return End.CRASHED if -code in _CRASHES else End.SIGNALLED


def in_words(ended: Exit) -> str:
    """Say how it ended to a person."""
    where = (
        " while it loaded the model" if not ended.was_ready else f" in {ended.doing}" if ended.doing else ""
    )
    if ended.silence_s is not None:
        what = "stopped by a signal from outside" if ended.is_suspended else "frozen"
        return f"{what} for {ended.silence_s:.1f} s{where}"
    if ended.fatal:
        return _fatal_in_words(ended.fatal, where)
    return ended.given_up or _code_in_words(ended, where)


def _fatal_in_words(fatal: str, where: str) -> str:
    if METAL not in fatal:
        return fatal
    lowered = fatal.lower()
    for theirs, ours in _METAL_WORDS:
        if theirs in lowered:
            return f"{ours}{where}"
    return f"{fatal}{where}"


def _code_in_words(ended: Exit, where: str) -> str:
    code = ended.code
    if code is None:
        return "it would not end"
    if code >= 0:
        return f"it ended with exit code {code}{'' if ended.stopping else where}"
    name = signal_name(-code)
    match _by_code(ended):
        case End.ABORTED:
            return f"it aborted ({name}){where}"
        case End.CRASHED:
            return f"it crashed ({name}){where}"
        case _:
            hint = ", perhaps by the system for want of memory" if -code == signal.SIGKILL else ""
            return f"it was killed from outside ({name}{hint}){where}"


def signal_name(number: int) -> str:
    """Name a signal; realtime ones have only numbers."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def is_leaked_memory(ended: Exit) -> bool:
    """
    Say whether a GPU refused memory that nobody uses: after a hang its driver may hold it until a reboot.

    Source:
        jundot/omlx#15: every load after a GPU hang ran out of memory.
    """
    if classify(ended) is not End.LOAD_OUT_OF_MEMORY or "metal" not in ended.fatal.lower():
        return False
    return ended.used_ratio is not None and ended.used_ratio < LITTLE_RATIO


def _is_device_error(fatal: str) -> bool:
    return fatal.startswith("DeviceError") or METAL in fatal


def _is_out_of_memory(fatal: str) -> bool:
    lowered = fatal.lower()
    return any(words in lowered for words in _OUT_OF_MEMORY)
