"""Pins the supply of prompts: all different, of the wanted length, and an end."""

from __future__ import annotations

import json

import pytest

from bench.prompts import Prompts, completion


def test_every_prompt_is_another_stretch_of_the_text():
    prompts = Prompts(list(range(1000)))

    taken = [prompts.take(64) for _ in range(936)]

    assert all(ids == list(range(ids[0], ids[0] + 64)) for ids in taken)
    assert len({ids[0] for ids in taken}) == 936


def test_there_are_no_more_prompts_than_places_in_the_text():
    prompts = Prompts(list(range(10)))
    for _ in range(6):
        prompts.take(4)

    with pytest.raises(IndexError, match="no more than 6 prompts of 4 tokens"):
        prompts.take(4)


def test_a_streamed_request_asks_for_its_usage_and_a_whole_one_does_not():
    streamed = json.loads(completion([1, 2], max_tokens=8))
    whole = json.loads(completion([1, 2], max_tokens=8, stream=False))

    assert streamed["stream_options"] == {"include_usage": True}
    assert (streamed["prompt"], streamed["max_tokens"], streamed["temperature"]) == ([1, 2], 8, 0)
    assert "stream_options" not in whole
