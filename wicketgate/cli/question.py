"""Asks before a share is raised against the evidence; `--yes` answers, and nobody to ask is a refusal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from wicketgate.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace


def confirm_with_user(args: Namespace, question: str) -> None:
    """
    Ask; the default is no.

    Raises:
        UsageError: there is nobody to ask.
        RefusedError: answered no.
    """
    if args.yes:
        return
    if args.json or not sys.stdin.isatty():
        raise UsageError(
            f"this asks first, and there is nobody to ask: {question}",
            fix="Pass --yes to answer yes. Nothing was done.",
            param="--yes",
        )
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RefusedError("answered no. Nothing was done.")
