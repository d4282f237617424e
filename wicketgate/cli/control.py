"""Asks a running gateway over its control socket: one HTTP/1.1 request, with `socket` and `json` alone."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

from wicketgate.errors import TimedOutError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAX_ANSWER_BYTES = 8 << 20


def is_alive(path: Path, *, timeout_s: float = 0.1) -> bool:
    """Tell whether somebody listens at a socket, busy or not."""
    try:
        _connect(path, timeout_s=timeout_s).close()
    except UnreachableError:
        return False
    except TimedOutError:
        return True
    return True


def request(
    path: Path,
    method: str,
    target: str,
    body: Mapping[str, object] | None = None,
    *,
    timeout_s: float,
) -> tuple[int, dict[str, Any]]:
    """
    Ask the gateway, and wait for its whole answer.

    Args:
        path: The control socket.
        method: GET or POST.
        target: The path of the endpoint.
        body: Sent as JSON.
        timeout_s: For connecting, asking and answering together.

    Returns:
        The status, and the JSON object.

    Raises:
        UnreachableError: nobody listens there, or what answers is no gateway.
        TimedOutError: somebody listens and did not answer in time.
    """
    deadline_s = time.monotonic() + timeout_s
    content = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    with _connect(path, timeout_s=timeout_s) as connection:
        try:
            connection.sendall(head.encode("ascii") + content)
            answer = _read(connection, deadline_s=deadline_s)
        except TimeoutError as error:
            raise TimedOutError(f"the gateway at {path} did not answer in {timeout_s:g} s") from error
        except OSError as error:
            raise UnreachableError(f"the gateway at {path} closed the connection: {error}") from error
    return _parse(answer, path)


def _connect(path: Path, *, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(str(path))
    except (BlockingIOError, TimeoutError) as error:  # its queue of connections is full
        connection.close()
        raise TimedOutError(f"the gateway at {path} takes no connection") from error
    except OSError as error:
        connection.close()
        raise UnreachableError(f"no gateway is running at {path.parent}") from error
    return connection


def _read(connection: socket.socket, *, deadline_s: float) -> bytes:
    """Read until the other side closes or the body is as long as was announced."""
    answer = b""
    while len(answer) < _MAX_ANSWER_BYTES and not _is_whole(answer):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        part = connection.recv(65_536)
        if not part:
            break
        answer += part
    return answer


def _is_whole(answer: bytes) -> bool:
    head, found, content = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return len(content) >= int(value)
    return False


def _parse(answer: bytes, path: Path) -> tuple[int, dict[str, Any]]:
    head, _, content = answer.partition(b"\r\n\r\n")
    try:
        status = int(head.split(b" ", 2)[1])
        document = json.loads(content)
    except (IndexError, ValueError) as error:
        raise UnreachableError(f"what answers at {path} is no gateway") from error
    if not isinstance(document, dict):
        raise UnreachableError(f"what answers at {path} is no gateway")
    return status, document
