"""What a step of an engine host begins with, and what may be done in it. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from wicketgate.engine.batch import Chunk
    from wicketgate.engine.jobs import Job
    from wicketgate.engine.memory import Budget
    from wicketgate.engine.options import HostOptions
    from wicketgate.engine.pace import Pace
    from wicketgate.engine.streams import Stream


@dataclass(frozen=True, slots=True)
class Start:
    """Open a waiting stream in the batch."""

    id: int


@dataclass(frozen=True, slots=True)
class Preempt:
    """Take a stream out of the batch and hold its KV."""

    id: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """End a waiting stream: it could not run even alone."""

    id: int


@dataclass(frozen=True, slots=True)
class Compute:
    """Compute these chunks, in this order."""

    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class JobChunk:
    """Compute about so many tokens of a job."""

    id: int
    tokens: int


@dataclass(frozen=True, slots=True)
class WarmChunk:
    """Compute so many tokens of a warm job."""

    id: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Decode:
    """Give every row its next token."""


Action = Start | Preempt | Refuse | Compute | JobChunk | WarmChunk | Decode
NOTHING: Final[tuple[Action, ...]] = ()
DECODE: Final[tuple[Action, ...]] = (Decode(),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a step."""

    max_batch_size: int
    prefill_batch_size: int
    prefill_step_tokens: int
    chunk_target_s: float
    decode_share_ratio: float
    prefill_turn: bool = True
    """Whether this host may compute prompts now."""
    warm_allowed: bool = True

    @classmethod
    def of(cls, options: HostOptions) -> Limits:
        """Return what a host begins with."""
        return cls(
            max_batch_size=1 if options.safe_mode else options.max_batch_size,
            prefill_batch_size=options.prefill_batch_size,
            prefill_step_tokens=options.prefill_step_tokens,
            chunk_target_s=options.chunk_target_s,
            decode_share_ratio=options.decode_share_ratio,
        )

    @property
    def debt_per_chunk(self) -> float:
        """Seconds of decoding owed for each second of chunks."""
        return self.decode_share_ratio / (1.0 - self.decode_share_ratio)


@dataclass(slots=True, kw_only=True)
class Scene:
    """What a step begins with."""

    limits: Limits
    pace: Pace
    now_s: float = 0.0
    rows: Mapping[int, Stream]
    prompts: Mapping[int, Stream]
    """In the batch, and not yet decoding."""
    waiting: Mapping[int, Stream]
    jobs: Mapping[int, Job]
    """What is answered beside the streams."""
    warm: int | None = None
    """The warm job whose turn it is."""
    on_trial: Collection[int] = ()
    """Streams that must run with nobody beside them."""
    debt_s: float = 0.0
    """Decoding owed to the rows."""
    admits: bool = True
    """Whether memory is normal; else nobody starts but in the place of another."""
    starts: bool = True
    """Whether anybody may start at all; not above the hard mark."""
    budget: Budget | None = None
    groups: Sequence[tuple[int, int]] = ()
    """(rows, tokens of the longest) of what holds KV: groups of rows, prompts, streams that gave way."""
