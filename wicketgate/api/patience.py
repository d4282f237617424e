"""
How long an answer may be silent, stuck or unread before something is done about it (pure).

A comment line goes out when nothing else did for a while, so that proxies keep the connection. It must not
hide an engine that brings nothing more: that is counted apart, and ends the answer. While the client does not
read only that counts, because then nobody looks for tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class PatienceParams:
    """For how long what is borne."""

    heartbeat_s: float = 10.0
    """Silence on the wire."""
    no_progress_timeout_s: float = 120.0
    """No token."""
    slow_reader_timeout_s: float = 30.0
    """A client that does not read."""

    def __post_init__(self) -> None:
        """Refuse times that would end everything at once."""
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


class Due(StrEnum):
    """What there is to do."""

    HEARTBEAT = "heartbeat"
    """Write a comment line."""
    STUCK = "stuck"
    """End it: the engine brings nothing."""
    UNREAD = "unread"
    """End it: the client does not read."""


class Patience:
    """Watches one answer from the moment in which its requests run."""

    __slots__ = ("_params", "_unread_since_s", "_unsent_bytes", "progress_s", "written_s")

    def __init__(self, params: PatienceParams, *, now_s: float) -> None:
        self._params = params
        self.progress_s = now_s
        """When the engine last brought something; set anew for each."""
        self.written_s: float | None = None
        """When something last went to the client; set anew for each, and the first begins the heartbeat."""
        self._unread_since_s: float | None = None
        self._unsent_bytes = 0

    def unread(self, *, now_s: float, unsent_bytes: int) -> None:
        """
        Note that the client is behind.

        Said again it changes nothing, but where less is unsent than before: that was read, however slowly.
        """
        if self._unread_since_s is None or unsent_bytes < self._unsent_bytes:
            self._unread_since_s = now_s
        self._unsent_bytes = unsent_bytes

    def read(self, *, now_s: float) -> None:
        """The client reads again."""
        self._unread_since_s = None
        self.progress_s = now_s

    @property
    def deadline_s(self) -> float:
        """When there will be something to do, if nothing happens before."""
        if self._unread_since_s is not None:
            return self._unread_since_s + self._params.slow_reader_timeout_s
        silent_s = math.inf if self.written_s is None else self.written_s + self._params.heartbeat_s
        return min(silent_s, self.progress_s + self._params.no_progress_timeout_s)

    def advance(self, *, now_s: float) -> list[Due]:
        """Return what is due now; a heartbeat counts as written."""
        if now_s < self.deadline_s:
            return []
        if self._unread_since_s is not None:
            return [Due.UNREAD]
        if now_s >= self.progress_s + self._params.no_progress_timeout_s:
            return [Due.STUCK]
        self.written_s = now_s
        return [Due.HEARTBEAT]
