"""What became of a listener's connections since its start (pure): plain counts, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ConnectionCounters:
    """Counts that only grow."""

    opened_h2: int = 0
    opened_h1: int = 0
    told_http_1_1_required: int = 0
    """They spoke HTTP/2 in clear text where it is off for them."""
    refused: int = 0
    """Closed as they came: there were `max_connections`."""
    refused_of_address: int = 0
    """Closed as they came: of their address there were as many as may be."""
    put_out: int = 0
    """They had not said yet what they speak, and others waited for their places."""
    failed_handshakes: int = 0
    """TLS was not agreed upon in time, or at all."""
    failed_proxy_headers: int = 0
    """A trusted proxy sent no PROXY header in time, or rubbish."""
    silent: int = 0
    """They did not say in time what they speak, or left before."""
    slow_headers: int = 0
    """HTTP/1.1: the headers of a request were not complete in time."""
