"""The folder that one runtime keeps its state in: made private, locked by the process that uses it."""

from __future__ import annotations

import fcntl
import os
import secrets
from typing import TYPE_CHECKING

from wicketgate.errors import ConfigurationError, RefusedError
from wicketgate.platform import control_socket_path

if TYPE_CHECKING:
    from pathlib import Path


class StateFolder:
    """
    An open state folder. One runtime at a time holds it: the lock on its pid file ends with the process.

    Args:
        path: The folder; made with mode 0700 where it does not exist.

    Raises:
        RefusedError: another runtime holds it.
        ConfigurationError: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            self._pid_file = (path / "pid").open("a+", encoding="ascii")
        except OSError as error:
            raise ConfigurationError(
                f"state_dir is {path}, which cannot be used: {error.strerror}. Choose another with"
                " --state-dir or state_dir."
            ) from error
        try:
            fcntl.flock(self._pid_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._pid_file.seek(0)
            pid = self._pid_file.read().strip()
            self._pid_file.close()
            raise RefusedError(
                f"another runtime (pid {pid}) uses {path}. Stop it, or give this one a name or a --state-dir"
                " of its own."
            ) from error
        self._pid_file.truncate(0)
        self._pid_file.write(str(os.getpid()))
        self._pid_file.flush()

    @property
    def ledger(self) -> Path:
        """Where flag state and audit are kept."""
        return self.path / "ledger.db"

    @property
    def control_socket(self) -> Path:
        """Where the admin application listens for this machine's user."""
        return control_socket_path(self.path)

    def forget_ledger(self) -> None:
        """Begin with an empty ledger, as the demo does."""
        for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
            (self.path / name).unlink(missing_ok=True)

    def admin_token(self) -> str:
        """Return the token for changes over TCP; made once, mode 0600."""
        file = self.path / "admin.token"
        try:
            return file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            if not isinstance(error, FileNotFoundError):
                raise ConfigurationError(
                    f"{file} cannot be read as a token: {error}. Remove it, and a new one is made."
                ) from None
            token = f"wg-{secrets.token_hex(16)}"
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as out:
                out.write(token + "\n")
            return token

    def close(self) -> None:
        """Let the folder go."""
        self._pid_file.close()
