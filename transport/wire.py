"""The h2 library's connection, set up as ours (pure), and the limits of a connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from transport.budgets import BudgetParams
from transport.frames import MAX_STREAM_ID
from transport.sending import SendParams

STREAM_WINDOW_BYTES: Final = 65_535
"""HTTP/2's own first window, so that nothing depends on when the client reads our SETTINGS."""
CONNECTION_WINDOW_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionParams:
    """What an HTTP/2 connection may do, and for how long."""

    max_streams: int = 256
    """At once; more are refused."""
    keep_alive_s: float = 75.0
    """A connection without a stream is closed after it."""
    header_timeout_s: float = 5.0
    """For the preface, and for a header block from its first byte."""
    stall_s: float = 60.0
    """A stream whose window stays shut so long is reset; a connection's, closed."""
    drain_s: float = 1.0
    """How long the client may take to answer the PING of a drain."""
    max_header_bytes: int = 32 * 1024
    """Of a header list (RFC 9113 section 6.5.2); more is answered 431, twice as much ends the connection."""
    budgets: BudgetParams = field(default_factory=BudgetParams)
    sending: SendParams = field(default_factory=SendParams)


class Wire(H2Connection):
    """
    The state of the protocol.

    Args:
        params: The limits that the client is told.
    """

    MAX_CLOSED_STREAMS = 1024
    """Of so many streams h2 keeps how they ended; by itself of 65,536, some 7 MB."""

    def __init__(self, params: ConnectionParams) -> None:
        config = H2Configuration(
            client_side=False,
            header_encoding=None,
            # headers.py checks them, before h2's state has changed.
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        super().__init__(config)
        told = {
            SettingCodes.MAX_CONCURRENT_STREAMS: params.max_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: params.max_header_bytes,
        }
        self.local_settings = Settings(client=False, initial_values=told)
        self.initiate_connection()
        # h2 ends the whole connection at one stream too many, and at a list too large: we refuse both before.
        kept = {**told, SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAM_ID}
        self.local_settings = Settings(client=False, initial_values=kept)
        self.decoder.max_header_list_size = 2 * params.max_header_bytes
        self.increment_flow_control_window(CONNECTION_WINDOW_BYTES - STREAM_WINDOW_BYTES)

    def let_go(self) -> None:
        """Break the circle of h2's table of methods: else a lost connection waits for the collector."""
        self._frame_dispatch_table.clear()
