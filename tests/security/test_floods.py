"""Pins that each flood of HTTP/2 frames ends its connection, and that nobody else notices it."""

from __future__ import annotations

import pytest

from bench.attacks import floods


@pytest.mark.parametrize("name", list(floods.FLOODS))
def test_a_flood_ends_its_connection_and_disturbs_nobody(scene, name):
    scene.endure(floods.attack(name))
