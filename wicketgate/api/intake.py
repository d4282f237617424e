"""A request's body as every API takes it: unpacked within a bound, of a content type that we read, JSON."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from wicketgate.api.fields import read_object, unknown_names
from wicketgate.api.requests import Arrival, longest_context
from wicketgate.api.value_count import MAX_NAMES, ValueCount, parts_of
from wicketgate.errors import (
    InvalidRequestError,
    OverloadedError,
    PayloadTooLargeError,
    UnsupportedEncodingError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange, Headers

FORM_TYPE: Final = "application/x-www-form-urlencoded"
"""What curl calls a body when it is not told."""
_PACKED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_ANY_HEADER: Final = zlib.MAX_WBITS | 32
"""zlib looks for itself which of the two it is."""
_PIECE_BYTES: Final = 256 * 1024
"""Unpacked at once: less than a millisecond (Linux CPU), then others have a turn."""
INLINE_BYTES: Final = 32 * 1024
"""What a longer body means is found out beside the event loop; of this one it takes 5 ms (Linux CPU)."""

TURN_S: Final = 30.0
"""So long a long body waits until those before it are understood: each takes up to a second (Linux CPU)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What came."""

    fields: dict[str, Any]
    """Of the body, those that are not null."""
    size_bytes: int
    """Of the body, unpacked."""
    arrival: Arrival


async def read_intake(exchange: Exchange, backend: Backend, *, most_ids: int = 0) -> Intake:
    """
    Read a request's body.

    Args:
        exchange: Whose body it is.
        backend: Knows the models.
        most_ids: So many token ids may be sent, where that is more than the longest context.

    Raises:
        InvalidRequestError: it is no JSON object, of too many values, or of another content type.
        UnsupportedEncodingError: it is packed in a way that we do not know.
        PayloadTooLargeError: it is too long, or would be once unpacked.
        BodyTimeoutError: it came too slowly.
        ClientGoneError: it broke off.
    """
    data = await exchange.read_body()
    arrival = Arrival(
        id=exchange.request_id,
        arrived_s=backend.clock(),
        session=exchange.header("x-session-id"),
        client=exchange.client,
        connection=exchange.connection,
    )
    encoding = (exchange.header("content-encoding") or "identity").strip().lower()
    if encoding in _PACKED:
        data = await unpacked(data, max_bytes=exchange.limit.max_bytes)
    elif encoding != "identity":
        raise UnsupportedEncodingError(
            f"content-encoding must be gzip, deflate or identity, got {encoding[:40]}"
        )
    kind = (exchange.header("content-type") or "").partition(";")[0].strip().lower()
    # A page of another origin can send these without being asked (no preflight): never for it.
    is_plain_curl = kind in {"", FORM_TYPE} and exchange.header("origin") is None
    if not is_plain_curl and kind != "application/json":
        raise InvalidRequestError(
            f"content-type must be application/json, got {kind[:40] or 'none'}",
            code="unsupported_content_type",
        )
    if len(data) > MAX_NAMES:
        await count_values(data, most_ids=max(longest_context(backend.models()), most_ids))
    return Intake(fields=read_object(data), size_bytes=len(data), arrival=arrival)


async def count_values(data: bytes, *, most_ids: int) -> None:
    """
    Count what would be made of a JSON text; others have their turns meanwhile.

    Raises:
        InvalidRequestError: it is more than a body may hold.
    """
    count = ValueCount(most_ids=most_ids)
    for part in parts_of(data):
        count.add(part)
        await asyncio.sleep(0)


async def beside(backend: Backend, intake: Intake, work: Callable[[], T], *, turn_s: float = TURN_S) -> T:
    """
    Find out what a body means; of a long one on a thread, where others have a turn every few milliseconds.

    Args:
        backend: Has one such thread: each more would take turns too.
        intake: The body.
        work: Finds out, and touches nothing else.
        turn_s: So long it may take, those before it counted.

    Raises:
        InvalidRequestError: as `work` does.
        OverloadedError: too many long bodies came before it.
    """
    if intake.size_bytes <= INLINE_BYTES:
        return work()
    # Who is cancelled leaves the line; work that has begun goes on, and the next waits for it all the same.
    try:
        async with asyncio.timeout(turn_s):
            return await asyncio.get_running_loop().run_in_executor(backend.reading, work)
    except TimeoutError:
        raise OverloadedError(
            f"the body was not read within {turn_s:g} s: too many of more than {INLINE_BYTES} bytes came"
            " before it; try again later",
            retry_after_s=turn_s,
        ) from None


async def unpacked(data: bytes, *, max_bytes: int) -> bytes:
    """
    Unpack gzip or zlib, never more than is allowed however little came.

    Raises:
        PayloadTooLargeError: it would be longer.
        InvalidRequestError: it is neither, broken, or goes on behind its end.
    """
    unpacker = zlib.decompressobj(_ANY_HEADER)
    parts: list[bytes] = []
    unpacked_bytes = 0
    try:
        while not unpacker.eof:
            parts.append(unpacker.decompress(data, _PIECE_BYTES))
            data = unpacker.unconsumed_tail
            if not parts[-1] and not data:
                raise _broken()
            unpacked_bytes += len(parts[-1])
            if unpacked_bytes > max_bytes:
                raise PayloadTooLargeError(
                    f"the unpacked body must be at most {max_bytes} bytes (server.max_body_bytes)"
                )
            await asyncio.sleep(0)
    except zlib.error:
        raise _broken() from None
    if unpacker.unused_data:
        raise _broken()
    return b"".join(parts)


def _broken() -> InvalidRequestError:
    return InvalidRequestError(
        "the body must be what content-encoding says: one whole gzip or zlib stream",
        code="invalid_content_encoding",
    )


def ignored_headers(fields: Mapping[str, Any], known: Collection[str], *, refuses: bool) -> Headers:
    """
    Name the fields that nobody knows in a header of the answer.

    Args:
        fields: Of the body.
        known: Names that the API has.
        refuses: Refuse them all (`ApiSettings.refuses_unknown_fields`), not only those that look misspelt.

    Raises:
        InvalidRequestError: one looks like a known name, or any is there and `refuses`.
    """
    names = unknown_names(fields, known, refuses=refuses)
    return ((b"x-wicketgate-ignored", ", ".join(names).encode()),) if names else ()
