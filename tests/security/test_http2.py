"""Pins what becomes of HTTP/2 clients that never finish, take nothing or ask much; nobody else notices."""

from __future__ import annotations

import pytest

from bench.attacks import http2


@pytest.mark.parametrize("name", list(http2.ATTACKS))
def test_a_client_that_goes_to_the_limits_disturbs_nobody(scene, name):
    scene.endure(http2.ATTACKS[name])
