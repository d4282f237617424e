"""What an HTTP/2 edge has done since its start (pure): plain counts, for metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class CloseReason(StrEnum):
    """Why a connection was told to go away, or ended without it: a closed set, for labels."""

    DRAINED = "drained"
    IDLE = "idle"
    SLOW_PREFACE = "slow_preface"
    SLOW_HEADERS = "slow_headers"
    STALLED = "stalled"
    """The client's connection window stayed shut, or its socket full."""
    STREAM_IDS_USED_UP = "stream_ids_used_up"
    RESET_FLOOD = "reset_flood"
    PROVOKED_RESET_FLOOD = "provoked_reset_flood"
    CONTROL_FLOOD = "control_flood"
    HEADER_FLOOD = "header_flood"
    PROTOCOL_ERROR = "protocol_error"
    PEER_LEFT = "peer_left"
    """The client said so by a GOAWAY of its own; it gets none."""


@dataclass(slots=True)
class Counters:
    """Counts of all HTTP/2 connections that share them; they only grow."""

    streams_opened: int = 0
    streams_closed: int = 0
    streams_refused: int = 0
    """REFUSED_STREAM: above the limit of one connection, or late in its drain."""
    resets_received: int = 0
    resets_sent: int = 0
    """Without those of refused streams, and without NO_ERROR after an answer."""
    goaways: dict[CloseReason, int] = field(default_factory=lambda: dict.fromkeys(CloseReason, 0))
    """Connections told to go away, by the reason; a drain counts once."""
    bytes_in: int = 0
    bytes_out: int = 0
    data_events: int = 0
    """Writes of applications."""
    data_frames: int = 0
    flushes: int = 0
    """Writes to sockets; data_events per flush is the coalescing ratio."""
