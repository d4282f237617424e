"""Pins that streams beside each other do not change each other's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.load import burst
from bench.prompts import completion
from tests.load.facts import STREAMS, TOKENS, Solo, not_ok

if TYPE_CHECKING:
    from bench.server import Server


def test_75_streams_at_once_get_exactly_the_tokens_of_the_same_requests_alone(
    server: Server, solos: list[Solo]
):
    with server.connect() as connection:
        bodies = [completion(solo.prompt, max_tokens=TOKENS, ignore_eos=False) for solo in solos]
        served = burst([connection], bodies, tokens_each=TOKENS)

    assert not_ok(served.answers) == []
    assert served.ok == STREAMS
    differing = [
        (number, answer.text, solo.text)
        for number, (answer, solo) in enumerate(zip(served.answers, solos, strict=True))
        if answer.text != solo.text
    ]
    assert differing == []
