"""
What an engine host does in its next step. Pure: everything it looks at comes as an argument.

Theory of operation. Every step looks at everything anew, and there is no fixed wait for more work to batch: a
stream joins the running rows without an extra forward pass, so that waiting could only make the first token
late (mlx_lm.server, which looks for work every 0.5 s, makes a short request wait 347 ms).

1. Rows decode in every step.
2. Beside them prompts are computed in chunks, sized by time: a chunk and the decode step together stay below
   `chunk_target_s`, which is the gap that running streams see. Without rows a chunk may take twice that.
3. For every second of chunks decoding is owed `share / (1 - share)` seconds; chunks pause until it is paid.
4. Prompts go by class, then shortest remainder first, and may change places at any chunk's edge; but a prompt
   that has waited for `OVERTAKE_RATIO` of its time in first-come order and `OVERTAKE_FLOOR_S` goes first in
   its class. What is left of a step's time goes to the next in order, so that short ones go side by side.
5. When all places are taken, or memory is short, a more urgent class takes the place of a row of the least
   urgent one, whose KV is held so that it goes on later without computing anything twice, where the KV can
   be cut back by a token: sliding windows are computed again.
6. A stream on trial runs with nobody beside it.
7. Warm jobs get the steps that nobody needs.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from wicketgate.engine.batch import SHORT_PROMPT_TOKENS, Chunk
from wicketgate.engine.scene import (
    DECODE,
    NOTHING,
    Compute,
    Decode,
    JobChunk,
    Preempt,
    Refuse,
    Start,
    WarmChunk,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wicketgate.engine.jobs import Job
    from wicketgate.engine.pace import Pace
    from wicketgate.engine.scene import Action, Limits, Scene
    from wicketgate.engine.streams import Stream

ALONE_TOKENS: Final = 8
"""A stream that was there when hosts died is harmless once it has emitted so many tokens alone."""
SETTLED_TOKENS: Final = 8
"""A stream gives way again only after so many tokens: else two would take turns and neither get on."""
FLOOR_TOKENS: Final = 16
"""Least size of a step's first chunk, so that every prompt gets on."""
LEAST_SPLIT_TOKENS: Final = 64
"""Further prompts get a chunk in the same step only of so many tokens, or to the end: each has its cost."""
WHOLE_RATIO: Final = 1.4
"""A remainder that takes up to so many times the time there is goes through whole: a cut costs a step."""
IDLE_TARGETS: Final = 2.0
"""With nobody decoding, how many targets long a chunk may take: what a request that arrives then waits."""
WARM_CHUNK_S: Final = 0.04
"""Longest chunk of a warm job: what a request that arrives then waits (research on hints, 40 ms steps)."""
OVERTAKE_RATIO: Final = 1.5
OVERTAKE_FLOOR_S: Final = 0.25
RESERVED_TOKENS: Final = 256
"""Of its answer, what must fit into memory before a stream starts: one step in which caches grow."""


def plan(scene: Scene) -> tuple[Action, ...]:
    """Decide what this step does, in order."""
    if scene.on_trial:
        return _trial(scene)
    always = DECODE if scene.rows else NOTHING
    if not (scene.waiting or scene.prompts or scene.jobs or scene.warm is not None):
        return always
    if not scene.limits.prefill_turn or (scene.rows and scene.debt_s > 0.0):
        return always
    actions = _Draft(scene).actions()
    if actions or always:
        return (*actions, *always)
    return _warm(scene)


def _trial(scene: Scene) -> tuple[Action, ...]:
    """Run the first stream on trial alone; whoever is in the batch beside it gives way."""
    inside = [*scene.rows.values(), *scene.prompts.values()]
    tried = next((stream for stream in inside if stream.trial_tokens), None)
    actions: list[Action] = [Preempt(stream.id) for stream in inside if stream is not tried]
    if tried is None:
        if not scene.limits.prefill_turn:
            return DECODE if scene.rows else NOTHING
        tried = next(scene.waiting[key] for key in scene.on_trial)
        actions.append(Start(tried.id))
    elif tried.id in scene.rows:
        return (*actions, Decode())
    if scene.limits.prefill_turn:
        tokens = _tokens(scene, tried, _idle_s(scene.limits), scene.limits.prefill_step_tokens)
        actions.append(Compute((Chunk(tried.id, max(tokens, min(FLOOR_TOKENS, tried.remaining_tokens))),)))
    return tuple(actions)


def _warm(scene: Scene) -> tuple[Action, ...]:
    limits = scene.limits
    if scene.warm is None or not limits.warm_allowed or not scene.admits:
        return NOTHING
    within_s = min(WARM_CHUNK_S, limits.chunk_target_s)
    tokens = min(limits.prefill_step_tokens, scene.pace.tokens_within(within_s, context_tokens=0))
    return (WarmChunk(scene.warm, max(FLOOR_TOKENS, tokens)),)


class _Draft:
    """A plan being made: who computes beside the rows, and who has to start or to give way for that."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._limits = scene.limits
        self._free = scene.limits.max_batch_size - len(scene.rows) - len(scene.prompts)
        self._groups = list(scene.groups)
        self._moves: list[Action] = []
        self._chunks: list[Chunk] = []
        self._jobs: list[Action] = []
        self._victims: set[int] = set()
        self._short: list[int] = []
        """Tokens of the prompts that go side by side."""

    def actions(self) -> list[Action]:
        """Return who moves and who computes, in this order."""
        most = self._limits.prefill_batch_size
        self._fill(heapq.nsmallest(most, self._candidates(), key=self._rank))
        if not (self._computes or self._moves):
            # None of those that come first gets a place: whoever has one must get on, or nobody ever does.
            self._fill(heapq.nsmallest(most, filter(self._has_place, self._candidates()), key=self._rank))
        chunks: list[Action] = [Compute(tuple(self._chunks))] if self._chunks else []
        return [*self._moves, *chunks, *self._jobs]

    def _fill(self, candidates: Iterable[Stream | Job]) -> None:
        """Give the step's time to these, in order."""
        scene, limits = self._scene, self._limits
        time_s = chunk_time_s(limits, scene.pace) if scene.rows else _idle_s(limits)
        left = limits.prefill_step_tokens
        for work in candidates:
            tokens = _tokens(scene, work, time_s, left)
            if not self._computes:
                tokens = max(tokens, min(FLOOR_TOKENS, work.remaining_tokens))
            elif tokens < min(LEAST_SPLIT_TOKENS, work.remaining_tokens):
                break
            cost_tokens = self._cost_tokens(work, tokens)
            cost_s = scene.pace.chunk_s(cost_tokens, context_tokens=work.context_tokens)
            if cost_tokens > tokens and (cost_s > time_s or cost_tokens > left):
                break
            if self._seat(work.id):
                self._add(work, tokens)
                time_s -= cost_s
                left -= cost_tokens

    def _has_place(self, work: Stream | Job) -> bool:
        """Say whether someone is in the batch, needs no place in it, or has the memory for it in hand."""
        stream = self._scene.waiting.get(work.id)
        return stream is None or stream.held is not None

    @property
    def _computes(self) -> bool:
        return bool(self._chunks or self._jobs)

    def _cost_tokens(self, work: Stream | Job, tokens: int) -> int:
        """Return what a chunk costs besides those chosen before, in tokens: side by side some are padding."""
        if not self._is_short(work, tokens):
            return tokens
        return padded([*self._short, tokens]) - padded(self._short)

    def _is_short(self, work: Stream | Job, tokens: int) -> bool:
        return work.id not in self._scene.jobs and is_short(work, tokens)

    def _candidates(self) -> Iterable[Stream | Job]:
        scene = self._scene
        yield from scene.prompts.values()
        yield from scene.jobs.values()
        if scene.starts:
            urgent = self._least_urgent_inside() if self._free <= 0 or not scene.admits else None
            for stream in scene.waiting.values():
                if stream.fetch is None and (urgent is None or stream.priority < urgent):
                    yield stream

    def _least_urgent_inside(self) -> int:
        """Return the class that the waiting must beat to get in, where there is no free place."""
        inside = (*self._scene.rows.values(), *self._scene.prompts.values())
        return max((stream.priority for stream in inside), default=-1)

    def _rank(self, work: Stream | Job) -> tuple[int, int, float, float, int]:
        if work.due_s <= self._scene.now_s:
            return work.priority, 0, work.due_s, 0.0, work.id
        return work.priority, 1, float(work.remaining_tokens), work.arrived_s, work.id

    def _seat(self, key: int) -> bool:
        """Find a place for whoever needs one; returns whether it may compute."""
        scene = self._scene
        stream = scene.waiting.get(key)
        if stream is None:
            return key not in self._victims
        budget = scene.budget
        # What is held by a stream that gave way is counted already.
        if budget is not None and stream.held is None:
            own = (1, len(stream.message.prompt) + min(stream.message.max_tokens, RESERVED_TOKENS))
            if not budget.fits([own]):
                self._moves.append(Refuse(key))
                return False
            if not budget.fits([*self._groups, own]):
                return False
            self._groups.append(own)
        if scene.admits and self._free > 0:
            self._free -= 1
        else:
            victim = self._victim(stream.priority)
            if victim is None:
                return False
            self._victims.add(victim.id)
            self._moves.append(Preempt(victim.id))
        self._moves.append(Start(key))
        return True

    def _victim(self, priority: int) -> Stream | None:
        """Return the stream of the least urgent class that has the least to lose, if any may give way."""
        scene = self._scene
        computing = {chunk.id for chunk in self._chunks}
        able = [
            stream
            for stream in (*scene.rows.values(), *scene.prompts.values())
            if stream.priority > priority
            and stream.id not in self._victims
            and stream.id not in computing
            and (len(stream.emitted) >= SETTLED_TOKENS or not stream.preempted)
        ]
        return max(able, key=lambda stream: (stream.priority, -stream.kv_tokens), default=None)

    def _add(self, work: Stream | Job, tokens: int) -> None:
        if work.id in self._scene.jobs:
            self._jobs.append(JobChunk(work.id, tokens))
            return
        if self._is_short(work, tokens):
            self._short.append(tokens)
        self._chunks.append(Chunk(work.id, tokens))


def _tokens(scene: Scene, work: Stream | Job, time_s: float, most: int) -> int:
    pace, context_tokens = scene.pace, work.context_tokens
    if work.remaining_tokens <= pace.tokens_within(WHOLE_RATIO * time_s, context_tokens=context_tokens):
        return min(work.remaining_tokens, most)
    return min(most, pace.tokens_within(time_s, context_tokens=context_tokens))


def is_short(work: Stream | Job, tokens: int) -> bool:
    """Say whether a chunk of so many tokens is a whole prompt that goes side by side with others."""
    return work.context_tokens == 0 and tokens == work.remaining_tokens <= SHORT_PROMPT_TOKENS


def padded(lengths: Sequence[int]) -> int:
    """Return how many tokens prompts of these lengths cost side by side."""
    return len(lengths) * max(lengths, default=0)


def _idle_s(limits: Limits) -> float:
    return limits.chunk_target_s * IDLE_TARGETS


def chunk_time_s(limits: Limits, pace: Pace) -> float:
    """
    Return how long chunks may take in a step in which rows decode.

    At least as long as the decode step itself or half the target, whichever is less: where decoding alone
    fills the target, prompts must still get on.
    """
    target_s = limits.chunk_target_s
    return max(pace.headroom_ratio * target_s - pace.decode_s, min(pace.decode_s, target_s / 2))


def due_s(*, arrived_s: float, first_come_s: float) -> float:
    """Return when a stream may be overtaken no longer, given how long it would wait in first-come order."""
    return arrived_s + OVERTAKE_RATIO * first_come_s + OVERTAKE_FLOOR_S


def shed(streams: Iterable[Stream], *, size_bytes: int, kv_bytes_per_token: int) -> list[int]:
    """Choose who ends so that so much KV is freed: the least urgent class first, in it the youngest."""
    chosen = []
    for stream in sorted(streams, key=lambda each: (-each.priority, -each.arrived_s, -each.id)):
        if size_bytes <= 0:
            break
        chosen.append(stream.id)
        size_bytes -= max(1, stream.kv_tokens) * kv_bytes_per_token
    return chosen
