"""
Which pages of other origins may call from a browser (pure): the answers to its questions.

An origin that may not gets no header at all, and the browser refuses its page; that is no error of ours.
Credentials (cookies) are never allowed: there are none, and with them "*" would mean everybody's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wicketgate.api.exchange import Headers

METHODS: Final = b"GET, POST, DELETE"
EXPOSED: Final = ", ".join(
    (
        "x-request-id",
        "request-id",
        "x-client-request-id",
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "x-wicketgate-flags",
        "x-wicketgate-ignored",
        "x-wicketgate-dropped-tools",
        *(
            f"x-ratelimit-{what}-{kind}"
            for kind in ("requests", "tokens")
            for what in ("limit", "remaining", "reset")
        ),
        *(
            f"anthropic-ratelimit-{kind}-{what}"
            for kind in ("requests", "tokens")
            for what in ("limit", "remaining", "reset")
        ),
    )
).encode()
"""Headers of an answer that a page may read."""
_NAMES: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}(?: ?, ?[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}){0,63}\Z"
)
"""What a list of header names looks like. SDKs send some that nobody could list beforehand: x-stainless-*."""
EVERYBODY: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """What `server.cors` says."""

    origins: tuple[str, ...]
    """As browsers write them, "https://example.org"; "*" lets all in."""
    max_age_s: float
    """How long a browser may remember a preflight."""

    def headers(self, origin: str | None) -> Headers:
        """Return what the answer to a request says."""
        allowed = self._allowed(origin)
        return (*allowed, (b"access-control-expose-headers", EXPOSED)) if allowed else self._vary()

    def preflight(self, origin: str, *, names: str | None) -> Headers:
        """
        Return what the answer to a preflight says.

        Args:
            origin: Who asks.
            names: Headers that it will send.
        """
        allowed = self._allowed(origin)
        if not allowed:
            return self._vary()
        headers = [
            *allowed,
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", b"%d" % self.max_age_s),
        ]
        if names is not None and _NAMES.match(names):
            # "*" would not cover Authorization.
            headers.append((b"access-control-allow-headers", names.encode()))
        return tuple(headers)

    def _allowed(self, origin: str | None) -> Headers:
        if EVERYBODY in self.origins:
            return () if origin is None else ((b"access-control-allow-origin", b"*"),)
        if origin is None or origin.lower() not in map(str.lower, self.origins):
            return ()
        return ((b"access-control-allow-origin", origin.encode("latin-1")), *self._vary())

    def _vary(self) -> Headers:
        """Keep caches from giving one origin's answer to another."""
        return () if EVERYBODY in self.origins else ((b"vary", b"origin"),)
