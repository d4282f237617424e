"""Keys of the listeners: what clients may send and cost, who may call, and when the runtime is well."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from wicketgate.config_fields import (
    HOT,
    Bind,
    Bytes,
    HostName,
    LocalPath,
    Ratio,
    Seconds,
    Section,
    contradiction,
)


def _network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)
    return value


def _origin(value: str) -> str:
    scheme, separator, host = value.partition("://")
    if value != "*" and (not separator or scheme not in {"http", "https"} or not host or "/" in host):
        raise ValueError(f"{value} is no origin")
    return value


Network = Annotated[
    str, AfterValidator(_network), Field(title='an address or a network such as "10.0.0.0/8"')
]
Origin = Annotated[
    str, AfterValidator(_origin), Field(title='an origin such as "https://example.org", or "*"')
]


class ProxySection(Section):
    """A proxy or load balancer in front, which tells the client's address."""

    mode: Literal["none", "proxy_protocol", "x_forwarded", "forwarded"] = "none"
    """How it tells: a PROXY header before each connection; or X-Forwarded-* or Forwarded in each request."""
    trusted: Annotated[tuple[Network, ...], Field(max_length=256)] = ()
    """Addresses or networks of the proxies; from all others the client's own address counts."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode != "none" and not self.trusted:
            raise contradiction(
                "mode", f"is {self.mode}, and trusted is empty", "name the proxies in trusted"
            )
        return self


class CorsSection(Section):
    """Pages of other origins that may call from a browser."""

    origins: Annotated[tuple[Origin, ...], Field(max_length=256), HOT] = ()
    """Origins that are let in; "*" is every page, and none means no browser of another origin."""
    max_age_s: Annotated[Seconds, Field(ge=0, le=86_400), HOT] = 600.0
    """How long a browser may remember that."""


class ResponsesSection(Section):
    """Answers of /v1/responses that clients ask to be stored; they hold what users wrote, in memory only."""

    max_count: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """Most answers kept; the oldest go first. 0 stores none."""
    max_bytes: Annotated[Bytes, Field(ge=0, le=1 << 34)] = 64 << 20
    """Most bytes of them together."""
    max_age_s: Annotated[Seconds, Field(ge=1, le=30 * 86_400)] = 3600.0
    """How long one is kept."""
    unasked: bool = False
    """Store those of requests that do not say `store` too, as OpenAI does and the AI SDK's tools expect."""


class ServerSection(Section):
    """The listener for clients."""

    bind: Bind = "127.0.0.1:8000"
    """Address and port of the APIs and of /health; port 0 takes a free one."""
    unix_path: LocalPath | None = None
    """A Unix socket of the APIs beside the address, mode 0600; null is none."""
    activated_socket: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Name of a socket that systemd (FileDescriptorName) or launchd opened, used in place of bind."""
    tls_certificate: LocalPath | None = None
    """PEM file with the certificate chain; with it TLS only is spoken. A changed file is taken up."""
    tls_key: LocalPath | None = None
    """PEM file with the certificate's private key."""
    backlog: Annotated[int, Field(ge=1, le=65_535)] = 1024
    """Connections that the system may hold until they are accepted."""
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Connections at once; more are closed as they come."""
    max_connections_per_address: Annotated[int, Field(ge=0, le=1_000_000)] = 1024
    """Of them, from one address (of IPv6 its first 64 bits), proxies apart; 0 is no bound."""
    max_newcomers: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """Connections at once that have not ended their TLS handshake, or not begun to speak; more wait."""
    max_newcomers_per_address: Annotated[int, Field(ge=0, le=1_000_000)] = 48
    """Of them, from one address; where more wait, a silent one is closed after 2 s; 0 is no bound."""
    max_streams: Annotated[int, Field(ge=1, le=1_000_000)] = 8192
    """Requests at once over all connections; more are refused."""
    max_streams_per_connection: Annotated[int, Field(ge=1, le=65_535)] = 256
    """Streams that one HTTP/2 connection may have open; the next one is refused."""
    max_body_bytes: Annotated[Bytes, Field(ge=1024, le=1 << 30), HOT] = 8 << 20
    """Largest request body, also once it is unpacked; a larger one is refused with 413."""
    header_timeout_s: Annotated[Seconds, Field(ge=0.1, le=600)] = 5.0
    """A client that has not sent its preface, or the headers that it began, by then is let go."""
    body_timeout_s: Annotated[Seconds, Field(ge=0.1, le=3600), HOT] = 10.0
    """A client that has not sent its whole body by then gets 408."""
    keep_alive_s: Annotated[Seconds, Field(ge=1, le=86_400)] = 75.0
    """An idle connection is closed after this."""
    unknown_fields: Annotated[Literal["ignore", "refuse"], HOT] = "ignore"
    """What to do with a request field that nobody knows: ignore and name it in a header, or answer 400."""
    named_tool_finish: Annotated[Literal["tool_calls", "stop"], HOT] = "tool_calls"
    """finish_reason of a chat whose tool_choice names one tool; OpenAI itself says stop."""
    hold_headers_s: Annotated[Seconds, Field(ge=0, le=60), HOT] = 1.0
    """How long a streamed answer's headers wait for the first token, so that a failure has its status."""
    heartbeat_s: Annotated[Seconds, Field(ge=1, le=600), HOT] = 10.0
    """A stream that is silent for so long carries a comment line."""
    no_progress_timeout_s: Annotated[Seconds, Field(ge=1, le=86_400), HOT] = 120.0
    """A stream whose engine brings no token for so long ends with an error, whatever its heartbeat says."""
    slow_reader_timeout_s: Annotated[Seconds, Field(ge=1, le=3600), HOT] = 30.0
    """A stream that is not read for so long is cancelled; a connection after twice the value at start."""
    request_timeout_s: Annotated[Seconds, Field(ge=1, le=86_400), HOT] = 600.0
    """Longest life of a request; it then ends with 504, or with an error event in a stream."""
    drain_delay_s: Annotated[Seconds, Field(ge=0, le=600), HOT] = 0.0
    """How long readiness fails at shutdown before anything is refused, for load balancers to notice."""
    drain_timeout_s: Annotated[Seconds, Field(ge=0, le=3600), HOT] = 30.0
    """How long streams in flight may finish at shutdown before they are cancelled."""
    proxy: ProxySection = ProxySection()
    """A proxy in front."""
    cors: CorsSection = CorsSection()
    """Pages of other origins."""
    responses: ResponsesSection = ResponsesSection()
    """Stored answers."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, other = ("tls_key", "tls_certificate") if self.tls_key else ("tls_certificate", "tls_key")
            raise contradiction(given, f"is set, and {other} is not", f"set {other} too, or remove {given}")
        return self


class AdminSection(Section):
    """The listener for operators: /metrics, /health, state and commands."""

    bind: Bind = "127.0.0.1:8001"
    """Address and port; port 0 takes a free one."""
    allowed_hosts: Annotated[tuple[HostName, ...], HOT] = ("host.docker.internal",)
    """Names that a request's Host header may carry besides this machine's own."""


class MetricsSection(Section):
    """Where Prometheus may scrape."""

    public: bool = False
    """Serve /metrics on server.bind too, not only on the admin listener."""


class LimitsSection(Section):
    """What one caller may ask for; more is refused with 429."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Requests; null is no limit."""
    tokens_per_minute: Annotated[int, Field(ge=1, le=10**12)] | None = None
    """Tokens of prompts and answers; null is no limit."""
    streams: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests at once; null is no limit."""


class SecuritySection(Section):
    """Who may call, and how much."""

    api_keys_file: LocalPath | None = None
    """File of API keys, mode 0600, whose changes are followed; without it only loopback may be bound."""
    hosts: Annotated[tuple[HostName, ...], HOT] = ("host.docker.internal",)
    """Without keys: names that a request's Host may carry besides addresses, localhost and this machine's."""
    per_key: Annotated[LimitsSection, HOT] = LimitsSection()
    """For each API key; a line of the file may say otherwise."""
    per_address: Annotated[LimitsSection, HOT] = LimitsSection()
    """For each client address (of IPv6 its first 64 bits)."""


class HealthSection(Section):
    """When /health/ready answers 503 though the server runs."""

    kv_use_ratio: Annotated[Ratio, HOT] = 0.9
    """Degraded above this use of the KV pool by what cannot be evicted ..."""
    kv_for_s: Annotated[Seconds, Field(ge=0, le=3600), HOT] = 10.0
    """... for so long."""
    probe_interval_s: Annotated[Seconds, Field(ge=0.1, le=3600), HOT] = 5.0
    """An engine that has shown no token for so long is asked for one."""
    probe_timeout_s: Annotated[Seconds, Field(ge=0.1, le=3600), HOT] = 10.0
    """How long that may take until the engine counts as stuck."""
