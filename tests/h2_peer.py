"""A client over the h2 library, joined to the connection core without a socket or a clock."""

from __future__ import annotations

import struct

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes

from transport.connection import Connection
from transport.counters import Counters
from transport.frames import Kind
from transport.wire import ConnectionParams

GET = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
POST = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]


class Peer:
    """
    A client and the server's connection, and what both have said.

    Args:
        params: The server's limits.
        window: The client's window for each stream.
        hears_goaways: The client's library is told of a GOAWAY, after which it takes nothing more.
    """

    def __init__(
        self,
        params: ConnectionParams | None = None,
        *,
        window: int | None = None,
        hears_goaways: bool = False,
    ) -> None:
        self._hears_goaways = hears_goaways
        self.now_s = 0.0
        self.counters = Counters()
        self.server = Connection(params or ConnectionParams(), now_s=0.0, counters=self.counters)
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        if window is not None:
            self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.told: list[object] = []
        """Events of the server's core."""
        self.heard: list[Event] = []
        """Events of the client's library."""
        self.bodies: dict[int, bytes] = {}
        self.frames: list[bytes] = []
        """Payloads of DATA frames, as they came."""
        self.goaways: list[tuple[int, int]] = []
        """Last stream and code of each GOAWAY."""
        self.pump()

    def pump(self, *, does_read: bool = True) -> None:
        """Carry bytes both ways until nobody has more to say."""
        while True:
            sent = self.client.data_to_send()
            self.told += self.server.receive(sent, now_s=self.now_s)
            while self.server.has_unread:
                self.told += self.server.receive(b"", now_s=self.now_s)
            back = b""
            while self.server.has_output:
                back += self.server.to_send(now_s=self.now_s)
            self.told += self.server.take_events()
            if does_read:
                self._read(back)
            if not back and not sent:
                return

    def ask(self, *, body: bytes | None = None, ends: bool = True, headers=()) -> int:
        """Begin a request; returns its stream."""
        stream_id = self.client.get_next_available_stream_id()
        is_complete = body is None and ends
        self.client.send_headers(
            stream_id, [*(GET if body is None else POST), *headers], end_stream=is_complete
        )
        if body is not None:
            self.client.send_data(stream_id, body, end_stream=ends)
        self.pump()
        return stream_id

    def answer(self, stream_id: int, data: bytes = b"", *, ends: bool = False) -> None:
        """Begin an answer, perhaps with bytes, perhaps to its end."""
        self.server.respond(stream_id, status=200, headers=[(b"content-type", b"text/plain")])
        if ends:
            self.server.end(stream_id, data)
        elif data:
            self.server.write(stream_id, data)
        self.pump()

    def raw(self, data: bytes) -> None:
        """Send bytes that the client's library would not."""
        self.pump()
        self.told += self.server.receive(data, now_s=self.now_s)
        while self.server.has_unread:
            self.told += self.server.receive(b"", now_s=self.now_s)
        self.pump()

    def advance(self, passed_s: float) -> None:
        """Let time pass."""
        self.now_s += passed_s
        self.told += self.server.advance(now_s=self.now_s)
        self.pump()

    def has_ended(self, stream_id: int) -> bool:
        """Whether the client saw the stream's end."""
        return any(isinstance(each, StreamEnded) and each.stream_id == stream_id for each in self.heard)

    def reset_code(self, stream_id: int) -> int | None:
        """Return the code with which the server reset a stream."""
        codes = [e.error_code for e in self.heard if isinstance(e, StreamReset) and e.stream_id == stream_id]
        return int(codes[0]) if codes else None

    def status(self, stream_id: int) -> str | None:
        """Return the status of an answer."""
        for each in self.heard:
            if isinstance(each, ResponseReceived) and each.stream_id == stream_id:
                return dict(each.headers)[":status"]
        return None

    def _read(self, data: bytes) -> None:
        # The library takes nothing more after a GOAWAY, though streams go on: it hears of one only if asked.
        while data:
            end = 9 + int.from_bytes(data[:3], "big")
            if data[3] == Kind.GOAWAY:
                self.goaways.append(struct.unpack(">II", data[9:17]))
            if data[3] != Kind.GOAWAY or self._hears_goaways:
                self._hear(self.client.receive_data(data[:end]))
            data = data[end:]

    def _hear(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, DataReceived):
                self.frames.append(event.data)
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
        self.heard += events
