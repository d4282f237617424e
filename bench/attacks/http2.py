"""Attacks by HTTP/2 that are no floods, and heavy use that is none."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from bench.attacks import attacker
from bench.attacks.attacker import Attacker, frame, headers, word
from bench.attacks.seen import Seen
from transport.newcomers import NewcomerParams

if TYPE_CHECKING:
    from bench.attacks.scene import Target
    from bench.attacks.seen import Attack, Scale

GRACE_S: Final = 5.0
"""Later than its deadline a busy server may act."""
_PLACES: Final = NewcomerParams()
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
_HUGE_ANSWER: Final = attacker.block("/big?bytes=100000000")
_POST: Final = attacker.block("/upload", method="POST")
_PART: Final = bytes(16_384)
_FIRST_WINDOW: Final = 65_535


def zero_window(target: Target, scale: Scale) -> Seen:
    """Ask for twenty answers of 100 MB and let none of them through."""
    with Attacker(target.port, told={attacker.INITIAL_WINDOW_SIZE: 0}) as client:
        client.send(b"".join(headers(stream_id, _HUGE_ANSWER) for stream_id in range(1, 41, 2)))
        client.read(lambda each: len(each.resets) == 20, limit_s=max(1.0, scale.limit_s))
        is_time_over = target.stall_s + GRACE_S < scale.limit_s
        return Seen(
            text=f"{sum(client.bodies.values())} bytes sent, {len(client.resets)} reset",
            is_fine=not client.bodies and (len(client.resets) == 20 or not is_time_over),
        )


def never_reading(target: Target, scale: Scale) -> Seen:
    """Open all windows for twenty answers of 100 MB, and read nothing from the socket."""
    told = {attacker.INITIAL_WINDOW_SIZE: attacker.MAX_INCREMENT}
    with Attacker(target.port, told=told, buffer_bytes=4096) as client:
        opened = frame(attacker.WINDOW_UPDATE, 0, 0, word(attacker.MAX_INCREMENT - _FIRST_WINDOW))
        asked = b"".join(headers(stream_id, _HUGE_ANSWER) for stream_id in range(1, 41, 2))
        client.send(opened + asked, reads=False)
        end_s = time.monotonic() + scale.limit_s
        alive = True
        while alive and time.monotonic() < end_s:
            time.sleep(0.1)
            alive = client.send(frame(attacker.PING, attacker.ACK, 0, bytes(8)), reads=False)
        is_time_over = target.stall_s + GRACE_S < scale.limit_s
        return Seen(text="held" if alive else "closed", is_fine=not alive or not is_time_over)


def bodies_nobody_reads(target: Target, scale: Scale) -> Seen:
    """Fill the connection's window with bodies that the application does not read."""
    with Attacker(target.port) as client:
        client.read(lambda each: 0 in each.windows, limit_s=1)
        window, stream_id = _FIRST_WINDOW + client.windows[0], -1
        while window >= _FIRST_WINDOW:
            stream_id += 2
            window -= _FIRST_WINDOW
            unread = attacker.block("/unread", method="POST")
            client.send(headers(stream_id, unread, ends=False))
            client.send(frame(attacker.DATA, 0, stream_id, _PART) * 3)
        client.read(lambda each: len(each.ended) == stream_id // 2 + 1, limit_s=scale.limit_s)
        count = len(client.ended)
        return Seen(text=f"{count} answered", is_fine=count == stream_id // 2 + 1 and not client.is_closed)


def endless_body(target: Target, _scale: Scale) -> Seen:
    """Send a body without end, as fast as the windows are opened."""
    with Attacker(target.port) as client:
        client.send(headers(1, _POST, ends=False))
        sent = 0
        while 1 not in client.ended | client.resets.keys() and not client.is_closed:
            left = _FIRST_WINDOW + min(client.windows[0], client.windows[1]) - sent
            if left >= len(_PART):
                client.send(frame(attacker.DATA, 0, 1, _PART))
                sent += len(_PART)
            elif not client.read(lambda each, seen=dict(client.windows): each.windows != seen, limit_s=5.0):  # type: ignore[misc]
                break
        client.read(lambda each: 1 in each.resets, limit_s=1)
        status, code = client.statuses.get(1), client.resets.get(1)
        return Seen(
            text=f"{status}, RST {code} after {sent / 2**20:.1f} MiB",
            is_fine=status == 413 and code == 0 and not client.is_closed,
        )


def body_beyond_the_window(target: Target, scale: Scale) -> Seen:
    """Send a body without heeding any window."""
    with Attacker(target.port) as client:
        client.send(headers(1, attacker.block("/unread", method="POST"), ends=False))
        client.flood([frame(attacker.DATA, 0, 1, _PART)] * 200, limit_s=scale.limit_s)
        is_stopped = client.read(lambda each: 1 in each.resets or each.is_closed, limit_s=GRACE_S)
        code = client.resets.get(1, client.goaways[-1][1] if client.goaways else None)
        return Seen(text=f"stopped by {code}", is_fine=is_stopped)


def slow_body(target: Target, scale: Scale) -> Seen:
    """Begin bodies and send a byte now and then."""
    with Attacker(target.port) as client:
        ids = range(1, 101, 2)
        client.send(b"".join(headers(stream_id, _POST, ends=False) for stream_id in ids))
        end_s = time.monotonic() + scale.limit_s
        while len(client.ended) < len(ids) and time.monotonic() < end_s and not client.is_closed:
            client.send(frame(attacker.DATA, 0, 1, b"xx"))
            client.read(lambda each: len(each.ended) == len(ids), limit_s=0.2)
        timed_out = list(client.statuses.values()).count(408)
        return Seen(text=f"{timed_out} of 50 answered 408", is_fine=timed_out == len(ids))


def unfinished_s(target: Target, connections: int) -> float:
    """Return how long so many connections that never ask may stay: some of them wait for places first."""
    return target.header_timeout_s + connections / _PLACES.most_per_address * _PLACES.stay_s + GRACE_S


def greeted_and_silent(target: Target, scale: Scale) -> Seen:
    """Say that it is HTTP/2, and nothing else: that is no offence."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Attacker(target.port)) for _ in range(scale.connections)]
        end_s = time.monotonic() + scale.limit_s
        for client in clients:
            client.read(lambda each: bool(each.frames), limit_s=max(0.0, end_s - time.monotonic()))
        greeted = sum(bool(client.frames) for client in clients)
    return Seen(text=f"{greeted} of {scale.connections} greeted", is_fine=greeted == scale.connections)


def _unfinished(beginning: bytes) -> Attack:
    """Make the attack of many connections that begin so and go no further."""

    def hold(target: Target, scale: Scale) -> Seen:
        with ExitStack() as stack:
            clients = []
            for _ in range(scale.connections):
                client = stack.enter_context(Attacker(target.port, begins=False))
                client.send(beginning)
                clients.append(client)
            end_s = time.monotonic() + unfinished_s(target, scale.connections)
            for client in clients:
                client.closes(limit_s=max(0.0, end_s - time.monotonic()))
            closed = sum(client.is_closed for client in clients)
        return Seen(text=f"{closed} of {scale.connections} closed", is_fine=closed == scale.connections)

    return hold


def too_many_streams(target: Target, scale: Scale) -> Seen:
    """Open 150 streams at once where 100 may be."""
    with Attacker(target.port) as client:
        steps = attacker.block("/steps?events=100000")
        client.send(b"".join(headers(stream_id, steps) for stream_id in range(1, 301, 2)))
        client.read(lambda each: len(each.resets) + len(each.bodies) >= 150, limit_s=max(5.0, scale.limit_s))
        refused = list(client.resets.values()).count(REFUSED_STREAM)
        served = len(client.bodies.keys() - client.resets.keys())
        is_fine = refused == 50 and served == 100 and not client.is_closed and not client.goaways
        return Seen(text=f"{refused} refused, {served} served", is_fine=is_fine)


def many_requests(target: Target, _scale: Scale) -> Seen:
    """Ask 1,500 times on one connection, beside a long stream on it."""
    with Attacker(target.port) as client:
        client.send(headers(1, attacker.block("/steps?events=100000")))
        hello = attacker.block()
        for first in range(3, 3003, 100):
            last = first + 98
            client.send(b"".join(headers(stream_id, hello) for stream_id in range(first, last + 1, 2)))
            client.read(lambda each, wanted=last // 2: len(each.ended) >= wanted, limit_s=10)  # type: ignore[misc]
        had = client.bodies[1]
        goes_on = client.read(lambda each: each.bodies[1] > had, limit_s=5)
        answered = len(client.ended)
        is_fine = answered == 1500 and goes_on and not client.goaways and 1 not in client.ended
        return Seen(
            text=f"{answered} answered, long stream {'goes on' if goes_on else 'cut'}", is_fine=is_fine
        )


def cancels_every_answer(target: Target, _scale: Scale) -> Seen:
    """Cancel 1,000 answers, each after it has begun: what a legitimate client may do."""
    with Attacker(target.port) as client:
        steps = attacker.block("/steps?events=100000")
        for first in range(1, 2001, 100):
            ids = range(first, first + 100, 2)
            client.send(b"".join(headers(stream_id, steps) for stream_id in ids))
            client.read(lambda each, wanted=ids: all(i in each.statuses for i in wanted), limit_s=10)  # type: ignore[misc]
            client.send(b"".join(frame(attacker.RST_STREAM, 0, i, word(CANCEL)) for i in ids))
        client.send(headers(2001, attacker.block()))
        is_fine = client.read(lambda each: 2001 in each.ended, limit_s=5) and not client.goaways
        return Seen(text=f"{len(client.statuses)} answered, {len(client.goaways)} GOAWAY", is_fine=is_fine)


def ids_used_up(target: Target, _scale: Scale) -> Seen:
    """Ask with the highest stream id that there is, and then go on."""
    last = 2**31 - 1
    with Attacker(target.port) as client:
        client.send(headers(last, attacker.block("/steps?events=5")))
        client.send(headers(last, attacker.block()) * 5)
        is_served = client.read(lambda each: last in each.ended | each.resets.keys(), limit_s=5)
        is_closed = client.closes(limit_s=5)
        codes = [code for _, code in client.goaways]
        return Seen(text=f"GOAWAY {codes}", is_fine=is_closed and (is_served or any(codes)) and bool(codes))


def ids_nearly_used_up(target: Target, _scale: Scale) -> Seen:
    """Ask with an id near the highest: it is served, and the client told to go elsewhere."""
    near = 2**31 - 101
    with Attacker(target.port) as client:
        client.send(headers(near, attacker.block("/steps?events=5")))
        is_served = client.read(lambda each: near in each.ended, limit_s=5)
        is_closed = client.closes(limit_s=5)
        return Seen(
            text=f"GOAWAY {client.goaways}",
            is_fine=is_served and is_closed and client.goaways == [(2**31 - 1, 0), (near, 0)],
        )


ATTACKS: Final[dict[str, Attack]] = {
    "zero window, 20 big answers": zero_window,
    "20 big answers, never reading": never_reading,
    "bodies that nobody reads": bodies_nobody_reads,
    "endless body": endless_body,
    "body beyond the window": body_beyond_the_window,
    "slow bodies": slow_body,
    "headers never finished": _unfinished(
        attacker.PREFACE + attacker.settings({}) + frame(attacker.HEADERS, 0, 1, attacker.block()[:5])
    ),
    "half a frame": _unfinished(attacker.PREFACE + attacker.settings({}) + headers(1, attacker.block())[:12]),
    "a preface and no more": greeted_and_silent,
    "slow preface": _unfinished(attacker.PREFACE[:10]),
    "silence": _unfinished(b""),
    "150 streams against a limit of 100": too_many_streams,
    "1,500 requests beside a long stream": many_requests,
    "every answer cancelled": cancels_every_answer,
    "the last stream id": ids_used_up,
    "one of the last stream ids": ids_nearly_used_up,
}
