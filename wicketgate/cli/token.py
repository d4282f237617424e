"""`wicketgate token`: makes an API key, shows it once, and keeps its hash only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from wicketgate.cli.output import Screen, print_json
from wicketgate.errors import ConfigurationError, ExitCode, UsageError

if TYPE_CHECKING:
    from argparse import Namespace


def run(args: Namespace) -> int:
    """Make a key, and write its line where --add says."""
    from wicketgate.api.key_file import key_line, new_key
    from wicketgate.api.keys import Role

    screen = Screen.of(args)
    secret = new_key()
    line = key_line(args.name, Role(args.role), secret)
    file = None if args.add is None else Path(args.add)
    if file is not None:
        _append(file, line, name=args.name)
    if args.json:
        document = {"schema": "wicketgate.token/1", "ok": True, "key": secret, "line": line}
        print_json({**document, "file": None if file is None else str(file)})
        return ExitCode.DONE
    screen.out(secret)
    if file is None:
        screen.note(f"Shown once. Its line for security.api_keys_file:\n{line}")
    else:
        screen.note(f"Shown once. Its hash is in {file}; a running gateway takes it up within seconds.")
    return ExitCode.DONE


def _append(file: Path, line: str, *, name: str) -> None:
    """
    Add a line to the file of keys, which is made where there is none.

    Raises:
        UsageError: the name has a key already.
        ConfigurationError: the file cannot be read or written.
    """
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        if any(each.split()[:1] == [name] for each in before.splitlines()):
            raise UsageError(f"{name} has a key in {file}; strike it out first, or choose another name")
        separator = "" if before.endswith("\n") or not before else "\n"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as stream:
            stream.write(f"{separator}{line}\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(f"cannot add a key to {file}: {reason}") from error
