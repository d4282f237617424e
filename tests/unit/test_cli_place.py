"""Pins where a command looks for its runtime while the configuration is broken: never at another one's."""

from __future__ import annotations

from argparse import Namespace

import pytest

from wicketgate.cli.place import find
from wicketgate.platform import default_state_dir


def place_of(path, text):
    """Find the runtime of a configuration; return it, and what was noted."""
    config = path / "runtime.yaml"
    config.write_text(text, encoding="utf-8")
    notes: list[str] = []
    place = find(Namespace(config=str(config), state_dir=None), note=notes.append, ask=False)
    return place, notes


@pytest.mark.parametrize(
    "line",
    [
        "state_dir: here",
        'state_dir: "here"',
        "state_dir: 'here'   # ours",
        "state_dir:  here # ours",
    ],
)
def test_a_file_that_is_no_yaml_still_says_where_its_state_is(tmp_path, line):
    place, _ = place_of(tmp_path, f"{line}\nphase4_rollout: [\n")

    assert place.state_dir == tmp_path / "here"


def test_a_file_that_is_no_yaml_still_says_whose_it_is(tmp_path):
    place, _ = place_of(tmp_path, "name: staging\nstate_dir: null\nphase4_rollout: [\n")

    assert place.state_dir == default_state_dir("staging")


def test_what_stands_inside_a_section_is_not_taken(tmp_path):
    place, _ = place_of(tmp_path, "server:\n  state_dir: elsewhere\n  name: other\nphase4_rollout: [\n")

    assert place.state_dir == default_state_dir("default")


def test_a_broken_file_is_told_of_once(tmp_path):
    place, notes = place_of(tmp_path, "state_dir: here\na: [\n")
    place.declared()
    place.declares_kill()

    assert len(notes) == 1
    assert notes[0].endswith("looking where its own lines say.")
