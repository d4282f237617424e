"""
`wicketgate completion SHELL`, and what its scripts call at every press of the tabulator.

It reads the tree of commands, and where a feature or a stage is wanted the ledger and the configuration;
it never asks the gateway, which may be busy.
"""

from __future__ import annotations

from argparse import ONE_OR_MORE, REMAINDER, ZERO_OR_MORE
from itertools import pairwise
from typing import TYPE_CHECKING

from wicketgate.cli.commands import COMMANDS
from wicketgate.errors import ExitCode, WicketgateError

if TYPE_CHECKING:
    from argparse import Action, Namespace
    from collections.abc import Iterable, Mapping, Sequence

    from wicketgate.cli.command import Parser
    from wicketgate.cli.place import Place

SCRIPTS = {
    "bash": """\
_wicketgate() {
  local IFS=$'\\n'; COMPREPLY=($(wicketgate __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _wicketgate wicketgate""",
    "zsh": """\
_wicketgate() {
  compadd -- ${(f)"$(wicketgate __complete "${(@)words[2,CURRENT]}" 2>/dev/null)"} || _files
}
compdef _wicketgate wicketgate""",
    "fish": """\
complete -c wicketgate -a \\
  '(wicketgate __complete (commandline -opc)[2..] "$(commandline -ct)" 2>/dev/null)'""",
}
"""By shell; each is evaluated by the shell's start-up file."""
STAGES = ("canary", "early", "mid", "full")
"""Stages without a configuration that names others: those of `rollout.spec.DEFAULT_STAGES`."""


def run(args: Namespace) -> int:
    """Print the script of a shell."""
    if args.json:
        from wicketgate.cli.output import print_json

        print_json({"schema": "wicketgate.completion/1", "ok": True, "script": SCRIPTS[args.shell]})
    else:
        print(SCRIPTS[args.shell])
    return ExitCode.DONE


def complete(words: Sequence[str]) -> list[str]:
    """
    List what the last word may become.

    Args:
        words: What stands behind `wicketgate`; the last one is being written, and may be empty.
    """
    *before, begun = words or ("",)
    candidates = _candidates(before, begun)
    return sorted(each for each in candidates if each.startswith(begun))


def _candidates(before: Sequence[str], begun: str) -> Iterable[str]:
    if not before:
        options = ("--help", "--version") if begun.startswith("-") else ()
        return {name.split()[0] for name in COMMANDS} | set(options)
    name = " ".join(before[:2])
    if name not in COMMANDS:
        name = before[0]
    if name in COMMANDS:
        return _of_command(COMMANDS[name].parser(name), before[len(name.split()) :], begun)
    return [each.split()[1] for each in COMMANDS if each.startswith(f"{name} ")] if len(before) == 1 else ()


def _of_command(parser: Parser, before: Sequence[str], begun: str) -> Iterable[str]:
    """List options, the values of the option before, or what stands in the next place."""
    options = {name: action for action in parser._actions for name in action.option_strings}
    wanted = options.get(before[-1]) if before else None
    if wanted is not None and _takes_value(wanted):
        return _values(wanted, before)
    if begun.startswith("-"):
        return [name for name in options if name.startswith("--") and name not in before]
    places = [action for action in parser._actions if not action.option_strings]
    taken = _places_taken(before, options)
    return _values(places[taken], before) if taken < len(places) else ()


def _places_taken(words: Sequence[str], options: Mapping[str, Action]) -> int:
    """Count the words that are neither options nor their values."""
    taken, skip = 0, False
    for word in words:
        if skip or word.startswith("-"):
            skip = not skip and word in options and _takes_value(options[word])
        else:
            taken += 1
    return taken


def _takes_value(action: Action) -> bool:
    return action.nargs != 0 and action.nargs not in (ONE_OR_MORE, ZERO_OR_MORE, REMAINDER, "?")


def _values(action: Action, words: Sequence[str]) -> Iterable[str]:
    if action.choices is not None:
        return [str(each) for each in action.choices]
    match action.dest:
        case "feature":
            return _features(words)
        case "at":
            return _stages(words)
        case _:
            return ()


def _features(words: Sequence[str]) -> Iterable[str]:
    """Name the features that are packaged, declared, or in the ledger."""
    from wicketgate.cli.place import PACKAGED_FEATURES

    place = _place(words)
    if place is None:
        return PACKAGED_FEATURES
    names = {*PACKAGED_FEATURES, *place.declared()}
    try:
        return names | set(place.ledger().read().rows)
    except WicketgateError:
        return names


def _stages(words: Sequence[str]) -> Iterable[str]:
    place = _place(words)
    declared = () if place is None else place.declared_stages()
    return declared or STAGES


def _place(words: Sequence[str]) -> Place | None:
    """Find the runtime by what is written already, without asking whether it lives."""
    from argparse import Namespace as Options

    from wicketgate.cli.place import find

    given = {name: word for name, word in pairwise(words) if name.startswith("--")}
    args = Options(config=given.get("--config"), state_dir=given.get("--state-dir"))
    try:
        return find(args, note=lambda _: None, ask=False)
    except WicketgateError:
        return None
