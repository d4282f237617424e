"""Pins the tree of commands: help that fits a screen, options that exist, handlers that can be found."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from rollout.spec import DEFAULT_SPEC
from wicketgate.cli.command import GROUPS
from wicketgate.cli.commands import COMMANDS
from wicketgate.cli.commands_rollout import ALIASES
from wicketgate.cli.main import run
from wicketgate.cli.place import PACKAGED_FEATURES
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from wicketgate.cli.command import Parser

HELPS = [[], ["--help"], ["-h"], ["rollout"], ["rollout", "--help"], ["bench"]]


@pytest.mark.parametrize("argv", [*HELPS, *([*words.split(), "--help"] for words in COMMANDS)])
def test_help_is_given_within_80_columns_and_one_screen(argv, capsys):
    assert run(argv) == ExitCode.DONE

    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert len(lines) <= 44
    assert "usage: wicketgate" in "\n".join(lines)


def least(parser: Parser) -> list[str]:
    """The fewest words that a command takes."""
    given = []
    for action in parser._actions:
        if action.required:
            value = "1" if action.choices is None else str(next(iter(action.choices)))
            given += [*action.option_strings[:1], value]
    return given


def test_help_lists_every_command_under_its_heading(capsys):
    run([])

    text = capsys.readouterr().out
    for words, command in COMMANDS.items():
        assert f"  {command.shown or words} " in text
        assert command.group in GROUPS
    assert [line.split()[0] for line in text.splitlines() if line[:1].isupper() and line[6:8] == "  "] == [
        *GROUPS
    ]


def test_help_on_rollout_lists_its_commands_alone(capsys):
    run(["rollout"])

    text = capsys.readouterr().out
    assert "rollout promote F" in text
    assert "serve" not in text


@pytest.mark.parametrize("words", COMMANDS)
def test_every_handler_lives_in_a_module_of_the_command_line(words):
    module, _, function = COMMANDS[words].handler.partition(":")

    assert module.startswith("wicketgate.cli.")
    assert find_spec(module) is not None
    assert function.isidentifier()


@pytest.mark.parametrize(("words", "name"), ALIASES.items())
def test_where_people_look_for_a_command_it_is_found(words, name, capsys):
    assert run([*words.split(), "--help"]) == ExitCode.DONE

    assert f"usage: wicketgate {name}" in capsys.readouterr().out
    assert name in COMMANDS


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30.0), ("500ms", 0.5), ("90s", 90.0), ("5m", 300.0), ("24h", 86_400.0)]
)
def test_a_wait_takes_a_time_with_or_without_a_unit(text, seconds):
    args = COMMANDS["rollout start"].parser("rollout start").parse_args(["f", "--wait", text])

    assert args.wait == seconds


def test_a_wait_without_a_time_has_no_end():
    args = COMMANDS["rollout resume"].parser("rollout resume").parse_args(["f", "--wait"])

    assert args.wait == float("inf")


def test_a_reason_that_is_not_unicode_is_escaped():
    args = COMMANDS["rollback"].parser("rollback").parse_args(["--all", "--reason", "caf\udce9"])

    assert args.reason == "caf\\udce9"


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_takes_json_and_color(words):
    parser = COMMANDS[words].parser(words)

    args = parser.parse_args([*least(parser), "--json", "--color", "never"])

    assert (args.json, args.color) == (True, "never")


def test_every_example_parses():
    examples = [each for command in COMMANDS.values() for each in command.examples]

    for example in examples:
        words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"'))[1:]
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        COMMANDS[name].parser(name).parse_args(words[len(name.split()) :])
    assert len(examples) >= 10


def test_the_version_is_the_distributions(capsys):
    from importlib.metadata import version

    assert run(["--version"]) == ExitCode.DONE
    assert capsys.readouterr().out == f"wicketgate {version('wicketgate')}\n"


def test_rollback_knows_the_packaged_features_without_reading_a_specification():
    assert tuple(DEFAULT_SPEC.features) == PACKAGED_FEATURES
