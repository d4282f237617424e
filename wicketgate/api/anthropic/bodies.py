"""
Bodies of /v1/messages and /v1/messages/count_tokens: their fields and bounds, and the blocks of messages.

A field that asks for nothing is accepted, one that asks for what is not built is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from wicketgate.api.dialects import MAX_ITEMS, MAX_LISTED_TOOLS, missing, wrong
from wicketgate.api.fields import MAX_TEMPLATE_KWARGS, WireModel, check_template_kwargs, validate
from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_STOP_CHARS: Final = 1024
_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {"mcp_servers": ([],), "container": ()}
"""Fields that we lack, and the values that ask for nothing."""
_WITHOUT_EFFECT: Final = frozenset(
    {
        *("service_tier", "context_management", "cache_control", "diagnostics", "inference_geo", "speed"),
        *("user_profile_id", "workspace_id", "betas"),
    }
)
"""Fields that are accepted and change nothing, besides those of the model below."""


class TextBlock(WireModel):
    """Text."""

    text: str


class SystemBlock(WireModel):
    """A block of the system prompt."""

    type: Literal["text"]
    text: str


class ThinkingBlock(WireModel):
    """What the model thought."""

    thinking: str


class ToolUseBlock(WireModel):
    """A call of a tool, that an answer held."""

    id: str
    name: str
    input: dict[str, Any]


def _kind(value: object) -> str:
    return "<blocks>" if isinstance(value, list) else "<text>"


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Any], Field(max_length=MAX_ITEMS), Tag("<blocks>")],
    Discriminator(_kind),
]


class ToolResultBlock(WireModel):
    """What the tool gave."""

    tool_use_id: str
    content: Content = ""
    is_error: bool = False


class Message(WireModel):
    """What somebody said; several of the same role in a row are one."""

    role: Literal["user", "assistant", "system"]
    content: Content


class ClientTool(WireModel):
    """A tool that the client runs."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool = False


class ToolChoice(WireModel):
    """Whether the answer calls tools, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(WireModel):
    """Whether to think before the answer."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1024)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class Format(WireModel):
    """The form of the answer's text."""

    type: Literal["json_schema"]
    # "schema" is a method of pydantic's models.
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(WireModel):
    """What is said of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Format | None = None


class Metadata(WireModel):
    """About the request."""

    user_id: str | None = None


class PromptBody(WireModel):
    """POST /v1/messages/count_tokens: what of a request makes its prompt."""

    model: str | None = None
    messages: Annotated[list[Any], Field(min_length=1, max_length=MAX_ITEMS)]
    system: (
        Annotated[
            Annotated[str, Tag("<text>")]
            | Annotated[list[SystemBlock], Field(max_length=MAX_ITEMS, fail_fast=True), Tag("<blocks>")],
            Discriminator(_kind),
        ]
        | None
    ) = None
    tools: Annotated[list[Any], Field(max_length=MAX_LISTED_TOOLS)] = Field(default_factory=list)
    tool_choice: ToolChoice = ToolChoice(type="auto")
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: Format | None = None
    """As the beta had it; now output_config.format."""
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=MAX_TEMPLATE_KWARGS)] = Field(
        default_factory=dict
    )


class MessagesBody(PromptBody):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=0)]
    stop_sequences: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]], Field(max_length=16)
    ] = Field(default_factory=list)
    stream: bool = False
    temperature: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    top_p: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    metadata: Metadata = Metadata()
    session_id: str | None = None
    cache_salt: Annotated[str, Field(max_length=256)] = ""
    priority: Annotated[int, Field(ge=0, le=9)] = 0


FIELDS: Final = frozenset(MessagesBody.model_fields) | frozenset(_NEUTRAL) | _WITHOUT_EFFECT
"""Names that a body may have; count_tokens takes them all."""


def read_messages_body(fields: Mapping[str, Any]) -> MessagesBody:
    """
    Check the body of a message.

    Raises:
        InvalidRequestError: a field is missing, wrong, or asks for what we lack.
    """
    body = validate(MessagesBody, fields)
    _check(body, fields)
    thinking = body.thinking
    if thinking is not None and thinking.type == "enabled":
        if thinking.budget_tokens is None:
            raise missing("thinking.budget_tokens")
        if thinking.budget_tokens >= body.max_tokens:
            raise wrong(
                "thinking.budget_tokens", f"below max_tokens ({body.max_tokens})", thinking.budget_tokens
            )
    return body


def read_prompt_body(fields: Mapping[str, Any]) -> PromptBody:
    """
    Check the body of a count.

    Raises:
        InvalidRequestError: a field is missing, wrong, or asks for what we lack.
    """
    body = validate(PromptBody, fields)
    _check(body, fields)
    return body


def _check(body: PromptBody, fields: Mapping[str, Any]) -> None:
    for name, values in _NEUTRAL.items():
        if name in fields and fields[name] not in values:
            raise InvalidRequestError(
                f"{name} is not supported; leave it out", param=name, code="unsupported_parameter"
            )
    check_template_kwargs(body.chat_template_kwargs)
    if body.tool_choice.type == "tool" and body.tool_choice.name is None:
        raise missing("tool_choice.name")
