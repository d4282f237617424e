"""What the API modules are made with: one value, built once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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
    reading: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="read")
    )
    """Reads long bodies beside the event loop, one at a time."""
