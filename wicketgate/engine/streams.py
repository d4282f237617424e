"""The streams of an engine host as its scheduler and its step loop know them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from wicketgate.engine.kv.cache import Fetch
    from wicketgate.engine.kv.store import Hit, Prefix
    from wicketgate.engine.wire import Submit


@dataclass(slots=True, eq=False)
class Stream:
    """One stream from its arrival to its end."""

    message: Submit
    """What is asked for; after an interruption, the request that goes on behind what was emitted."""
    arrived_s: float
    remaining_tokens: int
    """Prompt tokens still to compute; of a stream that waits, an estimate."""
    trial_tokens: int = 0
    """So many tokens it must emit with nobody beside it, before it counts as harmless."""
    due_s: float = math.inf
    """When it may be overtaken no longer."""
    emitted: list[int] = field(default_factory=list)
    """Tokens since `message`."""
    held: Prefix | None = None
    """KV of a stream that gave way."""
    fetch: Fetch | None = None
    """KV on its way from disk."""
    fetch_until_s: float = math.inf
    """When it is waited for no longer."""
    fetched: bool = False
    """Whether the disk was asked; it is asked once."""
    loaded: Hit[object] | None = None
    """What came from disk."""
    started: bool = False
    """Whether the gateway was told that it started."""
    saved_tokens: int = 0
    """Of its prompt, already in the prefix store."""
    preempted: bool = False
    """Whether it ever gave way."""
    faults: int = 0
    """Failures of the engine that it was part of."""

    @property
    def id(self) -> int:
        """The id of its request."""
        return self.message.id

    @property
    def priority(self) -> int:
        """Its class of service; lower ones go first."""
        return self.message.priority

    @property
    def context_tokens(self) -> int:
        """How many prompt tokens have KV."""
        return len(self.message.prompt) - self.remaining_tokens

    @property
    def kv_tokens(self) -> int:
        """How many tokens have KV."""
        return len(self.message.prompt) - self.remaining_tokens + len(self.emitted)

    def rewind(self, held: Prefix | None) -> None:
        """Leave the batch with the KV that it had there; the request is now what goes on after its tokens."""
        old, emitted = self.message, self.emitted
        if emitted:
            self.message = msgspec.structs.replace(
                old,
                prompt=[*old.prompt, *emitted],
                prompt_tokens=len(old.prompt) - old.position,
                max_tokens=old.max_tokens - len(emitted),
                position=old.position + len(emitted),
            )
            self.emitted = []
        self.held = held
        self.saved_tokens = 0
        self.remaining_tokens = len(self.message.prompt) - self.held_tokens

    @property
    def held_tokens(self) -> int:
        """How many tokens of the prompt it need not compute again; at least the last one always is."""
        return 0 if self.held is None else min(len(self.held.tokens), len(self.message.prompt) - 1)
