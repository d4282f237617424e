"""Pins which descriptors are taken for sockets that systemd opened, and how addresses are written."""

from __future__ import annotations

import pytest

from transport.sockets import activated_descriptors, host_port, prefix_of


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


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("not:an:address", "not:an:other", False),
    ],
)
def test_of_ipv6_a_network_of_64_bits_is_one_client(one: str, other: str, is_same: bool) -> None:
    assert (prefix_of(one) == prefix_of(other)) is is_same
