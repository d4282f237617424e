"""Asks a running gateway on behalf of a command, and turns its refusals into the command's own errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wicketgate.cli import control
from wicketgate.errors import (
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UnreachableError,
    WicketgateError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wicketgate.cli.place import Place

_KINDS: tuple[type[WicketgateError], ...] = (
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)


def ask(
    place: Place,
    method: str,
    target: str,
    body: Mapping[str, object] | None = None,
    *,
    timeout_s: float,
) -> dict[str, Any]:
    """
    Ask the gateway; the arguments are those of `control.request`.

    Raises:
        UnreachableError: no gateway runs there.
        TimedOutError: it did not answer in time.
        WicketgateError: it refused; the class is the one that its status stands for.
    """
    try:
        status, answer = control.request(place.socket, method, target, body, timeout_s=timeout_s)
    except UnreachableError as error:
        raise UnreachableError(error.message, fix="Start one: wicketgate serve") from error
    if status == 200:
        return answer
    refusal = answer.get("error")
    said: dict[str, Any] = refusal if isinstance(refusal, dict) else {}
    message = str(said.get("message", f"the gateway answered {status}"))
    kind = next((each for each in _KINDS if each.status == status), WicketgateError)
    raise kind(message, code=str(said["code"]) if "code" in said else None)
