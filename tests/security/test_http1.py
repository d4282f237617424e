"""Pins what becomes of bad clients of HTTP/1.1, TLS and the PROXY protocol, and that nobody else notices."""

from __future__ import annotations

import subprocess

import pytest

from bench.attacks import http1
from bench.attacks.seen import Seen


@pytest.mark.parametrize("name", list(http1.ATTACKS))
def test_a_bad_client_disturbs_nobody(scene, name):
    scene.endure(http1.ATTACKS[name])


@pytest.mark.needs("openssl")
def test_a_client_cannot_have_its_tls_handshake_done_again(scene):
    def renegotiate(target, scale):
        command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{target.tls_port}"]
        # A line that is "R" alone asks for it.
        told = subprocess.run(command, input=b"R\n", capture_output=True, timeout=10)
        output = (told.stdout + told.stderr).decode()
        return Seen(text=output, is_fine="no renegotiation" in output)

    scene.endure(renegotiate)
