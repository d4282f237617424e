"""Pins which descriptors are taken for sockets that systemd opened."""

from __future__ import annotations

import pytest

from transport.sockets import activated_descriptors, host_port


def test_each_descriptor_has_its_name() -> None:
    environ = {"LISTEN_PID": "77", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "api::admin"}

    assert activated_descriptors(environ, pid=77) == [(3, "api"), (4, "unknown"), (5, "admin")]


def test_without_names_they_are_unknown() -> None:
    assert activated_descriptors({"LISTEN_PID": "77", "LISTEN_FDS": "1"}, pid=77) == [(3, "unknown")]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "78", "LISTEN_FDS": "1"},  # meant for a parent
        {"LISTEN_PID": "77"},
        {"LISTEN_PID": "77", "LISTEN_FDS": "x"},
        {"LISTEN_PID": "77", "LISTEN_FDS": "-1"},
        {"LISTEN_PID": "77", "LISTEN_FDS": "65"},
        {"LISTEN_PID": "77", "LISTEN_FDS": "100"},
    ],
)
def test_what_is_not_meant_for_this_process_is_left_alone(environ: dict[str, str]) -> None:
    assert activated_descriptors(environ, pid=77) == []


@pytest.mark.parametrize(("host", "text"), [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")])
def test_an_address_is_written_as_in_a_url(host: str, text: str) -> None:
    assert host_port(host, 80) == text
