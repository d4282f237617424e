"""
Bodies of /v1/chat/completions and /v1/completions: their fields and bounds.

A field that asks for nothing is accepted, one that asks for what is not built is refused by name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from wicketgate.api.fields import MAX_TEMPLATE_KWARGS, WireModel, check_template_kwargs, sized, validate
from wicketgate.api.tools import MAX_TOOLS, NAME_PATTERN
from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_STOP_CHARS: Final = 1024
MAX_SALT_CHARS: Final = 256
MAX_BIASES: Final = 1024
MAX_METADATA: Final = 64
MAX_ITEMS: Final = 10_000
"""Messages, and the parts and calls of all of them: they are read on the event loop."""

_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "moderation": (),
    "web_search_options": (),
    "suffix": ("",),
}
"""Fields that ask for what we lack, and the values of them that ask for nothing."""


_LISTS: Final = ("content", "tool_calls")
"""Fields of a message that may be lists."""


class StreamOptions(WireModel):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Part(WireModel):
    """A part of a message's content."""

    type: Literal["text", "refusal", "image_url", "input_audio", "file"]
    text: str | None = None
    refusal: str | None = None


class CalledFunction(WireModel):
    """What an earlier answer has called."""

    name: str
    arguments: str = ""
    """A JSON object as text."""


class Call(WireModel):
    """A tool call of an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


def _content_kind(value: object) -> str:
    return "<parts>" if isinstance(value, list) else "<text>"


class Message(WireModel):
    """One message of a chat."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: (
        Annotated[
            Annotated[str, Tag("<text>")]
            | Annotated[list[Part], Field(min_length=1, fail_fast=True), Tag("<parts>")],
            Discriminator(_content_kind),
        ]
        | None
    ) = None
    refusal: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_call_id: str | None = None
    tool_calls: Annotated[list[Call], Field(max_length=MAX_TOOLS, fail_fast=True)] = Field(
        default_factory=list
    )


class JsonSchema(WireModel):
    """The schema of an answer."""

    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool = False


class ResponseFormat(WireModel):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Function(WireModel):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class ToolEntry(WireModel):
    """A tool."""

    type: Literal["function"]
    function: Function


class FunctionName(WireModel):
    """A function by its name."""

    name: str


class NamedTool(WireModel):
    """A tool by its name."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(WireModel):
    """Which of the tools may be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedChoice(WireModel):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _choice_kind(value: object) -> str:
    if not isinstance(value, dict):
        return "<word>"
    return "<allowed>" if value.get("type") == "allowed_tools" else "<named>"


Choice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<word>")]
    | Annotated[NamedTool, Tag("<named>")]
    | Annotated[AllowedChoice, Tag("<allowed>")],
    Discriminator(_choice_kind),
]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
_Stops = Annotated[list[_Stop], Field(max_length=16)]


class CommonBody(WireModel):
    """Fields of both routes."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    top_p: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    # As the host bounds it: it divides, and logits must stay finite.
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100.0)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100.0, le=100.0)]],
        Field(max_length=MAX_BIASES),
        sized(MAX_BIASES),
    ] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[_Stops, BeforeValidator(_as_list, json_schema_input_type=_Stop | _Stops)] = Field(
        default_factory=list
    )
    stop_token_ids: Annotated[list[int], Field(max_length=64)] = Field(default_factory=list)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0)] = 0
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    session_id: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    cache_salt: Annotated[str, Field(max_length=MAX_SALT_CHARS)] = ""
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    # These change nothing.
    metadata: Annotated[dict[str, str], Field(max_length=MAX_METADATA), sized(MAX_METADATA)] | None = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    # Of these only values that ask for nothing are accepted.
    store: bool = False
    service_tier: str | None = None


class ChatBody(CommonBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolEntry], Field(max_length=MAX_TOOLS)] = Field(default_factory=list)
    tool_choice: Choice | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=MAX_TEMPLATE_KWARGS)] = Field(
        default_factory=dict
    )
    # It changes nothing.
    verbosity: str | None = None
    # Of these only values that ask for nothing are accepted.
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    moderation: Any = None
    web_search_options: Any = None


_IDS: Final = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_PROMPT: Final = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1},
    ]
}
"""pydantic would name the alternatives of a wrong prompt, and not its place; so that it is read by hand."""


class CompletionBody(CommonBody):
    """POST /v1/completions."""

    prompt: Annotated[Any, WithJsonSchema(_PROMPT)]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    echo: bool = False
    # Only a value that asks for nothing is accepted.
    suffix: str | None = None


def unsupported(name: str, *accepted: object) -> InvalidRequestError:
    """Say that a field asks for what we lack, and which value would not."""
    or_send = "".join(f" or send {json.dumps(value)}" for value in accepted)
    message = f"this value of {name} is not supported; leave it out{or_send}"
    return InvalidRequestError(message, param=name, code="unsupported_parameter")


def read_chat(fields: Mapping[str, Any]) -> ChatBody:
    """
    Check the body of a chat, as far as it can be without the model.

    Raises:
        InvalidRequestError: a field is missing, wrong, or asks for what we lack.
    """
    _check_items(fields.get("messages"))
    body = validate(ChatBody, fields)
    _check_common(body)
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    if len({body.max_tokens, body.max_completion_tokens} - {None}) > 1:
        raise InvalidRequestError(
            f"max_tokens ({body.max_tokens}) and max_completion_tokens ({body.max_completion_tokens})"
            " mean the same and must be equal; send one",
            param="max_tokens",
            code="invalid_parameter_combination",
        )
    if not body.parallel_tool_calls and not body.tools:
        raise InvalidRequestError("parallel_tool_calls needs tools", param="parallel_tool_calls")
    _check_names(body.tools)
    check_template_kwargs(body.chat_template_kwargs)
    return body


def read_completion(fields: Mapping[str, Any]) -> CompletionBody:
    """
    Check the body of a completion, as far as it can be without the model.

    Raises:
        InvalidRequestError: a field is missing, wrong, or asks for what we lack.
    """
    body = validate(CompletionBody, fields)
    _check_common(body)
    if body.best_of is not None and body.best_of < body.n:
        raise InvalidRequestError(
            f"best_of must be at least n ({body.n}), got {body.best_of}", param="best_of"
        )
    if body.best_of is not None and body.best_of > body.n and body.stream:
        raise InvalidRequestError("best_of above n needs stream: false", param="best_of")
    if body.max_tokens == 0 and body.stream:
        raise InvalidRequestError("max_tokens 0 leaves nothing to stream", param="max_tokens")
    return body


def _check_common(body: CommonBody) -> None:
    for name in body.model_fields_set & _NEUTRAL.keys():
        if getattr(body, name) not in _NEUTRAL[name]:
            raise unsupported(name, *_NEUTRAL[name][:1])
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options needs stream: true", param="stream_options")


def _check_items(messages: object) -> None:
    """Bound what is to be read before it is: of a list, pydantic would report every fault that it holds."""
    if not isinstance(messages, list):
        return
    count = len(messages)
    if count <= MAX_ITEMS:
        inner = (message.get(name) for message in messages if isinstance(message, dict) for name in _LISTS)
        count += sum(len(value) for value in inner if isinstance(value, list))
    if count > MAX_ITEMS:
        raise InvalidRequestError(
            f"messages must have at most {MAX_ITEMS} entries, parts and tool calls counted, got {count}",
            param="messages",
            code="array_above_max_length",
        )


def _check_names(tools: Sequence[ToolEntry]) -> None:
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.function.name in seen:
            param = f"tools[{index}].function.name"
            raise InvalidRequestError(
                f"{param} must differ from those before it, got {tool.function.name}", param=param
            )
        seen.add(tool.function.name)
