"""A connection from its acceptance to its end, whatever has become of it meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    import socket


class Live(Protocol):
    """A connection that somebody looks after."""

    @property
    def open_streams(self) -> int:
        """How many requests are not answered to their end."""

    def drain(self) -> None:
        """Take nothing new, and end what is begun."""

    def abort(self) -> None:
        """End everything now."""


class Guest:
    """
    A connection.

    Args:
        accepted: Its socket.
        client: Address and port; None on a Unix socket. A proxy may say that it is another.
    """

    __slots__ = ("address", "client", "connection", "greeting", "is_taken", "socket", "turn")

    def __init__(self, accepted: socket.socket, client: tuple[str, int] | None) -> None:
        self.socket = accepted
        self.client = client
        self.address: bytes | None = None
        """What it is bounded by; None where nothing bounds it."""
        self.greeting: asyncio.Task[None] | None = None
        """Finds out who it is and what it speaks; then it is over."""
        self.turn: asyncio.Future[None] | None = None
        """What it waits for while there is no place for it."""
        self.is_taken = False
        """Somebody else closes the socket."""
        self.connection: Live | None = None

    def drain(self) -> None:
        """End it, or let it end what it does."""
        if self.connection is not None:
            self.connection.drain()
        else:
            self.abort()

    def abort(self) -> None:
        """End it now."""
        if self.connection is not None:
            self.connection.abort()
        elif self.greeting is not None:
            self.greeting.cancel()
