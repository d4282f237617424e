"""What a step of the engine host has to tell its gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wicketgate.engine.wire import Done, Load, Part, Started, Step, Token

if TYPE_CHECKING:
    from wicketgate.engine.kv.cache import KvCache
    from wicketgate.engine.kv.store import Prefix


@dataclass(slots=True)
class News:
    """What has happened since the last Step."""

    tokens: list[Token] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    warmed: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    evicted: list[int] = field(default_factory=list)
    answers: list[Part] = field(default_factory=list)
    asked: bool = False
    """Whether the gateway waits for a Step, whatever is in it: it is how a Tune is acknowledged."""

    @property
    def pending(self) -> bool:
        """Whether there is anything to tell."""
        return bool(
            self.asked
            or self.tokens
            or self.done
            or self.started
            or self.warmed
            or self.kept
            or self.evicted
            or self.answers
        )

    def keep(
        self,
        cache: KvCache,
        key: int,
        prefix: Prefix,
        *,
        salt: str,
        session: str = "",
        is_whole: bool = True,
    ) -> None:
        """
        Put KV into the prefix cache and note what came and went.

        Args:
            cache: Where it goes.
            key: Whose it is.
            prefix: The KV.
            salt: Who may find it.
            session: Whose conversation it belongs to.
            is_whole: Whether it holds all of the prompt; what is kept under way is not told.
        """
        kept, evicted = cache.keep(key, prefix, salt=salt, session=session)
        if kept and is_whole:
            self.kept.append(key)
        # Of its own key only the form with fewer tokens went.
        self.evicted += [other for other in evicted if other != key]

    def step(self, *, number: int, began_s: float, now_s: float, load: Load, is_early: bool = False) -> Step:
        """Return the message."""
        return Step(
            number=number,
            at_s=now_s,
            step_s=now_s - began_s,
            tokens=self.tokens,
            started=self.started,
            done=self.done,
            warmed=self.warmed,
            kept=self.kept,
            evicted=self.evicted,
            answers=self.answers,
            load=load,
            is_early=is_early,
        )
