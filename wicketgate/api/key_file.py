"""
The file of API keys: followed while the runtime runs, and how to write a line of it.

A file that cannot be used changes nothing: whoever could ask still can, nobody else may, and it is logged
once. So a key that was struck out of it keeps its access until the file is right again.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from typing import TYPE_CHECKING, Final

from wicketgate.api.keys import LIMITS, Keys, Role
from wicketgate.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)

PREFIX: Final = "wg_"
"""Begins every key that we make, so that tools which look for leaked secrets find it."""
_ID: Final = re.compile(r"[^\s#]\S{0,127}\Z")


class KeyFile:
    """
    Follows a file.

    A change is taken up when the file has stood still from one `poll` to the next: what an editor has
    written half is not the file.

    Args:
        path: Where it is.

    Raises:
        ConfigurationError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._last = self._signature()
        self._keys = Keys.load(path)

    @property
    def keys(self) -> Keys:
        """Who may ask now."""
        return self._keys

    def poll(self) -> bool | None:
        """
        Look whether the file has changed; call it about once a second.

        Returns:
            Whether what was read could be used; None where there was nothing new to read.
        """
        signature = self._signature()
        is_settled = signature == self._last
        self._last = signature
        if not is_settled or signature == self._read:
            return None
        self._read = signature
        try:
            self._keys = Keys.load(self._path)
        except ConfigurationError as error:
            _log.error("api_keys_refused", extra={"reason": error.message})
            return False
        _log.info("api_keys_loaded", extra={"count": len(self._keys)})
        return True

    def _signature(self) -> tuple[int, ...] | None:
        """Tell one state of the file from another; None where there is no file."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        # The mode too: chmod is the fix for one of the faults.
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode


def new_key() -> str:
    """Return a new key of 256 random bits; it is told once, and never stored."""
    return PREFIX + secrets.token_urlsafe(32)


def key_line(key_id: str, role: Role, secret: str, *, limits: Mapping[str, int | None] | None = None) -> str:
    """
    Return the line of the file for a key.

    Args:
        key_id: Whose it is, in logs and in reports.
        role: What it may do.
        secret: The key itself; the line holds its hash.
        limits: Its own, by the names of `security.per_key`; None is no limit.

    Raises:
        UsageError: the id or a limit cannot stand in a line.
    """
    if not _ID.match(key_id):
        raise UsageError("an id must be 1 to 128 characters without spaces, and not begin with #")
    for name, value in (limits or {}).items():
        if name not in LIMITS or (value is not None and value < 1):
            raise UsageError(f"{name} must be one of {', '.join(LIMITS)}, and at least 1, got {value}")
    fields = [f"{name}={'none' if value is None else value}" for name, value in (limits or {}).items()]
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return " ".join((key_id, role, digest, *fields))
