"""
Rows that are decoded together: the decode loop.

Theory of operation. What a group feeds to its next forward pass are the tokens that its last one drew, as
the device's own array. So a pass is launched before the tokens that it starts from are read: the device
computes token t+1 while token t is read, judged and sent. Two things cannot go ahead like this. A row whose
unread token is its last by max_tokens needs no pass, so its group reads first and sheds it. And a grammar
must see token t before it can mask token t+1: there the pass goes ahead, and only the drawing waits.
Where speculation looks promising a group waits too: what it drafts follows from token t (speculation.py).

A row that ends by a token of its own has then been computed once more than needed. It leaves before the
group's next pass, when the device is waited for anyway; so does a row that was removed. Until then it is
only marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx

from wicketgate.engine.batch import Emitted
from wicketgate.engine.drafts import OFF
from wicketgate.engine.kv.store import MIN_REUSED_TOKENS
from wicketgate.engine.mlx import caches
from wicketgate.engine.mlx.network import begin
from wicketgate.engine.mlx.ragged import RaggedKVCache
from wicketgate.engine.mlx.sampling import sample, token_news
from wicketgate.engine.mlx.verification import Verification, take_back, verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wicketgate.engine.drafts import Setting
    from wicketgate.engine.kv.store import Prefix
    from wicketgate.engine.mlx.caches import Cache
    from wicketgate.engine.mlx.drafting import Drafter, Plan, Speculation
    from wicketgate.engine.mlx.network import Network
    from wicketgate.engine.mlx.sampling import Drawn, RowState
    from wicketgate.engine.wire import Submit

PATIENCE_PASSES: Final = 128
"""
Plain passes before KV whose rows end in columns of their own is rolled to one end again.

Rolling takes as long as 1 to 2.5 plain passes, and a plain pass over such KV is 0 to 4 % slower (4 rows of 32
to 500 tokens, Linux CPU).
"""


@dataclass(slots=True, eq=False)
class Row:
    """A stream that has its first token."""

    message: Submit
    state: RowState
    ends: frozenset[int]
    """Tokens that end it."""
    tokens: list[int]
    """The prompt and all tokens told."""
    told: int = 0
    """How many of them came out of this batch."""
    computed: int = 0
    """How many of them have KV, or will when the pass in flight is done."""
    ahead: int = 0
    """How many more entries its KV has, for tokens that were drafted and are not verified."""
    drafter: Drafter | None = None
    """What speculation knows of it."""
    last: Emitted | None = None
    """Its last token, until that is sent with the KV that the row leaves."""
    is_gone: bool = False
    """It is nobody's any more, and leaves its group before the next pass."""

    @property
    def needs_no_pass(self) -> bool:
        """Whether the token that it would feed is unread and its last."""
        return self.computed == len(self.tokens) and self.told + 1 >= self.message.max_tokens

    def take(self, token: int) -> None:
        """Take a token that was read, as the row's next."""
        if self.ahead and self.computed < len(self.tokens):
            # The token before was drafted and was right: its KV is there.
            self.computed += 1
            self.ahead -= 1
        self.tokens.append(token)
        self.told += 1
        if self.state.mask is not None:
            self.state.mask.advance(token)

    def tell(self, drawn: Drawn, index: int) -> Emitted:
        """Return the last token taken; `index` is the row's among those that were drawn together."""
        token = self.tokens[-1]
        mask = self.state.mask
        reason = None if mask is None else mask.ending
        message = mask.state.error if mask is not None and reason == "error" else None
        if token in self.ends:
            reason = "stop"
        elif reason is None and self.told >= self.message.max_tokens:
            reason = "length"
        news = token_news(self.message.id, token, drawn, index)
        return Emitted(token=news, finish_reason=reason, message=message)


def told(rows: Sequence[Row], drawn: Drawn) -> list[tuple[Row, Emitted]]:
    """Read what was drawn for these rows, once it is computed; rows that ended meanwhile get none of it."""
    values: Any = drawn.tokens.tolist()
    live = [index for index, row in enumerate(rows) if not (row.is_gone or row.last)]
    for index in live:
        rows[index].take(values[index])
    # Grammars learn of all tokens before any of them is asked what they lead to.
    return [(rows[index], rows[index].tell(drawn, index)) for index in live]


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward pass whose tokens are not read yet."""

    rows: list[Row]
    drawn: Drawn | Verification
    setting: Setting | None
    """What was drafted; None where its time tells nothing, as nothing was launched before it was needed."""

    def told(self) -> list[tuple[Row, Emitted]]:
        """Read what was drawn, once it is computed; of drafts, as far as they were right and one token on."""
        if isinstance(self.drawn, Verification):
            return _said(self.rows, self.drawn)
        return told(self.rows, self.drawn)


def _said(rows: Sequence[Row], verification: Verification) -> list[tuple[Row, Emitted]]:
    news = verification.said()
    live = [index for index, row in enumerate(rows) if not (row.is_gone or row.last)]
    for index in live:
        rows[index].take(news[index][0][0])
    found = []
    for index in live:
        row = rows[index]
        before = row.told - 1
        for number, (token, place) in enumerate(news[index]):
            if number:
                row.take(token)
            emitted = row.tell(verification.drawn, place)
            found.append((row, emitted))
            if emitted.finish_reason is not None:
                break
        if verification.drafts[index]:
            row.state.position += row.told - before
    return found


class Group:
    """Rows that are decoded together, and the tokens that they feed next."""

    def __init__(self, network: Network, rows: Sequence[Row], cache: Cache, *, is_wide: bool) -> None:
        self._network = network
        self.rows = list(rows)
        """Replaced, never changed: what was drawn refers to the rows that it was drawn for."""
        self._cache = cache
        self._is_wide = is_wide
        """Whether the cache is of the batched kind; a row alone does better without its masks."""
        self._feed: Any = mx.array([row.tokens[-1] for row in rows])
        self._unread: list[Pass] = []
        self._logits: Any = None
        """Of a pass in flight whose tokens are not drawn yet."""
        self._plain_passes = 0
        """Since the last with drafts."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows, and tokens of the longest."""
        return len(self.rows), max((len(row.tokens) for row in self.rows), default=0)

    @property
    def is_wanted(self) -> bool:
        """Whether any row is still somebody's."""
        return not all(row.is_gone for row in self.rows)

    @property
    def size_bytes(self) -> int:
        """What the rows' KV has allocated, padding included."""
        return caches.size_bytes(self._cache)

    # One step: launch, read, complete; each for all groups before the next, so that the device is never idle.

    def launch(self, speculation: Speculation | None) -> list[Pass]:
        """Begin the next pass where it can go ahead; returns what was drawn before, to be read."""
        unread, self._unread = self._unread, []
        waits = any(row.needs_no_pass or row.ahead for row in self.rows)
        if not waits and not (speculation and speculation.wants_tokens(self.rows)):
            self._compute()
            if any(row.state.needs_value for row in self.rows):
                begin(self._logits)
            else:
                self._draw(OFF)
        return unread

    def complete(self, speculation: Speculation | None, *, keep: bool) -> list[Emitted]:
        """Do what had to wait for tokens to be read; returns the last tokens of rows that ended meanwhile."""
        if self._logits is not None:
            self._draw(OFF)
        if self._unread:
            return []
        self._take_back()
        ended = self.shed(keep=keep)
        if self.rows:
            self._feed = mx.array([row.tokens[-1] for row in self.rows])
            plan = speculation.plan(self.rows) if speculation else None
            if plan is not None:
                self._verify(plan)
            else:
                self._compute()
                self._draw(None)
        return ended

    def _compute(self) -> None:
        self._plain_passes += 1
        if self._plain_passes > PATIENCE_PASSES:
            self._settle()
        self._logits = self._network.logits(self._feed[:, None], self._cache)[:, -1]
        for row in self.rows:
            row.computed += 1

    def _draw(self, setting: Setting | None) -> None:
        drawn = sample(self._logits, [row.state for row in self.rows])
        self._logits = None
        begin(drawn.arrays)
        self._feed = drawn.tokens
        self._unread.append(Pass(self.rows, drawn, setting))

    # Drafts

    def _verify(self, plan: Plan) -> None:
        self._plain_passes = 0
        self._loosen()
        states = [row.state for row in self.rows]
        found = verify(self._network, self._feed, self._cache, drafts=plan.drafts, states=states)
        begin(found.drawn.arrays)
        for row in self.rows:
            row.computed += 1
            row.ahead = found.width - 1
        self._unread.append(Pass(self.rows, found, plan.setting))

    def _take_back(self) -> None:
        """Forget the KV of drafts that were wrong."""
        if any(row.ahead for row in self.rows):
            self._loosen()
            take_back(self._cache, [row.ahead for row in self.rows])
            for row in self.rows:
                row.ahead = 0

    def _loosen(self) -> None:
        """Let each row's KV have an end of its own."""
        if self._is_wide and not self._is_ragged:
            self._cache = [RaggedKVCache(part) for part in self._cache]

    def _settle(self) -> None:
        """Let all rows' KV end in the same column."""
        if self._is_ragged:
            self._cache = [part.settled() for part in self._cache]

    @property
    def _is_ragged(self) -> bool:
        return bool(self._cache) and isinstance(self._cache[0], RaggedKVCache)

    # Coming and going

    def shed(self, *, keep: bool) -> list[Emitted]:
        """Let go of rows that ended or are gone; returns the last tokens that were held back for their KV."""
        stay = [index for index, row in enumerate(self.rows) if not (row.is_gone or row.last)]
        if len(stay) == len(self.rows):
            return []
        ended = [(index, row, row.last) for index, row in enumerate(self.rows) if row.last]
        found = self.prefixes([index for index, _, _ in ended]) if keep else {}
        self._retain(stay)
        emitted = []
        for index, row, last in ended:
            row.is_gone = True
            emitted.append(
                Emitted(
                    token=last.token,
                    finish_reason=last.finish_reason,
                    message=last.message,
                    prefix=found.get(index),
                )
            )
        return emitted

    def prefixes(self, indices: Iterable[int]) -> dict[int, Prefix]:
        """Return the KV of these rows, of those that have enough to be worth it."""
        wanted = [index for index in indices if self.rows[index].computed >= MIN_REUSED_TOKENS]
        tokens = [self.rows[index].tokens[: self.rows[index].computed] for index in wanted]
        found = caches.kept(tokens, [self._verified_cache(index) for index in wanted])
        return dict(zip(wanted, found, strict=True))

    def _verified_cache(self, index: int) -> Cache:
        cache, ahead = self._row_cache(index), self.rows[index].ahead
        if ahead:
            cache = caches.copied(cache)
            take_back(cache, [ahead])
        return cache

    def _row_cache(self, index: int) -> Cache:
        return caches.row_of(self._cache, index) if self._is_wide else self._cache

    def _retain(self, stay: list[int]) -> None:
        self.rows = [self.rows[index] for index in stay]
        if len(stay) == 1:
            self._cache, self._is_wide = self._row_cache(stay[0]), False
        elif stay:
            caches.narrow(self._cache, stay)
        else:
            self._cache = []
            return
        self._feed = self._feed[mx.array(stay)]

    def absorb(self, other: Group) -> None:
        """Take over the rows of another group."""
        for group in (self, other):
            group._widen()
            group._settle()
        caches.append(self._cache, other._cache)
        self._feed = mx.concatenate([self._feed, other._feed])
        self._unread += other._unread
        self.rows = self.rows + other.rows

    def _widen(self) -> None:
        if not self._is_wide:
            self._cache, self._is_wide = caches.side_by_side([self._cache]), True

    def cut(self, length: int) -> Group:
        """Let the rows of up to so many tokens leave for a group of their own, which is returned."""
        leave = [index for index, row in enumerate(self.rows) if len(row.tokens) <= length]
        stay = [index for index, row in enumerate(self.rows) if len(row.tokens) > length]
        parts = [self._row_cache(index) for index in leave]
        cache = parts[0] if len(parts) == 1 else caches.side_by_side(parts)
        group = Group(self._network, [self.rows[index] for index in leave], cache, is_wide=len(parts) > 1)
        group._feed = self._feed[mx.array(leave)]
        self._retain(stay)
        return group
