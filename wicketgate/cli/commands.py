"""The tree of commands: name, what it does, its options, and where its handler is (imported when called)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from wicketgate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG_LEVELS = ("debug", "info", "warning", "error")


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


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"is {text}; it must be a whole number from 0 to 65535")
    return int(text)


def _revision(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"is {text}; it must be a whole number, 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"is {text}; it must be a number of seconds from 0 to 86400")
    return value


def _path(text: str) -> str:
    # What an unset variable of a script leaves behind; the default instead could be another runtime.
    if not text:
        raise argparse.ArgumentTypeError("is empty; leave it out for the default")
    return text


def _place(parser: Parser) -> None:
    parser.add_argument("--config", type=_path, metavar="FILE", help="the runtime's configuration file")
    parser.add_argument("--state-dir", type=_path, metavar="DIR", help="the runtime's state folder")


def _listeners(parser: Parser) -> None:
    parser.add_argument("--port", type=_port, metavar="N", help="port of the APIs, 0 for a free one")
    parser.add_argument("--admin-port", type=_port, metavar="N", help="port of metrics and status")
    parser.add_argument("--log-level", choices=_LOG_LEVELS, help="least severe event to log")


def _serve(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder or hub id; instead of `model:`")
    parser.add_argument("--host", metavar="ADDRESS", help="address of the APIs, by default 127.0.0.1")


def _demo(parser: Parser) -> None:
    parser.add_argument("--check", action="store_true", help="start, run the printed commands, stop")
    parser.add_argument(
        "--state-dir", type=_path, metavar="DIR", help="state folder; emptied of its ledger at start"
    )


def _file(parser: Parser) -> None:
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="by default $WICKETGATE_CONFIG, else runtime.yaml; - is stdin"
    )


def _model(parser: Parser) -> None:
    parser.add_argument("model", metavar="NAME", help="the model, as clients call it")


def _wait(parser: Parser) -> None:
    parser.add_argument("--wait", action="store_true", help="until it is done")
    parser.add_argument(
        "--timeout", type=_seconds, default=120.0, metavar="S", help="longest wait, by default 120 seconds"
    )


def _one_model(parser: Parser) -> None:
    parser.add_argument("--model", metavar="NAME", help="only this one, by default all that are loaded")


def _tier(parser: Parser) -> None:
    parser.add_argument("--tier", choices=("memory", "disk", "all"), default="all", help="by default all")


def _bench(parser: Parser) -> None:
    parser.add_argument("--profile", default="smoke", metavar="NAME", help="what to measure: smoke, engine")
    parser.add_argument("--out", metavar="DIR", help="where to write the results")


def _feature(parser: Parser) -> None:
    parser.add_argument("feature", metavar="FEATURE", help="name of the feature")


def _any_feature(parser: Parser) -> None:
    parser.add_argument("feature", nargs="?", metavar="FEATURE", help="only this one")


def _one_or_all(parser: Parser) -> None:
    parser.add_argument("feature", nargs="?", metavar="FEATURE", help="name of the feature")
    parser.add_argument("--all", action="store_true", help="every feature")


def _printable(text: str) -> str:
    # Bytes that are not UTF-8 arrive as lone surrogates, which no JSON answer can carry.
    return text.encode("utf-8", "backslashreplace").decode()


def _reason(parser: Parser) -> None:
    parser.add_argument(
        "--reason", type=_printable, default="", metavar="TEXT", help="why; written to the audit"
    )


def _change(parser: Parser) -> None:
    _reason(parser)
    parser.add_argument(
        "--expect-revision", type=_revision, metavar="N", help="refuse if the feature is at another"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen; change nothing")


def _yes(parser: Parser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _at(parser: Parser) -> None:
    parser.add_argument("--at", metavar="STAGE", help="begin at this stage instead of the first")


def _force(parser: Parser) -> None:
    parser.add_argument("--force", action="store_true", help="before the hold is served; needs --reason")


def _rollout(summary: str, group: str, verb: str, *options: Callable[[Parser], None], shown: str) -> Command:
    return Command(
        group, summary, f"wicketgate.cli.change:{verb}", _feature, *options, _change, _place, shown=shown
    )


COMMANDS = {
    "serve": Command(
        "Run",
        "serve a model, until Ctrl-C",
        "wicketgate.cli.serve:run",
        _serve,
        _listeners,
        _place,
        shown="serve [MODEL]",
        examples=("wicketgate serve --config runtime.yaml",),
    ),
    "demo": Command(
        "Run",
        "serve the model that ships, and say what to try",
        "wicketgate.cli.demo:run",
        _demo,
        _listeners,
        examples=("wicketgate demo",),
    ),
    "status": Command(
        "Look",
        "what is true now, from the running gateway",
        "wicketgate.cli.status:run",
        _place,
        examples=("wicketgate status", "wicketgate status --json"),
    ),
    "model ls": Command(
        "Look",
        "the models, and which are loaded",
        "wicketgate.cli.model:ls",
        _place,
        examples=("wicketgate model ls",),
    ),
    "cache ls": Command(
        "Look",
        "the prefixes whose KV is kept",
        "wicketgate.cli.cache:ls",
        _one_model,
        _place,
        examples=("wicketgate cache ls",),
    ),
    "cache stats": Command(
        "Look",
        "hits, sizes, and memory by session",
        "wicketgate.cli.cache:stats",
        _one_model,
        _place,
        examples=("wicketgate cache stats",),
    ),
    "rollout list": Command("Look", "the features as declared", "wicketgate.cli.rollout:declared", _place),
    "rollout status": Command(
        "Look",
        "where every feature stands",
        "wicketgate.cli.rollout:status",
        _any_feature,
        _place,
        shown="rollout status [F]",
        examples=("wicketgate rollout status", "wicketgate rollout status ttft_pipeline"),
    ),
    "rollout start": _rollout(
        "begin a staged rollout", "Raise", "start", _at, _yes, shown="rollout start F [--at STAGE]"
    ),
    "rollout promote": _rollout(
        "go on to the next stage", "Raise", "promote", _force, _yes, shown="rollout promote F [--force]"
    ),
    "rollout resume": _rollout("let the hold clock run again", "Raise", "resume", shown="rollout resume F"),
    "rollout reset": _rollout(
        "end the rollback of a direct feature", "Raise", "reset", shown="rollout reset F"
    ),
    "rollout pause": _rollout(
        "keep the share, stop the hold clock", "Lower", "pause", shown="rollout pause F"
    ),
    "rollout stop": _rollout("end a staged rollout, to 0 %", "Lower", "stop", shown="rollout stop F"),
    "rollback": Command(
        "Lower",
        "put a feature to 0 % at once, and keep it there",
        "wicketgate.cli.rollback:run",
        _one_or_all,
        _reason,
        _place,
        shown="rollback F | --all",
        examples=('wicketgate rollback ttft_pipeline --reason "INC-42"', "wicketgate rollback --all"),
    ),
    "model load": Command(
        "Run",
        "load a model; idle ones make room",
        "wicketgate.cli.model:load",
        _model,
        _wait,
        _place,
        shown="model load NAME [--wait]",
        examples=("wicketgate model load demo --wait",),
    ),
    "model unload": Command(
        "Run",
        "end a model's host once its streams end",
        "wicketgate.cli.model:unload",
        _model,
        _wait,
        _place,
        shown="model unload NAME [--wait]",
        examples=("wicketgate model unload demo --wait",),
    ),
    "cache clear": Command(
        "Run",
        "drop kept prefixes, but pinned ones",
        "wicketgate.cli.cache:clear",
        _one_model,
        _tier,
        _place,
        shown="cache clear [--tier T]",
        examples=("wicketgate cache clear --tier disk",),
    ),
    "doctor": Command(
        "Check",
        "what this machine can do, and what is missing",
        "wicketgate.cli.doctor:run",
        _place,
        examples=("wicketgate doctor",),
    ),
    "validate": Command(
        "Check",
        "check a configuration file",
        "wicketgate.cli.validate:run",
        _file,
        shown="validate [FILE]",
        examples=("wicketgate validate runtime.yaml",),
    ),
    "bench run": Command(
        "Check",
        "measure this machine through the whole stack",
        "wicketgate.cli.bench:run",
        _bench,
        examples=("wicketgate bench run --profile smoke",),
    ),
}
"""Every command by its words."""
GROUPS = ("Run", "Look", "Raise", "Lower", "Check")
"""Headings of help, in order."""
