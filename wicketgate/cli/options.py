"""The options of the commands: what each takes, and how a value that it cannot take is refused."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wicketgate.cli.command import Parser

_LOG_LEVELS = ("debug", "info", "warning", "error")
_SPANS = (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0))
_LONGEST_S = 366 * 86_400.0
FOREVER_S = float("inf")
"""`--wait` without a number."""


def port(text: str) -> int:
    """Read a TCP port."""
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise ArgumentTypeError(f"is {text}; it must be a whole number from 0 to 65535")
    return int(text)


def revision(text: str) -> int:
    """Read a number of a change."""
    if not text.isascii() or not text.isdigit():
        raise ArgumentTypeError(f"is {text}; it must be a whole number, 0 or more")
    return int(text)


def count(text: str) -> int:
    """Read how many of something."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise ArgumentTypeError(f"is {text}; it must be a whole number from 1 to 1000000")
    return int(text)


def span(text: str) -> float:
    """Read a time span in seconds, with or without a unit: 30, 500ms, 90s, 5m, 24h."""
    digits, factor = text, 1.0
    for unit, seconds in _SPANS:
        if text.endswith(unit) and text[: -len(unit)][-1:].isdigit():
            digits, factor = text[: -len(unit)], seconds
            break
    value = _number(digits) * factor
    if not 0 <= value <= _LONGEST_S:
        raise ArgumentTypeError(f"is {text}; it must be a time such as 30, 90s, 5m or 24h")
    return value


def seconds(text: str) -> float:
    """Read a number of seconds."""
    value = _number(text)
    if not 0 <= value <= 86_400:
        raise ArgumentTypeError(f"is {text}; it must be a number of seconds from 0 to 86400")
    return value


def percent(text: str) -> float:
    """Read a percentage; the sign may be left out."""
    value = _number(text.removesuffix("%"))
    if not 0 <= value <= 100:
        raise ArgumentTypeError(f"is {text}; it must be a percentage from 0 to 100, such as 1%")
    return value


def compression(text: str) -> float:
    """Read by how much a schedule is shortened."""
    value = _number(text)
    if not 1 <= value <= 1_000_000:
        raise ArgumentTypeError(
            f"is {text}; it must be a number from 1 to 1000000: 1440 makes a day a minute"
        )
    return value


def per_second(text: str) -> float:
    """Read a rate of requests."""
    value = _number(text)
    if not 0 < value <= 1_000_000:
        raise ArgumentTypeError(f"is {text}; it must be a number above 0, at most 1000000")
    return value


def _number(text: str) -> float:
    """Read a number; what is none, and infinity, becomes one that every bound refuses."""
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if abs(value) < FOREVER_S else -1.0


def path(text: str) -> str:
    """Read a path."""
    # What an unset variable of a script leaves behind; the default instead could be another runtime.
    if not text:
        raise ArgumentTypeError("is empty; leave it out for the default")
    return text


def printable(text: str) -> str:
    """Read any text; bytes that are not UTF-8 arrive as lone surrogates, which no JSON can carry."""
    return text.encode("utf-8", "backslashreplace").decode()


def place(parser: Parser) -> None:
    """Say which runtime is meant."""
    parser.add_argument("--config", type=path, metavar="FILE", help="the runtime's configuration file")
    parser.add_argument("--state-dir", type=path, metavar="DIR", help="the runtime's state folder")


def listeners(parser: Parser) -> None:
    """Say where to listen and how much to log."""
    parser.add_argument("--port", type=port, metavar="N", help="port of the APIs, 0 for a free one")
    parser.add_argument("--admin-port", type=port, metavar="N", help="port of metrics and status")
    parser.add_argument("--log-level", choices=_LOG_LEVELS, help="least severe event to log")


def serve(parser: Parser) -> None:
    """Say what to serve."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder or hub id; instead of `model:`")
    parser.add_argument("--host", metavar="ADDRESS", help="address of the APIs, by default 127.0.0.1")


def demo(parser: Parser) -> None:
    """Say how to demonstrate."""
    parser.add_argument("--check", action="store_true", help="start, run the printed commands, stop")
    parser.add_argument(
        "--state-dir", type=path, metavar="DIR", help="state folder; emptied of its ledger at start"
    )


def file(parser: Parser) -> None:
    """Say which file to check."""
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="by default $WICKETGATE_CONFIG, else runtime.yaml; - is stdin"
    )


def model(parser: Parser) -> None:
    """Name a model."""
    parser.add_argument("model", metavar="NAME", help="the model, as clients call it")


def wait_for_model(parser: Parser) -> None:
    """Wait for a model."""
    parser.add_argument("--wait", action="store_true", help="until it is done")
    parser.add_argument(
        "--timeout", type=seconds, default=120.0, metavar="S", help="longest wait, by default 120 seconds"
    )


def one_model(parser: Parser) -> None:
    """Name a model, or mean all."""
    parser.add_argument("--model", metavar="NAME", help="only this one, by default all that are loaded")


def tier(parser: Parser) -> None:
    """Say which tier of the cache."""
    parser.add_argument("--tier", choices=("memory", "disk", "all"), default="all", help="by default all")


def bench(parser: Parser) -> None:
    """Say what to measure."""
    parser.add_argument("--profile", default="smoke", metavar="NAME", help="what to measure: smoke, engine")
    parser.add_argument("--out", metavar="DIR", help="where to write the results")


def feature(parser: Parser) -> None:
    """Name a feature."""
    parser.add_argument("feature", metavar="FEATURE", help="name of the feature")


def any_feature(parser: Parser) -> None:
    """Name a feature, or mean all."""
    parser.add_argument("feature", nargs="?", metavar="FEATURE", help="only this one")


def one_or_all(parser: Parser) -> None:
    """Name a feature, or say all."""
    parser.add_argument("feature", nargs="?", metavar="FEATURE", help="name of the feature")
    parser.add_argument("--all", action="store_true", help="every feature")


def reason(parser: Parser) -> None:
    """Say why."""
    parser.add_argument(
        "--reason", type=printable, default="", metavar="TEXT", help="why; written to the audit"
    )


def dry_run(parser: Parser) -> None:
    """Only say what would happen."""
    parser.add_argument("--dry-run", action="store_true", help="say what would happen; change nothing")


def change(parser: Parser) -> None:
    """Say why, from which revision, and whether at all."""
    reason(parser)
    parser.add_argument(
        "--expect-revision", type=revision, metavar="N", help="refuse if the feature is at another"
    )
    dry_run(parser)


def yes(parser: Parser) -> None:
    """Answer a question beforehand."""
    parser.add_argument("--yes", action="store_true", help="do not ask")


def start(parser: Parser) -> None:
    """Say where to begin and how fast to go."""
    parser.add_argument("--at", metavar="STAGE", help="begin at this stage instead of the first")
    parser.add_argument(
        "--compress", type=compression, metavar="N", help="divide every hold by N, to rehearse the schedule"
    )


def force(parser: Parser) -> None:
    """Go against the evidence."""
    parser.add_argument("--force", action="store_true", help="whatever is missing; needs --reason")


def wait(parser: Parser) -> None:
    """Wait for what becomes of the stage."""
    parser.add_argument(
        "--wait",
        nargs="?",
        type=span,
        const=FOREVER_S,
        metavar="S",
        help="until the stage ends, at most so long: 0 went on, 8 did not, 7 too long",
    )


def drain(parser: Parser) -> None:
    """Wait for the end, or do not wait for streams."""
    parser.add_argument(
        "--wait",
        nargs="?",
        type=span,
        const=FOREVER_S,
        metavar="S",
        help="until it has ended, at most so long",
    )
    parser.add_argument("--now", action="store_true", help="cut off what is in flight")


def api_key(parser: Parser) -> None:
    """Say whose key, and what it may do."""
    parser.add_argument("name", type=printable, metavar="NAME", help="whose key it is, without spaces")
    parser.add_argument("--role", choices=("user", "admin"), default="user", help="by default user")
    parser.add_argument("--add", type=path, metavar="FILE", help="append its hash to this file of keys")


def look(parser: Parser) -> None:
    """Say how to look."""
    parser.add_argument("--watch", action="store_true", help="keep looking, until Ctrl-C")
    parser.add_argument("--exit-code", action="store_true", help="8 if one is rolled back, holding or paused")
    wait(parser)


def key(parser: Parser) -> None:
    """Name a key."""
    parser.add_argument(
        "--key", required=True, type=printable, metavar="K", help="what the feature is decided by"
    )


def limit(parser: Parser) -> None:
    """Say how far back."""
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="how many, by default 20")


def simulate(parser: Parser) -> None:
    """Say what traffic to assume."""
    parser.add_argument("--rate", type=percent, required=True, metavar="R", help="failure rate, such as 1%%")
    parser.add_argument("--rps", type=per_second, required=True, metavar="N", help="requests per second, all")
    parser.add_argument("--at", metavar="STAGE", help="only this stage, by default all that are held")
    parser.add_argument("--runs", type=count, default=1000, metavar="N", help="by default 1000")
    parser.add_argument("--seed", type=revision, default=1, metavar="N", help="of the draws, by default 1")


def export_format(parser: Parser) -> None:
    """Say how to write the flags down."""
    parser.add_argument(
        "--format", required=True, choices=("flagd", "json"), help="who is to read it; json: our own"
    )


def shell(parser: Parser) -> None:
    """Name a shell."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
