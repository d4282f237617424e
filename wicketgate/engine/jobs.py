"""Work beside the streams: prefixes warmed in steps that nobody needs, and jobs that are answered."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wicketgate.engine.batch import DeviceError, RowError
from wicketgate.engine.wire import Assess, Done, Embed, Score

if TYPE_CHECKING:
    from wicketgate.engine.batch import Batch, JobWork, Prefill
    from wicketgate.engine.kv.cache import KvCache
    from wicketgate.engine.news import News
    from wicketgate.engine.wire import JobMessage, Warm

log = logging.getLogger(__name__)

MIN_KEPT_TOKENS: Final = 64
"""KV of fewer tokens is not kept when its stream or job is cancelled."""


@dataclass(slots=True, eq=False)
class WarmJob:
    """A prefix that may be asked for."""

    message: Warm
    prefill: Prefill | None = None


@dataclass(slots=True, eq=False)
class Job:
    """A job between its arrival and its answer; the scheduler treats it like a prompt."""

    message: JobMessage
    arrived_s: float
    remaining_tokens: int
    due_s: float = math.inf
    """When it may be overtaken no longer."""
    work: JobWork | None = None
    """What computes it, once it was begun."""

    @property
    def id(self) -> int:
        """The id of its request."""
        return self.message.id

    @property
    def priority(self) -> int:
        """Its class of service; lower ones go first."""
        return self.message.priority

    @property
    def salt(self) -> str:
        """Whose KV it may use, and who may use what is kept of it."""
        return "" if isinstance(self.message, Embed) else self.message.salt

    @property
    def context_tokens(self) -> int:
        """How many tokens have KV; of many short prompts few at a time, which counts as none."""
        message = self.message
        return len(message.prompt) - self.remaining_tokens if isinstance(message, Assess) else 0


def job_tokens(message: JobMessage) -> int:
    """Estimate how many tokens a job computes."""
    match message:
        case Score():
            label_tokens = sum(len(label) - 1 for label in message.labels)
            return len(message.query) + sum(len(item) + label_tokens for item in message.items)
        case Assess():
            return len(message.prompt)
        case Embed():
            return sum(len(prompt) for prompt in message.prompts)


class Jobs:
    """Jobs by their ids, in the order of their arrival."""

    def __init__(self, batch: Batch, cache: KvCache) -> None:
        self._batch = batch
        self._cache = cache
        self.warm: dict[int, WarmJob] = {}
        self.asked: dict[int, Job] = {}
        """Those that are answered."""

    @property
    def next_warm(self) -> int | None:
        """The warm job whose turn it is."""
        return next(iter(self.warm), None)

    def add(self, message: JobMessage, *, now_s: float) -> Job:
        """Take a job that is to be answered."""
        job = self.asked[message.id] = Job(message, now_s, job_tokens(message))
        return job

    def cancel(self, key: int, news: News) -> None:
        """
        Forget a job, if there is one of this id; what a warm job has computed may serve a longer one.

        Raises:
            DeviceError: the process must go.
        """
        if self.asked.pop(key, None) is not None:
            news.done.append(Done(key, "cancelled"))
            return
        job = self.warm.pop(key, None)
        if job is None:
            return
        news.warmed.append(key)
        if job.prefill is None:
            return
        try:
            prefix = job.prefill.prefix()
        except DeviceError:
            raise
        except Exception:  # whatever it was: nobody depends on a warm job
            log.exception("warm_job_failed")
            return
        if len(prefix.tokens) >= MIN_KEPT_TOKENS:
            news.keep(self._cache, key, prefix, salt=job.message.salt, is_whole=False)

    def drop_warm(self, news: News) -> None:
        """End the warm jobs that hold KV, for the memory; what they have computed is lost."""
        for key in [key for key, job in self.warm.items() if job.prefill is not None]:
            del self.warm[key]
            news.warmed.append(key)

    def advance_warm(self, key: int, tokens: int, news: News) -> None:
        """
        Compute a chunk of a warm job, which ends when it is done or fails.

        Raises:
            DeviceError: the process must go.
        """
        job = self.warm[key]
        message = job.message
        try:
            if job.prefill is None:
                hit = self._cache.find(message.prompt, salt=message.salt)
                job.prefill = self._batch.prefill(message.prompt, hit)
            job.prefill.advance(tokens)
            if job.prefill.remaining_tokens:
                return
            news.keep(self._cache, key, job.prefill.prefix(), salt=message.salt)
        except DeviceError:
            raise
        except Exception:  # whatever it was: nobody depends on a warm job
            log.exception("warm_job_failed")
        del self.warm[key]
        news.warmed.append(key)

    def advance(self, key: int, tokens: int, news: News) -> None:
        """
        Compute a chunk of a job, which is answered as far as it is done.

        Raises:
            DeviceError: the process must go.
        """
        job = self.asked[key]
        try:
            work = job.work = job.work or self._begin(job.message)
            work.advance(tokens)
            job.remaining_tokens = work.remaining_tokens
            news.answers += work.parts()
            if job.remaining_tokens:
                return
            kept = work.kept() if self._cache.max_bytes else None
            if kept is not None and len(kept.tokens) >= MIN_KEPT_TOKENS:
                news.keep(self._cache, key, kept, salt=job.salt, is_whole=False)
            news.done.append(Done(key, "stop"))
        except DeviceError:
            raise
        except RowError as error:
            news.done.append(Done(key, "refused", str(error)))
        except Exception as error:  # it computes beside the streams: the fault is its own
            log.exception("job_failed")
            kind = type(job.message).__name__.lower()
            news.done.append(Done(key, "error", f"the engine failed to {kind}: {type(error).__name__}"))
        del self.asked[key]

    def _begin(self, message: JobMessage) -> JobWork:
        hit = None
        if isinstance(message, Score) and message.query:
            hit = self._cache.find(message.query, salt=message.salt)
        return self._batch.begin(message, hit)
