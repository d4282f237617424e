"""
Bodies of /v1/chat/completions and /v1/completions: their fields and bounds.

A field that asks for nothing is accepted, one that asks for what is not built is refused by name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from wicketgate.api.fields import WireModel, validate
from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_STOP_CHARS: Final = 1024
MAX_SALT_CHARS: Final = 256
MAX_BIASES: Final = 1024

_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
_NEUTRAL_CHAT: Final[dict[str, tuple[object, ...]]] = {
    **_NEUTRAL,
    "tools": ([],),
    "functions": (),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "chat_template_kwargs": ({},),
}
_NEUTRAL_COMPLETION: Final[dict[str, tuple[object, ...]]] = {
    **_NEUTRAL,
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1,),
}
"""Fields that we lack, and the values that ask for nothing."""
_WITHOUT_EFFECT: Final = frozenset({"prompt_cache_retention", "verbosity"})
"""Fields that are accepted and change nothing, besides those of the models below."""


class StreamOptions(WireModel):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Part(WireModel):
    """A part of a message's content."""

    type: Literal["text", "refusal", "image_url", "input_audio", "file"]
    text: str | None = None
    refusal: str | None = None


def _content_kind(value: object) -> str:
    return "<parts>" if isinstance(value, list) else "<text>"


class Message(WireModel):
    """One message of a chat."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: (
        Annotated[
            Annotated[str, Tag("<text>")] | Annotated[list[Part], Field(min_length=1), Tag("<parts>")],
            Discriminator(_content_kind),
        ]
        | None
    ) = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Any] | None = None


class ResponseFormat(WireModel):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class CommonBody(WireModel):
    """Fields of both routes."""

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    top_p: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    # As the host bounds it: it divides, and logits must stay finite.
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100.0)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_BIASES)] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]],
        Field(max_length=16),
        BeforeValidator(_as_list),
    ] = Field(default_factory=list)
    stop_token_ids: Annotated[list[int], Field(max_length=64)] = Field(default_factory=list)
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0)] = 0
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    session_id: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    cache_salt: Annotated[str, Field(max_length=MAX_SALT_CHARS)] = ""
    priority: Annotated[int, Field(ge=0, le=9)] = 0


class ChatBody(CommonBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    response_format: ResponseFormat | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None


class CompletionBody(CommonBody):
    """POST /v1/completions."""

    prompt: Any
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] = 1


CHAT_FIELDS: Final = frozenset(ChatBody.model_fields) | frozenset(_NEUTRAL_CHAT) | _WITHOUT_EFFECT
COMPLETION_FIELDS: Final = (
    frozenset(CompletionBody.model_fields) | frozenset(_NEUTRAL_COMPLETION) | _WITHOUT_EFFECT
)
"""Names that a body may have."""


def unsupported(name: str, *accepted: object) -> InvalidRequestError:
    """Say that a field asks for what we lack, and which value would not."""
    or_send = "".join(f" or send {json.dumps(value)}" for value in accepted)
    message = f"this value of {name} is not supported yet; leave it out{or_send}"
    return InvalidRequestError(message, param=name, code="unsupported_parameter")


def read_chat(fields: Mapping[str, Any]) -> ChatBody:
    """
    Check the body of a chat.

    Raises:
        InvalidRequestError: a field is missing, wrong, or asks for what we lack.
    """
    body = validate(ChatBody, fields)
    _refuse_unsupported(fields, _NEUTRAL_CHAT)
    _check_common(body)
    if body.response_format is not None and body.response_format.type != "text":
        raise unsupported("response_format", {"type": "text"})
    if body.tool_choice not in (None, "none", "auto"):
        raise InvalidRequestError("tool_choice must be none or auto without tools", param="tool_choice")
    if body.parallel_tool_calls is False:
        raise InvalidRequestError("parallel_tool_calls needs tools", param="parallel_tool_calls")
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    if len({body.max_tokens, body.max_completion_tokens} - {None}) > 1:
        raise InvalidRequestError(
            f"max_tokens ({body.max_tokens}) and max_completion_tokens ({body.max_completion_tokens})"
            " mean the same and must be equal; send one",
            param="max_tokens",
            code="invalid_parameter_combination",
        )
    return body


def read_completion(fields: Mapping[str, Any]) -> CompletionBody:
    """
    Check the body of a completion.

    Raises:
        InvalidRequestError: a field is missing, wrong, or asks for what we lack.
    """
    body = validate(CompletionBody, fields)
    _refuse_unsupported(fields, _NEUTRAL_COMPLETION)
    _check_common(body)
    return body


def _refuse_unsupported(fields: Mapping[str, Any], neutral: Mapping[str, tuple[object, ...]]) -> None:
    for name, values in neutral.items():
        if name in fields and fields[name] not in values:
            raise unsupported(name, *values[:1])


def _check_common(body: CommonBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options needs stream: true", param="stream_options")
