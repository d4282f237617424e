"""What the body of a chat or completion means: one frozen InferenceRequest, within a model's bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wicketgate.api.openai_models import unsupported
from wicketgate.errors import InvalidRequestError, NotFoundError
from wicketgate.inference import ChatPrompt, InferenceRequest, Sampling, TextPrompt, TokenPrompt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wicketgate.api.openai_models import ChatBody, CommonBody, CompletionBody, Message, Part
    from wicketgate.inference import Prompt

DEFAULT_COMPLETION_TOKENS: Final = 16
"""What OpenAI gives to /v1/completions; a chat may use the rest of the context."""
_UINT64: Final = 2**64
_KEY_FIELDS: Final = ("session_id", "prompt_cache_key", "safety_identifier", "user")
_SESSION_SOURCES: Final = ("x-session-id", "session_id", "prompt_cache_key")
"""Keys that name a conversation; the others name a person, or nobody."""
MAX_BIAS: Final = 100.0
MAX_SESSION_CHARS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model that can be asked for."""

    id: str
    created_unix_s: int
    context_tokens: int
    vocabulary_tokens: int
    token_bytes: Callable[[int], bytes]
    """Bytes of one token by itself, for log-probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What a request is besides its body."""

    id: str
    arrived_s: float
    session: str | None
    """Header x-session-id."""
    client: str | None
    connection: str | None


def find_model(cards: Sequence[ModelCard], name: str | None, *, may_be_absent: bool = False) -> ModelCard:
    """
    Find the model that a body names.

    Args:
        may_be_absent: No name means the only model that is served.

    Raises:
        InvalidRequestError: no name.
        NotFoundError: no such model.
    """
    if name is None:
        if may_be_absent and len(cards) == 1:
            return cards[0]
        raise InvalidRequestError("model is required", param="model", code="missing_required_parameter")
    for card in cards:
        if card.id == name:
            return card
    raise NotFoundError(
        f"no model {name[:80]!r} is served here; GET /v1/models lists those that are",
        param="model",
        code="model_not_found",
    )


def chat_request(body: ChatBody, *, card: ModelCard, arrival: Arrival) -> InferenceRequest:
    """
    Make the request that a chat means.

    Raises:
        InvalidRequestError: a bound of the model, or what a message holds.
    """
    param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    max_tokens = body.max_completion_tokens or body.max_tokens or card.context_tokens
    _check_max_tokens(max_tokens, param=param, card=card)
    messages = tuple(_message(message, place=index) for index, message in enumerate(body.messages))
    prompt = ChatPrompt(messages=messages, template_kwargs={})
    logprobs = body.top_logprobs if body.logprobs else None
    sampling = _sampling(body, card=card, arrival=arrival, max_tokens=max_tokens, logprobs=logprobs)
    return _request(body, prompt, sampling, card=card, arrival=arrival, api="chat")


def completion_request(body: CompletionBody, *, card: ModelCard, arrival: Arrival) -> InferenceRequest:
    """
    Make the request that a completion means.

    Raises:
        InvalidRequestError: a bound of the model, or what the prompt is.
    """
    max_tokens = body.max_tokens or DEFAULT_COMPLETION_TOKENS
    _check_max_tokens(max_tokens, param="max_tokens", card=card)
    prompt = _prompt(body.prompt)
    sampling = _sampling(body, card=card, arrival=arrival, max_tokens=max_tokens, logprobs=body.logprobs)
    return _request(body, prompt, sampling, card=card, arrival=arrival, api="completions")


def _check_max_tokens(max_tokens: int, *, param: str, card: ModelCard) -> None:
    if max_tokens > card.context_tokens:
        raise InvalidRequestError(
            f"{param} must be at most {card.context_tokens}, the model's context, got {max_tokens}",
            param=param,
            code="integer_above_max_value",
        )


def _message(message: Message, *, place: int) -> dict[str, object]:
    where = f"messages[{place}]"
    if message.tool_calls:
        raise unsupported(f"{where}.tool_calls")
    if message.role == "tool":
        if message.tool_call_id is None:
            raise _missing(f"{where}.tool_call_id")
        raise InvalidRequestError(
            f"{where}.tool_call_id must be the id of a tool call in an earlier message",
            param=f"{where}.tool_call_id",
        )
    if message.content is None:
        raise _missing(f"{where}.content")
    text = message.content
    if not isinstance(text, str):
        text = "".join(_part(part, where=f"{where}.content[{index}]") for index, part in enumerate(text))
    # Templates know "system"; OpenAI's "developer" means the same.
    rendered: dict[str, object] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": text,
    }
    if message.name is not None:
        rendered["name"] = message.name
    if message.reasoning_content is not None:
        rendered["reasoning_content"] = message.reasoning_content
    return rendered


def _part(part: Part, *, where: str) -> str:
    if part.type not in {"text", "refusal"}:
        raise InvalidRequestError(
            f"{where}.type {part.type} is not supported; it must be text",
            param=f"{where}.type",
            code="unsupported_value",
        )
    text = part.text if part.type == "text" else part.refusal
    if text is None:
        raise _missing(f"{where}.{part.type}")
    return text


def _missing(param: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} is required", param=param, code="missing_required_parameter")


def _prompt(value: object) -> Prompt:
    """Read one prompt: text, a list of one text, ids, or a list of one list of ids."""
    if isinstance(value, str):
        return TextPrompt(text=value)
    if not isinstance(value, list):
        raise _wrong_prompt("prompt", "text, or a list of token ids")
    if not value:
        raise InvalidRequestError("prompt must not be empty", param="prompt", code="empty_array")
    wanted = type(value[0])
    if wanted not in {str, int, list}:
        raise _wrong_prompt("prompt[0]", "text or a token id")
    for index, entry in enumerate(value):
        if type(entry) is not wanted:
            raise _wrong_prompt(f"prompt[{index}]", "of the type of prompt[0]")
    if wanted is int:
        return _ids(value, where="prompt")
    if len(value) > 1:
        raise InvalidRequestError(
            f"several prompts in one request are not supported yet, got {len(value)}",
            param="prompt",
            code="unsupported_value",
        )
    return TextPrompt(text=value[0]) if wanted is str else _ids(value[0], where="prompt[0]")


def _ids(value: list[Any], *, where: str) -> TokenPrompt:
    if not value:
        raise InvalidRequestError(f"{where} must not be empty", param=where, code="empty_array")
    for index, token in enumerate(value):
        if type(token) is not int:
            raise _wrong_prompt(f"{where}[{index}]", "an integer")
        if token < 0:
            param = f"{where}[{index}]"
            raise InvalidRequestError(f"{param} must be a token id, at least 0, got {token}", param=param)
    return TokenPrompt(ids=tuple(value))


def _wrong_prompt(param: str, wanted: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} must be {wanted}", param=param, code="invalid_type")


def _sampling(
    body: CommonBody, *, card: ModelCard, arrival: Arrival, max_tokens: int, logprobs: int | None
) -> Sampling:
    if body.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"min_tokens must be at most max_tokens ({max_tokens}), got {body.min_tokens}",
            param="min_tokens",
            code="integer_above_max_value",
        )
    for index, token in enumerate(body.stop_token_ids):
        if not 0 <= token < card.vocabulary_tokens:
            param = f"stop_token_ids[{index}]"
            bound = card.vocabulary_tokens - 1
            raise InvalidRequestError(f"{param} must be from 0 to {bound}, got {token}", param=param)
    # Without a seed the text is as random as the request's id, and repeatable by it.
    seed = int(arrival.id[-16:], 16) if body.seed is None else body.seed % _UINT64
    return Sampling(
        max_tokens=max_tokens,
        seed=seed,
        # A nucleus of no mass holds the likeliest token only; mlx-lm would take 0 as off.
        temperature=0.0 if body.top_p == 0 else body.temperature,
        top_p=1.0 if body.top_p == 0 else body.top_p,
        top_k=body.top_k if 0 < body.top_k < card.vocabulary_tokens else 0,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_biases(body.logit_bias, card=card),
        logprobs=logprobs,
        stop_token_ids=tuple(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
        min_tokens=body.min_tokens,
    )


def _biases(biases: Mapping[str, float], *, card: ModelCard) -> tuple[tuple[int, float], ...]:
    read = {}
    for name, bias in biases.items():
        param = f"logit_bias.{name[:20]}"
        token = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else card.vocabulary_tokens
        if token >= card.vocabulary_tokens:
            bound = card.vocabulary_tokens - 1
            raise InvalidRequestError(f"{param} must name a token id from 0 to {bound}", param=param)
        if abs(bias) > MAX_BIAS:
            raise InvalidRequestError(
                f"{param} must be from -{MAX_BIAS:g} to {MAX_BIAS:g}, got {bias:g}", param=param
            )
        read[token] = bias
    return tuple(read.items())


def _request(
    body: CommonBody, prompt: Prompt, sampling: Sampling, *, card: ModelCard, arrival: Arrival, api: str
) -> InferenceRequest:
    key, source = _key(body, arrival)
    return InferenceRequest(
        id=arrival.id,
        model=card.id,
        prompt=prompt,
        sampling=sampling,
        arrived_s=arrival.arrived_s,
        key=key,
        key_source=source,
        stop=tuple(body.stop),
        stream=body.stream,
        api=api,
        client=arrival.client,
        connection=arrival.connection,
        priority=body.priority,
        # No client finds out by the time to its first token what another has asked.
        salt=body.cache_salt if arrival.client is None else f"{arrival.client} {body.cache_salt}",
        session=key[:MAX_SESSION_CHARS] if source in _SESSION_SOURCES else "",
    )


def _key(body: CommonBody, arrival: Arrival) -> tuple[str, str]:
    if arrival.session:
        return arrival.session, "x-session-id"
    for name in _KEY_FIELDS:
        if value := getattr(body, name):
            return value, name
    return arrival.id, "request"
