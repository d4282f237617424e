"""What the API modules are made with: one value, built once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.api.endpoint import Edge
    from wicketgate.api.generation import Generation
    from wicketgate.api.requests import ModelCard
    from wicketgate.pipeline.jobs import Jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What answers are made of."""

    edge: Edge
    generation: Generation
    """Serves what is generated."""
    jobs: Jobs
    """Scores, embeddings, log-probabilities of prompts, tokens of text."""
    models: Callable[[], Sequence[ModelCard]]
    """What may be asked for."""
    clock: Callable[[], float]
    """Monotonic seconds."""
    unix_clock: Callable[[], float]
    """Wall time, for `created`."""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a long body is read beside the event loop."""
