"""
Pins that the HTTP/2 core loses and disorders nothing, against the h2 library as the client.

Any interleaving of writes, ends, window updates, settings and resets: each stream's bytes arrive in order, no
window is overrun (the client's library would raise), and nothing stays behind.
"""

from __future__ import annotations

from h2.settings import SettingCodes
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.h2_peer import POST, Peer
from transport.connection import Connection
from transport.counters import Counters
from transport.events import StreamReset
from transport.wire import ConnectionParams

STREAMS = 4
ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, STREAMS - 1), st.integers(0, 40_000)),
    st.tuples(st.just("end"), st.integers(0, STREAMS - 1), st.integers(0, 20_000)),
    st.tuples(st.just("open"), st.integers(0, STREAMS - 1), st.integers(1, 50_000)),
    st.tuples(st.just("open_all"), st.just(0), st.integers(1, 100_000)),
    st.tuples(st.just("window"), st.just(0), st.integers(0, 70_000)),
    st.tuples(st.just("cancel"), st.integers(0, STREAMS - 1), st.just(0)),
    st.tuples(st.just("reset"), st.integers(0, STREAMS - 1), st.just(0)),
    st.tuples(st.just("upload"), st.integers(0, STREAMS - 1), st.integers(0, 9_000)),
    st.tuples(st.just("frame"), st.just(0), st.integers(16_384, 60_000)),
    st.tuples(st.just("pump"), st.just(0), st.just(0)),
)


class Play:
    """One run: what was written to each stream, and who is done."""

    def __init__(self) -> None:
        self.peer = Peer(window=1000)
        self.written: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.dropped: set[int] = set()
        self.is_upload_open: set[int] = set()
        for _ in range(STREAMS):
            stream_id = self.peer.ask(body=b"", ends=False)
            self.peer.answer(stream_id)
            self.written[stream_id] = b""
            self.is_upload_open.add(stream_id)

    def do(self, kind: str, index: int, size: int) -> None:
        peer, stream_id = self.peer, 2 * index + 1
        is_live = stream_id not in self.ended | self.dropped
        data = (
            bytes((stream_id + len(self.written[stream_id]) + i) % 251 for i in range(size))
            if is_live
            else b"x"
        )
        if kind in {"write", "end"}:
            if kind == "write":
                peer.server.write(stream_id, data)
            else:
                peer.server.end(stream_id, data)
            if is_live:
                self.written[stream_id] += data
                self.ended |= {stream_id} if kind == "end" else set()
        elif kind == "open_all":
            peer.client.increment_flow_control_window(size)
        elif kind == "window":
            peer.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})
        elif kind == "frame":
            peer.client.update_settings({SettingCodes.MAX_FRAME_SIZE: size})
        elif kind == "reset":
            peer.server.reset(stream_id, 8)
            self.dropped.add(stream_id)
        elif kind == "pump":
            peer.pump()
        elif stream_id in peer.client.streams and not peer.client.streams[stream_id].closed:
            self.do_as_client(kind, stream_id, size)
        self.note_resets()

    def do_as_client(self, kind: str, stream_id: int, size: int) -> None:
        client = self.peer.client
        if kind == "open":
            client.increment_flow_control_window(size, stream_id)
        elif kind == "cancel":
            client.reset_stream(stream_id, 8)
            self.dropped.add(stream_id)
        elif size <= client.local_flow_control_window(stream_id):
            client.send_data(stream_id, b"u" * size)

    def note_resets(self) -> None:
        self.dropped |= {each.stream_id for each in self.peer.told if isinstance(each, StreamReset)}


@settings(max_examples=80)
@given(actions=st.lists(ACTIONS, max_size=40))
def test_every_byte_arrives_in_order_within_the_windows_and_nothing_stays_behind(actions):
    play = Play()
    peer = play.peer

    for action in actions:
        play.do(*action)
    peer.pump()
    play.note_resets()

    for stream_id, data in play.written.items():
        assert data.startswith(peer.bodies.get(stream_id, b""))
    for stream_id in play.written.keys() - play.dropped:
        unsent = peer.server.unsent_of(stream_id)
        assert len(peer.bodies.get(stream_id, b"")) + unsent == len(play.written[stream_id])

    peer.client.increment_flow_control_window(2**30)
    for stream_id in play.written.keys() - play.dropped:
        peer.server.end(stream_id)
        if not peer.client.streams[stream_id].closed:
            peer.client.increment_flow_control_window(2**30, stream_id)
    peer.pump()

    for stream_id in play.written.keys() - play.dropped:
        assert peer.bodies.get(stream_id, b"") == play.written[stream_id]
        assert peer.has_ended(stream_id)
    assert peer.counters.streams_opened == peer.counters.streams_closed == STREAMS
    assert not peer.server.is_over


BLOCK = Encoder().encode(POST)
FRAMES = st.builds(
    lambda kind, flags, stream_id, payload: (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload
    ),
    st.integers(0, 12),
    st.sampled_from([0, 0x1, 0x4, 0x5, 0x8, 0x20, 0x2D, 0xFF]),
    st.integers(0, 9),
    st.one_of(
        st.just(BLOCK),
        st.just(b""),
        st.binary(max_size=30),
        st.sampled_from([b"\0\0\0\1", b"\x7f\xff\xff\xff", b"\0\0\0\0", bytes(8), b"\0\4\0\0\0\0"]),
    ),
)


@settings(max_examples=100)
@given(parts=st.lists(FRAMES, max_size=12), cut=st.integers(1, 60))
def test_no_frames_of_a_client_raise_and_how_they_are_cut_does_not_matter(parts, cut):
    whole, pieces = Peer(), Peer()
    data = b"".join(parts)

    for peer, sent in ((whole, [data]), (pieces, [data[i : i + cut] for i in range(0, len(data), cut)])):
        for each in sent:
            peer.told += peer.server.receive(each, now_s=0)
            peer.server.to_send(now_s=0)

    assert whole.told == pieces.told
    assert whole.server.is_over == pieces.server.is_over


@given(data=st.binary(max_size=200))
def test_whatever_is_no_preface_ends_the_connection(data):
    server = Connection(ConnectionParams(), now_s=0, counters=Counters())

    server.receive(b"G" + data, now_s=0)

    assert server.is_over
