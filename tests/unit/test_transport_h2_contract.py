"""
Pins what our HTTP/2 core relies on in the h2 library, and what it works around.

A newer h2 that fails here has changed under our feet; one that fails a workaround's test may let us drop it.
"""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from tests.h2_peer import GET


def pair() -> tuple[H2Connection, H2Connection]:
    """Return a server and a client whose settings are exchanged, with stream 1 open."""
    server = H2Connection(H2Configuration(client_side=False))
    client = H2Connection(H2Configuration(client_side=True))
    server.initiate_connection()
    client.initiate_connection()
    client.send_headers(1, GET, end_stream=True)
    server.receive_data(client.data_to_send())
    server.send_headers(1, [(":status", "200")])
    client.receive_data(server.data_to_send())
    server.receive_data(client.data_to_send())
    return server, client


def test_the_windows_are_attributes_that_send_data_counts_down():
    server, _ = pair()
    server.send_data(1, b"x" * 100)

    assert server.outbound_flow_control_window == 65_535 - 100
    assert server.streams[1].outbound_flow_control_window == 65_535 - 100


def test_windows_that_were_counted_down_by_hand_are_those_that_updates_open():
    server, client = pair()
    server.streams[1].outbound_flow_control_window -= 100
    server.outbound_flow_control_window -= 100
    client.increment_flow_control_window(30, 1)
    client.increment_flow_control_window(30)
    server.receive_data(client.data_to_send())

    assert server.streams[1].outbound_flow_control_window == 65_535 - 70
    assert server.outbound_flow_control_window == 65_535 - 70


def test_an_end_may_be_told_to_h2_and_its_frame_thrown_away():
    server, _ = pair()
    server.end_stream(1)
    server.clear_outbound_data_buffer()

    assert (server.streams[1].closed, server.data_to_send()) == (True, b"")


def test_closed_streams_are_dropped_when_they_are_counted():
    server, _ = pair()
    server.end_stream(1)

    assert 1 in server.streams
    assert (server.open_inbound_streams, server.streams) == (0, {})


def test_limits_may_be_replaced_once_the_client_has_been_told():
    server = H2Connection(H2Configuration(client_side=False))
    settings = Settings(client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: 7})
    server.local_settings = settings

    assert server.local_settings.max_concurrent_streams == 7
    assert server.highest_inbound_stream_id == 0


def test_h2_ends_the_connection_at_one_stream_too_many():
    server, client = pair()
    server.local_settings = Settings(client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    client.send_headers(3, GET, end_stream=True)

    with pytest.raises(ProtocolError):
        server.receive_data(client.data_to_send())


def test_h2_can_do_nothing_after_a_goaway_sent_or_received():
    sender, _ = pair()
    sender.close_connection(last_stream_id=2**31 - 1)
    receiver, client = pair()
    client.close_connection()
    receiver.receive_data(client.data_to_send())

    for each in (sender, receiver):
        with pytest.raises(ProtocolError):
            each.send_data(1, b"x")


def test_h2_answers_each_frame_of_data_on_a_closed_stream():
    server, client = pair()
    client.send_headers(3, GET)
    server.receive_data(client.data_to_send())
    server.reset_stream(3, ErrorCodes.CANCEL)
    server.clear_outbound_data_buffer()
    client.send_data(3, b"x")
    server.receive_data(client.data_to_send())

    assert len(server.data_to_send()) == 13  # RST_STREAM
