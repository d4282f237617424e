"""Work beside the streams: prefixes warmed in steps that nobody needs, and labels that are scored."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wicketgate.engine.batch import DeviceError, RowError
from wicketgate.engine.wire import Done, Scored

if TYPE_CHECKING:
    from wicketgate.engine.batch import Batch, Prefill, Scoring
    from wicketgate.engine.kv_cache import KvCache
    from wicketgate.engine.news import News
    from wicketgate.engine.wire import Score, Warm

log = logging.getLogger(__name__)

MIN_KEPT_TOKENS: Final = 64
"""KV of fewer tokens is not kept when its stream or job is cancelled."""


@dataclass(slots=True, eq=False)
class WarmJob:
    """A prefix that may be asked for."""

    message: Warm
    prefill: Prefill | None = None


@dataclass(slots=True, eq=False)
class ScoreJob:
    """A Score between its arrival and its answer; the scheduler treats it like a prompt."""

    message: Score
    arrived_s: float
    remaining_tokens: int
    due_s: float = math.inf
    """When it may be overtaken no longer."""
    scoring: Scoring | None = None
    cached_tokens: int = 0

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
        """Its items are many short prompts."""
        return 0


def score_tokens(message: Score) -> int:
    """Estimate how many tokens a score computes."""
    label_tokens = sum(len(label) - 1 for label in message.labels)
    return len(message.query) + sum(len(item) + label_tokens for item in message.items)


class Jobs:
    """Warm jobs and scores by their ids, in the order of their arrival."""

    def __init__(self, batch: Batch, cache: KvCache) -> None:
        self._batch = batch
        self._cache = cache
        self.warm: dict[int, WarmJob] = {}
        self.scores: dict[int, ScoreJob] = {}

    @property
    def next_warm(self) -> int | None:
        """The warm job whose turn it is."""
        return next(iter(self.warm), None)

    def cancel(self, key: int, news: News) -> None:
        """
        Forget a job, if there is one of this id; what a warm job has computed may serve a longer one.

        Raises:
            DeviceError: the process must go.
        """
        if self.scores.pop(key, None) is not None:
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

    def advance_score(self, key: int, tokens: int, news: News) -> None:
        """
        Compute a chunk of a score, which is answered when it is done.

        Raises:
            DeviceError: the process must go.
        """
        job = self.scores[key]
        message = job.message
        try:
            if job.scoring is None:
                hit = self._cache.find(message.query, salt=message.salt)
                job.cached_tokens = hit.shared_tokens if hit else 0
                job.scoring = self._batch.score(message, hit)
            job.scoring.advance(tokens)
            job.remaining_tokens = job.scoring.remaining_tokens
            if job.remaining_tokens:
                return
            news.scored.append(Scored(key, job.scoring.logprobs(), job.cached_tokens))
            news.done.append(Done(key, "stop"))
        except DeviceError:
            raise
        except RowError as error:
            news.done.append(Done(key, "refused", str(error)))
        except Exception as error:  # it computes beside the streams: the fault is its own
            log.exception("score_failed")
            news.done.append(Done(key, "error", f"the engine failed to score: {type(error).__name__}"))
        del self.scores[key]
