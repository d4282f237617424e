"""All attacks by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.attacks import floods, http1, http2

if TYPE_CHECKING:
    from bench.attacks.seen import Attack

ATTACKS: Final[dict[str, Attack]] = {
    **{name: floods.attack(name) for name in floods.FLOODS},
    **http2.ATTACKS,
    **http1.ATTACKS,
}
