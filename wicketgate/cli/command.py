"""One command of the tree: what it does, its options, and where its handler is (imported when called)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from wicketgate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

RUN, LOOK, RAISE, LOWER, CHECK, OTHER = "Run", "Look", "Raise", "Lower", "Check", "Other"
GROUPS = (RUN, LOOK, RAISE, LOWER, CHECK, OTHER)
"""The headings of help, in order: what a command is for, and which way it moves a share."""


class Parser(argparse.ArgumentParser):
    """A parser of one command; a fault becomes a `UsageError`, so that `--json` can carry it."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(message, fix=f"{self.prog} --help")


class Command:
    """
    One command.

    Args:
        group: Under which heading help lists it.
        summary: What it does, in one line.
        handler: `module:function`; the function takes the options and returns the exit code.
        options: Adds its options to a parser.
        shown: How help writes it, where that is not its name alone.
        examples: Command lines that run as printed.
    """

    def __init__(
        self,
        group: str,
        summary: str,
        handler: str,
        *options: Callable[[Parser], None],
        shown: str = "",
        examples: tuple[str, ...] = (),
    ) -> None:
        self.group = group
        self.summary = summary
        self.handler = handler
        self.options = options
        self.shown = shown
        self.examples = examples

    def parser(self, name: str) -> Parser:
        """Make the command's parser."""
        parser = Parser(
            prog=f"wicketgate {name}",
            description=self.summary[0].upper() + self.summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  {each}" for each in self.examples)
            if self.examples
            else None,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=79),
            allow_abbrev=False,
        )
        # Python 3.14 would colour help by rules of its own.
        parser.color = False  # type: ignore[attr-defined]  # unknown to 3.11
        for add in self.options:
            add(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON object, on failure too")
        parser.add_argument("--color", choices=("always", "never"), help="instead of finding out")
        return parser
