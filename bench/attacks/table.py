"""The table of attacks (pure): what was measured, beside what others did before there was an edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.statistics import quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_MS: Final = 30.0
MOST_TIMES: Final = 5.0
MOST_GROWTH_BYTES: Final = 5 * 2**20

BEFORE: Final[dict[str, tuple[str, str]]] = {
    "rapid reset": ("1,118, closed after 1.1 s", "14-27, closed at 200"),
    "made-you-reset by window overflow": ("143", "21"),
    "CONTINUATION flood, big": ("closed", "closed"),
    "CONTINUATION flood, empty": ("closed", "closed"),
    "HPACK bomb": ("closed", "closed"),
    "requests with 60 KB of headers": ("55, 2 s of CPU", "refused"),
    "PING flood": ("955", "2.4, closed at 400"),
    "PING flood, never reading": ("571", "2.3"),
    "SETTINGS flood": ("1,640", "9"),
    "SETTINGS flood, never reading": ("1,810", "3"),
    "PRIORITY flood": ("20, closed", "4.6, closed"),
    "empty DATA flood": ("72", "3.3, closed"),
    "WINDOW_UPDATE flood": ("745", "4.5, closed"),
    "zero window, 20 big answers": ("11, +1,228 MB", "3.3, +0.5 MB"),
    "1-byte windows": ("214, +453 MB", "4.8, closed"),
    "headers never finished": ("half still open", ""),
    "endless body": ("accepts without end", "RST at the cap"),
    "150 streams against a limit of 100": ("whole connection closed", "50 refused"),
    "1,500 requests beside a long stream": ("long stream cut at 1,000", "continues"),
}
"""
The neighbour's p99 in ms and what became of the attacker: stock hypercorn, and hypercorn with budgets.

Source: measurements that led to this edge, on another day (loopback, 2 cores, Python 3.11).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One attack on one server."""

    name: str
    server: str
    idle_ms: list[float]
    """The neighbour's answers before the attack; at least one."""
    beside_ms: list[float]
    """And during it, those still waited for included; at least one."""
    failures: int
    """Of the neighbour's requests."""
    growth_bytes: int
    longest_turn_s: float
    cpu_s: float
    text: str
    is_fine: bool
    """The attacker ended as it should."""

    @property
    def bar_ms(self) -> float:
        """What the neighbour's p99 may be."""
        return max(MOST_MS, MOST_TIMES * quantile(self.idle_ms, 0.99))

    @property
    def is_held(self) -> bool:
        """Whether everything is within its bar."""
        is_quick = quantile(self.beside_ms, 0.99) <= self.bar_ms
        is_small = self.growth_bytes <= MOST_GROWTH_BYTES
        return self.is_fine and is_quick and is_small and not self.failures


HEADINGS: Final = (
    "attack", "server", "idle p99 ms", "p99 ms", "max ms", "bar ms", "MB", "turn ms", "CPU s", "lost",
    "became of it", "held", "hypercorn before", "hardened before",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """Write a row."""
    hypercorn, hardened = BEFORE.get(row.name, ("", ""))
    return (
        row.name,
        row.server,
        f"{quantile(row.idle_ms, 0.99):.1f}",
        f"{quantile(row.beside_ms, 0.99):.1f}",
        f"{max(row.beside_ms):.1f}",
        f"{row.bar_ms:.0f}",
        f"{row.growth_bytes / 2**20:+.1f}",
        f"{row.longest_turn_s * 1e3:.0f}",
        f"{row.cpu_s:.2f}",
        str(row.failures),
        row.text,
        "yes" if row.is_held else "NO",
        hypercorn,
        hardened,
    )


def markdown(rows: Sequence[Row]) -> str:
    """Write the table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
