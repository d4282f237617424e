"""What the clients' connections do, as metric families."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from transport.connection_counters import ConnectionCounters
    from transport.counters import Counters
    from wicketgate.facts import Facts

H2 = "wicketgate_http2_"


def edge(facts: Facts) -> Iterator[Metric]:
    """Yield them."""
    yield from _http2(facts.h2)
    yield from _connections(facts.arrivals)
    text = "Plain probes of /health, from the reading of their bytes to the writing of the answer."
    family = HistogramMetricFamily("wicketgate_probe_seconds", text)
    family.add_metric([], buckets=facts.probes.buckets, sum_value=facts.probes.sum_s)
    yield family


def _http2(h2: Counters) -> Iterator[Metric]:
    yield _count(H2 + "streams_opened", "HTTP/2 streams that began.", h2.streams_opened)
    yield _count(H2 + "streams_closed", "HTTP/2 streams that ended.", h2.streams_closed)
    yield _count(H2 + "streams_refused", "HTTP/2 streams answered REFUSED_STREAM.", h2.streams_refused)
    yield _counts(
        H2 + "resets",
        "HTTP/2 streams that were reset, by who did.",
        "by",
        {"client": h2.resets_received, "server": h2.resets_sent},
    )
    yield _counts(
        H2 + "goaways",
        "HTTP/2 connections told to go away, or that left, by the reason.",
        "reason",
        {str(reason): count for reason, count in h2.goaways.items()},
    )
    yield _counts(
        H2 + "bytes", "Bytes of HTTP/2 connections.", "direction", {"in": h2.bytes_in, "out": h2.bytes_out}
    )
    yield _count(H2 + "data_events", "Parts of answers written to HTTP/2 streams.", h2.data_events)
    yield _count(H2 + "data_frames", "DATA frames sent.", h2.data_frames)
    yield _count(H2 + "flushes", "Writes to the sockets of HTTP/2 connections.", h2.flushes)
    ratio = h2.data_events / h2.flushes if h2.flushes else 0.0
    text = "Parts of answers in one write to a socket, since the start."
    yield GaugeMetricFamily(H2 + "coalescing_ratio", text, value=ratio)


def _connections(arrivals: ConnectionCounters) -> Iterator[Metric]:
    yield _counts(
        "wicketgate_connections_opened",
        "Connections of clients, by protocol.",
        "protocol",
        {"h2": arrivals.opened_h2, "h1": arrivals.opened_h1},
    )
    yield _counts(
        "wicketgate_connections_failed",
        "Connections of clients that came to nothing, by the reason.",
        "reason",
        {
            "refused": arrivals.refused,
            "refused_of_address": arrivals.refused_of_address,
            "put_out": arrivals.put_out,
            "handshake": arrivals.failed_handshakes,
            "proxy_header": arrivals.failed_proxy_headers,
            "silent": arrivals.silent,
            "slow_headers": arrivals.slow_headers,
            "http_1_1_required": arrivals.told_http_1_1_required,
        },
    )


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counts(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
