"""From what an API was asked for to frozen InferenceRequests, within a model's bounds (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wicketgate.errors import InvalidRequestError, NotFoundError
from wicketgate.inference import InferenceRequest, OutputForm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wicketgate.inference import Prompt, Sampling

KEY_FIELDS: Final = ("session_id", "prompt_cache_key", "safety_identifier", "user")
"""Fields that may name who asks; the first that is there is the request's key."""
MAX_SESSION_CHARS: Final = 128
_SESSION_SOURCES: Final = ("x-session-id", "session_id", "prompt_cache_key")
"""Keys that name a conversation; the others name a person, or nobody."""
_SEEDS: Final = 1 << 64
_SAMPLE_STRIDE: Final = 0xD1B54A32D192ED03
"""Odd, so that no two samples share a seed; far from seeds that people count up, and from the step that the
engine makes from one token to the next, so that no sample repeats another's draws at other places."""
_TEXT: Final = OutputForm()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model that can be asked for."""

    id: str
    created_unix_s: int
    context_tokens: int
    vocabulary_tokens: int
    token_bytes: Callable[[int], bytes]
    """Bytes of one token by itself, for log-probabilities."""
    tool_format: str | None = None
    """Name of the parser of its tool calls; None when its template knows no tools, so that it is told."""
    call_marks_are_tokens: bool | None = None
    """Of a model that was taught to write calls as JSON between <tool_call> and </tool_call>; else None."""
    thinks: bool = False
    """Its chat template lets it reason before it answers."""
    can_stop_thinking: bool = False
    """Its chat template can tell it not to."""
    fingerprint: str = ""
    """Another one where weights, quantisation, versions or template differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What a request is besides its body."""

    id: str
    arrived_s: float
    session: str | None
    """Header x-session-id."""
    client: str | None
    connection: str | None


def longest_context(cards: Sequence[ModelCard]) -> int:
    """Return how many tokens the longest prompt of any model may have."""
    return max((card.context_tokens for card in cards), default=0)


def find_model(cards: Sequence[ModelCard], name: str | None) -> ModelCard:
    """
    Find the model that a body names; no name means the only one that is served.

    Raises:
        InvalidRequestError: no name, and not one model.
        NotFoundError: no such model.
    """
    if name is None:
        if len(cards) == 1:
            return cards[0]
        raise InvalidRequestError(
            f"model is required where {len(cards)} are served; GET /v1/models lists them",
            param="model",
            code="missing_required_parameter",
        )
    for card in cards:
        if card.id == name:
            return card
    raise NotFoundError(
        f"no model {name[:80]!r} is served here; GET /v1/models lists those that are",
        param="model",
        code="model_not_found",
    )


def check_max_tokens(max_tokens: int, *, param: str, card: ModelCard) -> None:
    """
    Check how long an answer may be against the model; what the prompt leaves of it is seen later.

    Raises:
        InvalidRequestError: it is over the model's context.
    """
    if max_tokens > card.context_tokens:
        raise InvalidRequestError(
            f"{param} must be at most {card.context_tokens}, the model's context, got {max_tokens}",
            param=param,
            code="integer_above_max_value",
        )


def drawn_seed(seed: int | None, *, arrival: Arrival, sample: int = 0) -> int:
    """
    Return what tokens are drawn with; without a seed as random as the request's id, and as repeatable.

    Args:
        sample: Which of several answers to the same prompt; the first is drawn as if it were the only one.
    """
    first = int(arrival.id[-16:], 16) if seed is None else seed
    return (first + sample * _SAMPLE_STRIDE) % _SEEDS


def build_request(
    *,
    card: ModelCard,
    arrival: Arrival,
    prompt: Prompt,
    sampling: Sampling,
    api: str,
    names: Mapping[str, str | None],
    stop: Sequence[str] = (),
    stream: bool = False,
    priority: int = 0,
    cache_salt: str = "",
    output: OutputForm = _TEXT,
    choice: int = 0,
) -> InferenceRequest:
    """
    Make the request for one choice.

    Args:
        names: Values of KEY_FIELDS, those that the body has.
        cache_salt: KV is shared only between requests of the same client and salt.
        choice: Its index in the answer. Each choice is a request with an id of its own.
    """
    key, source = _key(names, arrival)
    return InferenceRequest(
        id=arrival.id if choice == 0 else f"{arrival.id}-{choice}",
        model=card.id,
        prompt=prompt,
        sampling=sampling,
        arrived_s=arrival.arrived_s,
        key=key,
        key_source=source,
        stop=tuple(stop),
        stream=stream,
        api=api,
        output=output,
        choice=choice,
        client=arrival.client,
        connection=arrival.connection,
        priority=priority,
        # No client finds out by the time to its first token what another has asked.
        salt=cache_salt if arrival.client is None else f"{arrival.client} {cache_salt}",
        session=key[:MAX_SESSION_CHARS] if source in _SESSION_SOURCES else "",
    )


def _key(names: Mapping[str, str | None], arrival: Arrival) -> tuple[str, str]:
    if arrival.session:
        return arrival.session, "x-session-id"
    for name in KEY_FIELDS:
        if value := names.get(name):
            return value, name
    return arrival.id, "request"
