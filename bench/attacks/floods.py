"""Floods of HTTP/2 frames: what one bad client sends again and again, and why it should be closed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from bench.attacks import attacker
from bench.attacks.attacker import frame, headers, settings, word
from bench.attacks.seen import Seen
from transport.counters import CloseReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bench.attacks.scene import Target
    from bench.attacks.seen import Attack, Scale

_GET: Final = attacker.block()
_SLOW: Final = attacker.block("/steps?events=10000")
_POST: Final = attacker.block("/upload", method="POST")
_LARGE: Final = attacker.block("/big?bytes=1000000")
_HUGE: Final = attacker.block(more=[("x-large", "l" * 60_000)])
_CANCEL: Final = 8
_LAST_ID: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """One flood."""

    made: Callable[[], Iterable[bytes]]
    """Its frames, without end."""
    reasons: frozenset[CloseReason]
    """Why the connection may be closed."""
    begin: bytes
    """Sent once before them."""
    told: Mapping[int, int]
    """The client's settings."""
    reads: bool
    at_once: int
    """So many are sent in one piece."""


def _ids() -> Iterable[int]:
    return range(1, _LAST_ID, 2)


def _each(made: Callable[[int], bytes]) -> Callable[[], Iterable[bytes]]:
    """Make frames of a new stream, again and again."""
    return lambda: map(made, _ids())


def _same(data: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: itertools.repeat(data)


def _turns(*data: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: itertools.cycle(data)


def _flood(
    made: Callable[[], Iterable[bytes]],
    *reasons: CloseReason,
    begin: bytes = b"",
    told: Mapping[int, int] | None = None,
    reads: bool = True,
    at_once: int = 100,
) -> Flood:
    return Flood(
        made=made, reasons=frozenset(reasons), begin=begin, told=told or {}, reads=reads, at_once=at_once
    )


def bomb() -> bytes:
    """Make a header block of some 20 KB that unpacks to 64 MB: one large field, and references to it."""
    return attacker.block(more=[("x-bomb", "b" * 3800)]) + b"\xbe" * 17_000


def _continuations(size: int) -> Iterable[bytes]:
    yield frame(attacker.HEADERS, attacker.END_STREAM, 1, _GET)
    while True:
        yield frame(attacker.CONTINUATION, 0, 1, b"\0\x01a\x01b".ljust(size, b"\0")[:size])


_RESET = CloseReason.RESET_FLOOD
_PROVOKED = CloseReason.PROVOKED_RESET_FLOOD
_CONTROL = CloseReason.CONTROL_FLOOD
_HEADER = CloseReason.HEADER_FLOOD
_PROTOCOL = CloseReason.PROTOCOL_ERROR

_PING: Final = frame(attacker.PING, payload=b"8 bytes!")
_SETTINGS: Final = settings({3: 100})
_OPEN_STREAM: Final = headers(1, _SLOW, ends=False)
_MANY_STREAMS: Final = b"".join(headers(stream_id, _SLOW) for stream_id in range(1, 200, 2))
_WITH_LENGTH: Final = attacker.block("/upload", method="POST", more=[("content-length", "5")])

FLOODS: Final[dict[str, Flood]] = {
    "rapid reset": _flood(
        _each(lambda i: headers(i, _GET) + frame(attacker.RST_STREAM, 0, i, word(_CANCEL))), _RESET
    ),
    "made-you-reset by window overflow": _flood(
        _each(
            lambda i: headers(i, _SLOW) + frame(attacker.WINDOW_UPDATE, 0, i, word(attacker.MAX_INCREMENT))
        ),
        _PROVOKED,
    ),
    "made-you-reset by an increment of 0": _flood(
        _each(lambda i: headers(i, _SLOW) + frame(attacker.WINDOW_UPDATE, 0, i, word(0))),
        _PROVOKED,
        _PROTOCOL,
    ),
    "made-you-reset by DATA behind the end": _flood(
        _each(lambda i: headers(i, _SLOW) + frame(attacker.DATA, 0, i, b"more")),
        _PROVOKED,
        _PROTOCOL,
        _CONTROL,
    ),
    "made-you-reset by HEADERS behind the end": _flood(
        _each(lambda i: headers(i, _SLOW) + headers(i, _GET)), _PROVOKED, _PROTOCOL
    ),
    "made-you-reset by a wrong content-length": _flood(
        _each(
            lambda i: headers(i, _WITH_LENGTH, ends=False) + frame(attacker.DATA, 1, i, b"longer than five")
        ),
        _PROVOKED,
        _PROTOCOL,
    ),
    "made-you-reset by a PRIORITY on itself": _flood(
        _each(lambda i: headers(i, _SLOW) + frame(attacker.PRIORITY, 0, i, word(i) + b"\x10")),
        _CONTROL,
        _PROVOKED,
    ),
    "CONTINUATION flood, big": _flood(lambda: _continuations(16_384), _HEADER, at_once=1),
    "CONTINUATION flood, empty": _flood(lambda: _continuations(0), _HEADER),
    "HPACK bomb": _flood(_each(lambda i: headers(i, bomb())), _HEADER, at_once=1),
    "requests with 60 KB of headers": _flood(
        _each(lambda i: headers(i, _HUGE)),
        _PROVOKED,
        _HEADER,
        at_once=1,
    ),
    "PING flood": _flood(_same(_PING), _CONTROL),
    "PING flood, never reading": _flood(_same(_PING), _CONTROL, reads=False),
    "SETTINGS flood": _flood(_same(_SETTINGS), _CONTROL),
    "SETTINGS flood, never reading": _flood(_same(_SETTINGS), _CONTROL, reads=False),
    "SETTINGS flood that moves 100 windows": _flood(
        _turns(settings({4: 1}), settings({4: 2**31 - 1})), _CONTROL, begin=_MANY_STREAMS
    ),
    "PRIORITY flood": _flood(_each(lambda i: frame(attacker.PRIORITY, 0, i, word(0) + b"\x10")), _CONTROL),
    "empty DATA flood": _flood(_same(frame(attacker.DATA, 0, 1)), _CONTROL, begin=_OPEN_STREAM),
    "padding flood": _flood(
        _same(frame(attacker.DATA, 0x8, 1, b"\x07" + bytes(7))), _CONTROL, begin=_OPEN_STREAM
    ),
    "DATA flood on an answered stream": _flood(
        _same(frame(attacker.DATA, 0, 1, b"x")), _CONTROL, begin=headers(1, _GET, ends=False)
    ),
    "WINDOW_UPDATE flood": _flood(
        _same(frame(attacker.WINDOW_UPDATE, 0, 0, word(1))), _CONTROL, begin=_OPEN_STREAM
    ),
    "WINDOW_UPDATE flood, never reading": _flood(
        _same(frame(attacker.WINDOW_UPDATE, 0, 1, word(1))), _CONTROL, begin=_OPEN_STREAM, reads=False
    ),
    "1-byte windows": _flood(
        lambda: itertools.cycle([frame(attacker.WINDOW_UPDATE, 0, i, word(1)) for i in range(1, 41, 2)]),
        _CONTROL,
        told={attacker.INITIAL_WINDOW_SIZE: 0},
        begin=b"".join(headers(i, _LARGE) for i in range(1, 41, 2)),
        at_once=20,
    ),
    "unknown frames": _flood(_same(frame(0xBE, 0xFF, 0, b"what?")), _CONTROL),
    "RST_STREAM of streams that are gone": _flood(
        _same(frame(attacker.RST_STREAM, 0, 1, word(_CANCEL))), _RESET, begin=headers(1, _GET)
    ),
    "trailers of streams that are gone": _flood(
        _same(headers(1, b"\0\x01a\x01b")), _CONTROL, _PROTOCOL, begin=headers(1, _GET)
    ),
}
"""By name; those of research/transport.md section 3 by its names."""


def play(flood: Flood, target: Target, scale: Scale) -> Seen:
    """Send a flood: it must end the connection, for one of its reasons."""
    before = target.goaways()
    buffer_bytes = None if flood.reads else 4096
    with attacker.Attacker(target.port, told=flood.told, buffer_bytes=buffer_bytes) as client:
        if flood.begin:
            client.send(flood.begin)
            client.read(lambda each: bool(each.statuses), limit_s=1.0)
        made = attacker.chunks(flood.made(), count=scale.frames, size=flood.at_once)
        client.flood(made, reads=flood.reads, limit_s=scale.limit_s)
        is_closed = client.closes(limit_s=1.0)
    reasons = {reason for reason, count in target.goaways().items() if count > before[reason]}
    code = str(client.goaways[-1][1]) if client.goaways else "none"
    return Seen(
        text=f"{'closed' if is_closed else 'open'}, GOAWAY {code} {' '.join(sorted(reasons))}".rstrip(),
        is_fine=is_closed and bool(reasons & flood.reasons),
    )


def attack(name: str) -> Attack:
    """Return the attack that sends a flood."""
    return partial(play, FLOODS[name])
