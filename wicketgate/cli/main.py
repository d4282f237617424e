"""The command `wicketgate`: finds what is called, parses its options, calls it, tells what went wrong."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from wicketgate.cli.command import GROUPS
from wicketgate.cli.commands import COMMANDS
from wicketgate.cli.commands_rollout import ALIASES
from wicketgate.cli.output import Screen, print_json
from wicketgate.errors import ExitCode, UsageError, WicketgateError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Sequence

_TITLE = "wicketgate  a governed, flagged, monitored runtime for language models on MLX"
SERVING = ("serve", "demo")
"""The commands that are a gateway."""
COMPLETE = "__complete"
"""What the completion scripts call; no command, for its arguments are anything."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line of this process and leave with its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in SERVING:
        _serve(words)
    _open_closed_streams()
    sys.exit(run(words))


def _serve(words: Sequence[str]) -> NoReturn:
    """Run a gateway: SIGTERM ends it quietly from the first moment on, and nothing delays its end."""
    import signal

    # Until the gateway listens for signals itself there is nothing to finish, and no child.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(ExitCode.DONE))
    _open_closed_streams()
    code = run(words)
    sys.stderr.flush()
    # What the interpreter does at its end, which is to free object by object, takes 0.2 s and more.
    os._exit(code)


def run(argv: Sequence[str]) -> int:
    """
    Run one command line.

    Returns:
        The exit code; see `ExitCode`.
    """
    try:
        code = _run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # What is still in the buffer must not be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.PIPE_CLOSED
    return code


def _open_closed_streams() -> None:
    """Open what the caller closed (`>&-`), or the first socket gets its number and what is printed to it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _run(argv: Sequence[str]) -> int:
    try:
        return _dispatch(argv)
    except WicketgateError as error:
        return _tell(error, argv)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001 - the top of the process: --json must hold even for our own faults
        import traceback

        traceback.print_exc()
        return _tell(WicketgateError(f"{type(error).__name__}: {error}", fix="report this, please"), argv)


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return ExitCode.DONE
    if argv[0] == "--version":
        print(f"wicketgate {_version()}")
        return ExitCode.DONE
    if argv[0] == COMPLETE:
        from wicketgate.cli.completion import complete

        print("\n".join(complete(argv[1:])))
        return ExitCode.DONE
    name, rest = _command(argv)
    if name not in COMMANDS:
        print(_help(under=name))
        return ExitCode.DONE
    args = _options(name, rest)
    return ExitCode.DONE if args is None else _call(COMMANDS[name].handler, args)


def _command(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Find the words of the command; alone, the first of two words asks for help on it."""
    first = argv[0]
    if first.startswith("-"):
        raise UsageError(
            f"options stand after the command, and {first} is before it", fix="wicketgate --help"
        )
    if first in COMMANDS:
        return first, argv[1:]
    seconds = [each.split()[1] for each in COMMANDS if each.startswith(f"{first} ")]
    if not seconds:
        known = dict.fromkeys(each.split()[0] for each in COMMANDS)
        raise UsageError(f"no command named {first}.{_near(first, known)}", fix="wicketgate --help")
    if len(argv) == 1 or argv[1] in ("-h", "--help"):
        return first, ()
    if argv[1].startswith("-"):
        raise UsageError(f"{first} needs a command before {argv[1]}", fix=f"wicketgate {first} --help")
    words = f"{first} {argv[1]}"
    if words in ALIASES:
        return ALIASES[words], argv[2:]
    if argv[1] not in seconds:
        fix = f"wicketgate {first} --help"
        raise UsageError(f"no command named {first} {argv[1]}.{_near(argv[1], seconds)}", fix=fix)
    return words, argv[2:]


def _options(name: str, words: Sequence[str]) -> Namespace | None:
    """Parse a command's options; None where help was asked for, and given."""
    parser = COMMANDS[name].parser(name)
    if "-h" in words or "--help" in words:
        print(parser.format_help().rstrip())
        return None
    args, unknown = parser.parse_known_args(words)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        what = "option" if unknown[0].startswith("-") else "argument"
        near = _near(unknown[0].partition("=")[0], options) if what == "option" else ""
        raise UsageError(f"{name} takes no {what} {unknown[0]}.{near}", fix=f"{parser.prog} --help")
    return args


def _call(handler: str, args: Namespace) -> int:
    from importlib import import_module

    module, _, function = handler.partition(":")
    return int(getattr(import_module(module), function)(args))


def _version() -> str:
    """Return the distribution's version: by its folder's name if possible, which is ten times as quick."""
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")  # noqa: PTH208 - pathlib costs more than the rest of the command
        except OSError:
            continue
        for name in names:
            if name.startswith("wicketgate-") and name.endswith(".dist-info"):
                return name.removeprefix("wicketgate-").removesuffix(".dist-info")
    from importlib.metadata import version

    return version("wicketgate")


def _near(word: str, known: Iterable[str]) -> str:
    from rollout.spec import did_you_mean

    return did_you_mean(word, known)


def _help(*, under: str | None = None) -> str:
    """Write the help of the whole command, or of the commands that begin with one word."""
    prefix = "" if under is None else f"{under} "
    lines = [_TITLE, "", f"usage: wicketgate {prefix}COMMAND [OPTIONS]", ""]
    for group in GROUPS:
        heading: str = group
        for words, command in COMMANDS.items():
            if command.group == group and words.startswith(prefix):
                lines.append(f"{heading:<6}  {command.shown or words:<29} {command.summary}")
                heading = ""
    lines += ["", "F is the name of a feature. Every command takes --help and --json."]
    if under is None:
        examples = ("wicketgate demo", "wicketgate status", "wicketgate rollout status")
        lines += ["", "examples:", *(f"  {each}" for each in examples), "", "--version prints the version."]
    return "\n".join(lines)


def _tell(error: WicketgateError, argv: Sequence[str]) -> int:
    """Tell what went wrong: on stderr, or as the one object of --json."""
    if "--json" in argv:
        fault = next(iter(getattr(error, "faults", ())), None)
        where = {key: getattr(fault, key, None) for key in ("file", "line", "column", "key")}
        details = {"message": error.message, "fix": error.fix, "exit": int(error.exit_code), "where": where}
        print_json({"schema": "wicketgate.error/1", "ok": False, "error": details})
        return error.exit_code
    screen = Screen(color="never" if "--color=never" in argv else None)
    if hasattr(error, "faults"):
        screen.note(error.message)
        return error.exit_code
    screen.note(f"{screen.paint('error:', 'bad', to_stderr=True)} {error.message}")
    if error.fix:
        screen.note(f"  {screen.paint(error.fix, 'accent', to_stderr=True)}")
    return error.exit_code
