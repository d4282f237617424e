"""Logging: one JSON object a line, constant event names, values in fields, never prompt or answer text."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from wicketgate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: at, level, event, logger, then the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


REQUESTS = "wicketgate.requests"
"""Name of the logger that writes one line for each request that ended."""


@contextmanager
def written(*, level: str, file: Path | None = None, requests_file: Path | None = None) -> Iterator[None]:
    """
    Write this process's logs as JSON lines while the block runs.

    Args:
        level: debug, info, warning or error.
        file: Where all goes, created with mode 0600; None writes to stderr.
        requests_file: Where the lines of requests go instead.
    """
    root, requests = logging.getLogger(), logging.getLogger(REQUESTS)
    with ExitStack() as stack:
        stack.callback(root.setLevel, root.level)
        root.setLevel(level.upper())
        stack.enter_context(_handled(root, file))
        if requests_file is not None:
            stack.enter_context(_handled(requests, requests_file))
            requests.propagate = False
            stack.callback(_propagate, requests)
        yield


def _propagate(logger: logging.Logger) -> None:
    logger.propagate = True


@contextmanager
def _handled(logger: logging.Logger, file: Path | None) -> Iterator[None]:
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            file.touch(mode=0o600, exist_ok=True)
            handler = logging.FileHandler(file, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"cannot write the log {file}: {error.strerror}; choose another file",
                param="logs.requests_file",
            ) from None
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
