"""
Connections that have not said yet what they speak (pure): how many are looked after at once.

Theory of operation: a TLS handshake costs some 70 KB until it ends, and one that never ends costs its client
nothing. So there are so many places, in all and for one address; whoever comes later waits in line, as a
socket that nobody has read. A place is free again when its handshake is done (in clear text: when its first
bytes say HTTP/1.1, or HTTP/2's preface is whole) or when its connection has gone; and when it was kept for
`stay_s` and somebody waits for it: then the oldest is put out. A connection that speaks and asks nothing has
no place, so that a client may open all its connections before it asks on the first; it costs no more than
one that has asked for a path that nobody serves, and is bounded as that is, by `connections_per_address`.

Neither of the simpler rules would do. To refuse the newest lets a stranger shut out everybody behind its
address, by a few connections that are silent. To put out the oldest at once lets it shut out those whose
network is slow, and hits clients that come in hundreds: a pool of connections that starts, an office behind
one address. Here they wait for a handshake or two, and behind a stranger's silent ones for `stay_s` for as
many of them as there are places: 40 s behind a thousand of their own address. Addresses take turns, so that a
long line of one holds up no other.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Guest = TypeVar("Guest", bound=Hashable)
"""Whatever stands for a connection."""

STAY_S: Final = 2.0
"""Two round trips of a second: so many take TLS 1.2 handshakes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewcomerParams:
    """How many connections may be there that have not said what they speak, and how many of one address."""

    most: int = 512
    """Places."""
    most_per_address: int = 48
    """Of them, for one address; 0 is all. Some 70 KB each while TLS is agreed upon: 3.4 MB."""
    stay_s: float = STAY_S
    """For so long a place is kept, whoever waits for it."""
    connections_per_address: int = 1024
    """Connections of one address, those that wait included; 0 is no bound."""

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most must be at least 1, got {self.most}")
        for name in ("most_per_address", "stay_s", "connections_per_address"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted(Generic[Guest]):
    """It has a place."""

    guest: Guest


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOut(Generic[Guest]):
    """It has lost its place to one that waited, and must be closed."""

    guest: Guest


class _Address(Generic[Guest]):
    __slots__ = ("inside", "line", "name")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.inside: dict[Guest, float] = {}
        """Since when; the oldest first."""
        self.line: dict[Guest, None] = {}


class Newcomers(Generic[Guest]):
    """
    Who has a place, and who waits for one.

    Args:
        params: How many there are.
    """

    def __init__(self, params: NewcomerParams) -> None:
        self._params = params
        self._inside: dict[Guest, float] = {}
        """Since when; the oldest first."""
        self._addresses: dict[bytes, _Address[Guest]] = {}
        self._of: dict[Guest, _Address[Guest]] = {}
        self._lines: dict[bytes, _Address[Guest]] = {}
        """Addresses of which somebody waits; whose turn it is comes first."""
        self.deadline_s = inf
        """When `advance` has something to do."""

    def arrive(self, guest: Guest, *, address: bytes) -> None:
        """Note a connection; `admit` and `advance` say when it has a place."""
        found = self._addresses.get(address)
        if found is None:
            found = self._addresses[address] = _Address(address)
        found.line[guest] = None
        self._of[guest] = found
        self._lines.setdefault(address, found)

    def leave(self, guest: Guest) -> None:
        """Note one that is known, or has gone; of one that is not here nothing is noted."""
        address = self._of.pop(guest, None)
        if address is None:
            return
        self._inside.pop(guest, None)
        address.inside.pop(guest, None)
        address.line.pop(guest, None)
        if not address.line:
            self._lines.pop(address.name, None)
            if not address.inside:
                del self._addresses[address.name]

    def admit(self, *, now_s: float) -> list[Admitted[Guest] | PutOut[Guest]]:
        """Let in those for whom there is a place."""
        return self._let_in(-inf, now_s)

    def advance(self, *, now_s: float) -> list[Admitted[Guest] | PutOut[Guest]]:
        """Let in those for whom there is a place, and put out for others who kept theirs for too long."""
        return self._let_in(now_s - self._params.stay_s, now_s)

    def _let_in(self, put_out_s: float, now_s: float) -> list[Admitted[Guest] | PutOut[Guest]]:
        """
        Let in whom there is a place for.

        Args:
            put_out_s: Who has had a place since then, or for longer, gives way.
            now_s: The time.
        """
        happened: list[Admitted[Guest] | PutOut[Guest]] = []
        self.deadline_s = inf
        while (found := self._next(put_out_s)) is not None:
            address, rival = found
            if rival is not None:
                self.leave(rival)
                happened.append(PutOut(guest=rival))
            guest = next(iter(address.line))
            self._place(guest, address, now_s)
            happened.append(Admitted(guest=guest))
        return happened

    def _next(self, put_out_s: float) -> tuple[_Address[Guest], Guest | None] | None:
        """Find the address whose turn it is, and who has to give way to it."""
        is_full = len(self._inside) >= self._params.most
        if self._lines and is_full and not self._gives_way(self._inside, put_out_s):
            return None  # the oldest of all may stay, and so may all others
        for address in self._lines.values():
            rivals = self._rivals(address)
            if rivals is None:
                return address, None
            if self._gives_way(rivals, put_out_s):
                return address, next(iter(rivals))
        return None

    def _rivals(self, address: _Address[Guest]) -> Mapping[Guest, float] | None:
        """Return those of whom one must go before the address has another place; None where it has one."""
        most = self._params.most_per_address
        if most and len(address.inside) >= most:
            return address.inside
        return self._inside if len(self._inside) >= self._params.most else None

    def _gives_way(self, rivals: Mapping[Guest, float], put_out_s: float) -> bool:
        """Say whether the oldest of them must go, and remember when it will have to."""
        since_s = next(iter(rivals.values()))
        if since_s > put_out_s:
            self.deadline_s = min(self.deadline_s, since_s + self._params.stay_s)
        return since_s <= put_out_s

    def _place(self, guest: Guest, address: _Address[Guest], now_s: float) -> None:
        del address.line[guest]
        address.inside[guest] = self._inside[guest] = now_s
        del self._lines[address.name]
        if address.line:
            self._lines[address.name] = address
