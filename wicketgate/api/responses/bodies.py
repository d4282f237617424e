"""
Body of /v1/responses: its fields, their bounds, and the items of its input.

A field that asks for nothing is accepted, one that asks for what is not built is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from wicketgate.api.dialects import MAX_ITEMS, MAX_LISTED_TOOLS, missing
from wicketgate.api.fields import MAX_TEMPLATE_KWARGS, WireModel, check_template_kwargs, sized, validate
from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_METADATA: Final = 64
LOGPROBS: Final = "message.output_text.logprobs"
"""The one value of `include` that has an effect."""
_INCLUDES: Final = frozenset(
    {
        LOGPROBS,
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
        "reasoning.encrypted_content",
    }
)
_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "background": (False,),
    "truncation": ("disabled",),
    "service_tier": ("auto", "default"),
    "conversation": (),
    "prompt": (),
    "context_management": ([],),
    "moderation": (),
}
"""Fields that we lack, and the values that ask for nothing."""
_WITHOUT_EFFECT: Final = frozenset(
    {
        *("max_tool_calls", "prompt_cache_retention", "prompt_cache_options", "prompt_cache_diagnostics"),
        *("stream_options", "client_metadata", "access_programs", "verbosity"),
    }
)
"""Fields that are accepted and change nothing, besides those of the model below."""
EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class Reasoning(WireModel):
    """Whether to think before the answer; a summary is never made."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: str | None = None


class Format(WireModel):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    # "schema" is a method of pydantic's models.
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class Text(WireModel):
    """What is said of the answer's text."""

    format: Format = Format(type="text")
    verbosity: str | None = None


class FunctionTool(WireModel):
    """A function that the answer may call."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(WireModel):
    """A tool named in tool_choice."""

    type: str
    name: str | None = None


class ChoiceOfTool(WireModel):
    """`tool_choice` as an object."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_LISTED_TOOLS)] | None = None


def _kind(value: object) -> str:
    return "<items>" if isinstance(value, list) else "<text>"


def _choice_kind(value: object) -> str:
    return "<object>" if isinstance(value, dict) else "<word>"


class ResponsesBody(WireModel):
    """POST /v1/responses."""

    model: str | None = None
    input: Annotated[
        Annotated[str, Tag("<text>")]
        | Annotated[list[Any], Field(min_length=1, max_length=MAX_ITEMS), Tag("<items>")],
        Discriminator(_kind),
    ]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    top_p: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    include: Annotated[list[str], Field(max_length=64)] = Field(default_factory=list)
    stream: bool = False
    store: bool | None = None
    text: Text = Text()
    reasoning: Reasoning = Reasoning()
    tools: Annotated[list[Any], Field(max_length=MAX_LISTED_TOOLS)] = Field(default_factory=list)
    tool_choice: Annotated[
        Annotated[Literal["none", "auto", "required"], Tag("<word>")]
        | Annotated[ChoiceOfTool, Tag("<object>")],
        Discriminator(_choice_kind),
    ] = "auto"
    parallel_tool_calls: bool = True
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=MAX_TEMPLATE_KWARGS)] = Field(
        default_factory=dict
    )
    metadata: Annotated[dict[str, str], Field(max_length=MAX_METADATA), sized(MAX_METADATA)] = Field(
        default_factory=dict
    )
    user: str | None = None
    session_id: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    cache_salt: Annotated[str, Field(max_length=256)] = ""
    priority: Annotated[int, Field(ge=0, le=9)] = 0


class Part(WireModel):
    """A part of a message's content, or of a function's output."""

    type: str
    text: str | None = None
    refusal: str | None = None


Parts = Annotated[list[Part], Field(max_length=MAX_ITEMS, fail_fast=True)]


def _content_kind(value: object) -> str:
    return "<parts>" if isinstance(value, list) else "<text>"


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Parts, Tag("<parts>")], Discriminator(_content_kind)
]


class MessageItem(WireModel):
    """What somebody said."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class CallItem(WireModel):
    """A call of a function, that an answer held."""

    call_id: str
    name: str
    arguments: str


class CallOutputItem(WireModel):
    """What the function gave."""

    call_id: str
    output: Content


class ReasoningItem(WireModel):
    """What the model thought."""

    content: Parts | None = None


class ReferenceItem(WireModel):
    """An item of a stored answer."""

    id: str


FIELDS: Final = frozenset(ResponsesBody.model_fields) | frozenset(_NEUTRAL) | _WITHOUT_EFFECT
"""Names that a body may have."""


def read_body(fields: Mapping[str, Any]) -> ResponsesBody:
    """
    Check a body.

    Raises:
        InvalidRequestError: a field is missing, wrong, or asks for what we lack.
    """
    body = validate(ResponsesBody, fields)
    for name, values in _NEUTRAL.items():
        if name in fields and fields[name] not in values:
            raise _unsupported(name, values)
    check_template_kwargs(body.chat_template_kwargs)
    for index, name in enumerate(body.include):
        if name not in _INCLUDES:
            param = f"include[{index}]"
            raise InvalidRequestError(f"{param} must be one of {', '.join(sorted(_INCLUDES))}", param=param)
    form = body.text.format
    if form.type == "json_schema":
        for name, value in (("name", form.name), ("schema", form.json_schema)):
            if value is None:
                raise missing(f"text.format.{name}")
    return body


def _unsupported(name: str, values: tuple[object, ...]) -> InvalidRequestError:
    instead = f" or send {values[0]!r}".lower() if values else ""
    return InvalidRequestError(
        f"this value of {name} is not supported; leave it out{instead}",
        param=name,
        code="unsupported_parameter",
    )
