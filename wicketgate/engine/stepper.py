"""
The step loop of an engine host: what came in, what `scheduler.plan` says, and what there is to tell.

The same over any batch. One step: cancel, plan, prompts, decode, jobs, memory, report. Who is where is the
roster's business, what to do next the scheduler's; this is the order of things and their timing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, TypedDict

from wicketgate.engine.batch import DeviceError
from wicketgate.engine.jobs import Job, Jobs, WarmJob
from wicketgate.engine.memory import Relief
from wicketgate.engine.news import News
from wicketgate.engine.pace import Pace
from wicketgate.engine.roster import Roster
from wicketgate.engine.scene import (
    Compute,
    Decode,
    JobChunk,
    Limits,
    Preempt,
    Refuse,
    Scene,
    Start,
    WarmChunk,
)
from wicketgate.engine.scheduler import ALONE_TOKENS, due_s, is_short, padded, plan, shed
from wicketgate.engine.streams import Stream
from wicketgate.engine.validation import job_refusal, refusal, warm_refusal
from wicketgate.engine.wire import Done, Load, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.batch import Batch, Chunk, MemoryUse
    from wicketgate.engine.kv.cache import KvCache
    from wicketgate.engine.memory import Budget
    from wicketgate.engine.options import HostOptions
    from wicketgate.engine.scene import Action
    from wicketgate.engine.wire import CacheQuery, CacheReport, JobMessage, Submit, Tune, Warm

LEARNED_TOKENS: Final = 64
"""Fewer tell more about a chunk's fixed cost than about what a token costs, unless a chunk is cut to them."""
HARD: Final = 2
"""The level of memory above its hard mark."""
LOOKED_UP: Final = 16
"""Most new prompts that are looked up in the prefix cache in one step, to know what is left of them."""


class MemoryFullError(RuntimeError):
    """What is allocated cannot be freed by this process but by leaving it."""


class Bounds(TypedDict):
    """What requests are held against."""

    vocabulary_size: int
    context_tokens: int


class Memory(Protocol):
    """Judges what is allocated; a MemoryGuard's `observe`, or that with what the system says."""

    def __call__(self, use: MemoryUse, *, kept_bytes: int, now_s: float) -> Relief:
        """Say what to do now."""


class Stepper:
    """
    Takes requests at any time; `step` does one engine step and tells what is new.

    Args:
        batch: What computes.
        options: What the host was started with.
        cache: Kept prefixes.
        clock: Monotonic seconds.
        pace: How fast the batch is, as far as known.
        memory: Judges what is allocated after each step; None watches nothing.
        budget: What streams may take together; None is no bound.
    """

    def __init__(
        self,
        batch: Batch,
        options: HostOptions,
        *,
        cache: KvCache,
        clock: Callable[[], float],
        pace: Pace | None = None,
        memory: Memory | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._batch = batch
        self._cache = cache
        self._clock = clock
        self._pace = pace or Pace()
        self._memory = memory
        self._budget = budget
        self._limits = Limits.of(options)
        self._roster = Roster(batch, cache)
        self._jobs = Jobs(batch, cache)
        self._arrivals: list[Stream | Job] = []
        self._debt_s = 0.0
        self._relief = Relief(level=0)
        self._use = batch.memory()
        self.tell: Callable[[Step], None] | None = None
        """Takes news that cannot wait for the end of the step; None makes them wait."""
        self.number = 0
        """How many steps were done."""
        self.stalled = False
        """Whether the last step could do nothing, nor can the next until something outside has changed."""

    @property
    def busy(self) -> bool:
        """Whether there is something to do or to tell."""
        return self._roster.busy or bool(self._jobs.warm or self._jobs.asked) or self._roster.news.pending

    @property
    def fetches(self) -> bool:
        """Whether KV is on its way from disk."""
        return self._roster.fetches

    # What the gateway asks for

    def submit(self, message: Submit) -> None:
        """Take a request; one that cannot be run ends as refused and touches nobody else."""
        reason = self._taken(message.id) or refusal(message, **self._bounds())
        if reason is not None:
            self._roster.news.done.append(Done(message.id, "refused", reason))
            return
        trial_tokens = ALONE_TOKENS if message.alone else 0
        stream = Stream(message, self._clock(), len(message.prompt), trial_tokens)
        self._roster.add(stream)
        self._arrivals.append(stream)

    def warm(self, message: Warm) -> None:
        """Take a warm job; one that cannot be run ends at once."""
        reason = self._taken(message.id) or warm_refusal(message, **self._bounds())
        if reason is not None or not self._cache.max_bytes:
            self._roster.news.warmed.append(message.id)
            return
        self._jobs.warm[message.id] = WarmJob(message)

    def ask(self, message: JobMessage) -> None:
        """Take a job that is to be answered; one that cannot be run ends as refused."""
        reason = self._taken(message.id) or job_refusal(message, **self._bounds())
        if reason is not None:
            self._roster.news.done.append(Done(message.id, "refused", reason))
            return
        self._arrivals.append(self._jobs.add(message, now_s=self._clock()))

    def cancel(self, key: int) -> None:
        """End a stream or a job before the next step; unknown ids are ignored."""
        if not self._roster.leave(key, "cancelled"):
            self._jobs.cancel(key, self._roster.news)

    def close(self) -> None:
        """
        End everything; what was computed of it goes into the prefix cache, and with that to the disk.

        Raises:
            DeviceError: the process must go.
        """
        roster = self._roster
        for key in (*roster.rows, *roster.prompts, *roster.waiting, *self._jobs.warm):
            self.cancel(key)
        roster.sweep(keep=self._cache.max_bytes > 0)

    def tune(self, message: Tune) -> None:
        """Change what the governor may move; the next Step tells that it is in force."""
        limits = self._limits
        if message.chunk_target_s is not None:
            limits = replace(limits, chunk_target_s=message.chunk_target_s)
        if message.warm_allowed is not None:
            limits = replace(limits, warm_allowed=message.warm_allowed)
        if message.prefill_turn is not None:
            limits = replace(limits, prefill_turn=message.prefill_turn)
        self._limits = limits
        self._roster.news.asked = True

    def report_cache(self, query: CacheQuery) -> CacheReport:
        """Tell what the prefix cache holds, having cleared it as asked."""
        inside = (*self._roster.rows.values(), *self._roster.prompts.values())
        report = self._cache.report(
            query,
            now_s=self._clock(),
            kv_bytes_per_token=self._batch.kv_bytes_per_token,
            rows=len(inside),
            rows_tokens=sum(stream.kv_tokens for stream in inside),
            rows_bytes=self._batch.memory().rows_bytes,
        )
        self._roster.news.evicted += self._cache.take_evicted()
        return report

    def _taken(self, key: int) -> str | None:
        taken = key in self._roster or key in self._jobs.asked or key in self._jobs.warm
        return f"the id {key} is in use" if taken else None

    def _bounds(self) -> Bounds:
        batch = self._batch
        return {"vocabulary_size": batch.vocabulary_size, "context_tokens": batch.context_tokens}

    # The step

    def step(self) -> Step:
        """
        Do one engine step.

        Raises:
            DeviceError: the process must go.
            MemoryFullError: the same.
        """
        began_s = self._clock()
        roster = self._roster
        roster.collect(began_s)
        if self._arrivals:
            self._expect()
        actions: tuple[Action, ...] = ()
        try:
            roster.sweep(keep=self._cache.max_bytes > 0)
            actions = plan(self._scene(began_s))
            self._do(actions)
        except DeviceError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it was, the streams beside it must not pay
            roster.recover(error)
        self.watch_memory()
        self.stalled = not (actions or roster.news.pending)
        return self._report(began_s)

    def _do(self, actions: Sequence[Action]) -> None:
        """Do what was planned; whatever came before the rows' turn is time that they are owed for."""
        roster, began_s = self._roster, self._clock()
        preempted = [action.id for action in actions if isinstance(action, Preempt)]
        if preempted:
            roster.preempt(preempted)
        for action in actions:
            match action:
                case Decode():
                    # The first tokens of prompts just computed need not wait for everybody's next one.
                    self._tell_early(began_s, roster.news.tokens)
                    self._debt_s += (self._clock() - began_s) * self._limits.debt_per_chunk
                    self._decode()
                case Start(key):
                    roster.open(key, self._pace, now_s=self._clock())
                case Compute(chunks):
                    # Told beforehand, so that one who kills the host is known to have begun.
                    self._tell_early(began_s, roster.news.started)
                    self._compute(chunks)
                case JobChunk(key, tokens):
                    self._jobs.advance(key, tokens, roster.news)
                case WarmChunk(key, tokens):
                    self._jobs.advance_warm(key, tokens, roster.news)
                case Refuse(key):
                    roster.leave(key, "memory", "it takes more memory than there is, even alone")

    def _compute(self, chunks: tuple[Chunk, ...]) -> None:
        """Compute chunks, and learn from how long it took."""
        roster = self._roster
        asked = roster.ready(chunks)
        if not asked:
            return
        parts = [(roster.prompts[chunk.id], chunk.tokens) for chunk in asked]
        short = [tokens for stream, tokens in parts if is_short(stream, tokens)]
        context = sum(stream.context_tokens * tokens for stream, tokens in parts)
        computed = sum(chunk.tokens for chunk in asked)
        began_s = self._clock()
        roster.compute(asked)
        elapsed_s = self._clock() - began_s
        is_cut = any(chunk.id in roster.prompts for chunk in asked)
        if is_cut or computed >= LEARNED_TOKENS or not self._pace.is_measured:
            tokens = computed - sum(short) + padded(short)
            self._pace.observe_chunk(tokens, context_tokens=context // computed, elapsed_s=elapsed_s)

    def _decode(self) -> None:
        began_s = self._clock()
        self._roster.decode()
        elapsed_s = self._clock() - began_s
        self._pace.observe_decode(elapsed_s)
        self._debt_s = max(0.0, self._debt_s - elapsed_s) if self._roster.rows else 0.0

    def _expect(self) -> None:
        """Look new prompts up in the cache, and note until when each may be overtaken."""
        roster, pace = self._roster, self._pace
        new = {work.id for work in self._arrivals[:LOOKED_UP]}
        del self._arrivals[:LOOKED_UP]
        share = self._limits.decode_share_ratio if roster.rows else 0.0
        ahead_s = pace.decode_s
        for work in self._unfinished():
            if work.id in new and isinstance(work, Stream) and work.id in roster.waiting and not work.held:
                prompt = work.message.prompt
                work.remaining_tokens = len(prompt) - self._cache.match(prompt, salt=work.message.salt)
            ahead_s += pace.chunk_s(work.remaining_tokens, context_tokens=work.context_tokens) / (1.0 - share)
            if work.id in new:
                work.due_s = due_s(arrived_s=work.arrived_s, first_come_s=ahead_s)

    def _unfinished(self) -> list[Stream | Job]:
        """Return whose prompts are still to be computed, those that came first at the head."""
        roster = self._roster
        return [*roster.prompts.values(), *self._jobs.asked.values(), *roster.waiting.values()]

    def _scene(self, now_s: float) -> Scene:
        roster, relief = self._roster, self._relief
        needs_groups = self._budget is not None and bool(roster.waiting)
        return Scene(
            limits=self._limits,
            pace=self._pace,
            now_s=now_s,
            rows=roster.rows,
            prompts=roster.prompts,
            waiting=roster.waiting,
            jobs=self._jobs.asked,
            warm=self._jobs.next_warm,
            on_trial=roster.on_trial,
            debt_s=self._debt_s,
            admits=relief.admits,
            starts=relief.level < HARD,
            budget=self._budget,
            groups=[*self._batch.groups(), *roster.reserved()] if needs_groups else (),
        )

    def watch_memory(self) -> None:
        """
        Look at what is allocated, and free what the guard says; also when there is no work.

        Raises:
            MemoryFullError: nothing is left to free.
        """
        use = self._use = self._batch.memory()
        if self._memory is None:
            return
        roster = self._roster
        kept_bytes = self._cache.size_bytes + roster.held_bytes
        relief = self._relief = self._memory(use, kept_bytes=kept_bytes, now_s=self._clock())
        if relief.drain_pool:
            self._batch.drain_pool()
        if not relief.admits:
            self._jobs.drop_warm(roster.news)
            roster.drop_loaded()
        if relief.evict_bytes:
            before_bytes = self._cache.size_bytes
            roster.news.evicted += self._cache.evict(relief.evict_bytes)
            roster.drop_held(relief.evict_bytes - (before_bytes - self._cache.size_bytes))
        if relief.shed_bytes:
            self._shed(relief.shed_bytes)
        if relief.restart:
            raise MemoryFullError("memory is full, and nothing that could be freed is left")

    def _shed(self, size_bytes: int) -> None:
        roster = self._roster
        inside = (*roster.rows.values(), *roster.prompts.values())
        ended = shed(inside, size_bytes=size_bytes, kv_bytes_per_token=self._batch.kv_bytes_per_token)
        for key in ended:
            roster.leave(key, "memory", "memory is full, and this request is of the least urgent class")
        roster.sweep(keep=False)

    def load(self) -> Load:
        """Tell how busy the host is."""
        roster, use = self._roster, self._use
        unfinished = self._unfinished()
        return Load(
            rows=len(roster.rows),
            waiting=len(unfinished),
            waiting_tokens=sum(work.remaining_tokens for work in unfinished),
            warm_jobs=len(self._jobs.warm),
            kv_bytes=use.rows_bytes + self._cache.size_bytes + roster.held_bytes,
            memory_bytes=use.active_bytes + use.pool_bytes,
            pressure=self._relief.level,
            disk_bytes=self._cache.disk_bytes,
            preempted=sum(stream.preempted for stream in roster.waiting.values()),
            held_bytes=use.rows_bytes + roster.held_bytes + roster.loaded_bytes,
            kv_limit_bytes=0 if self._budget is None else self._budget.kv_limit_bytes,
            disk_is_failing=self._cache.disk_is_failing,
        )

    def _tell_early(self, began_s: float, news: Sequence[object]) -> None:
        if news and self.tell is not None:
            self.tell(self._report(began_s, is_early=True))

    def _report(self, began_s: float, *, is_early: bool = False) -> Step:
        news, self._roster.news = self._roster.news, News()
        self.number += not is_early
        return news.step(
            number=self.number, began_s=began_s, now_s=self._clock(), load=self.load(), is_early=is_early
        )
