"""
Requests that must be refused, each by its field and code: the numbered table that every API is tested with.

A row is a change to a valid body. Each API has its tuple of rows; `ROWS` puts them together, in the order of
their numbers. They are meant for two loaded models, since with one `model` may be left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
UNSUPPORTED, UNSUPPORTED_VALUE = "unsupported_parameter", "unsupported_value"
EMPTY_LIST, EMPTY_TEXT, LONG_LIST = "empty_array", "empty_string", "array_above_max_length"
SMALL, LARGE = "integer_below_min_value", "integer_above_max_value"
BELOW, ABOVE = "decimal_below_min_value", "decimal_above_max_value"
SCHEMA, COMBINATION, JSON = "invalid_json_schema", "invalid_parameter_combination", "invalid_json"
ABSENT: Final = object()
"""In place of a value: the field is left out."""

PATHS: Final = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
BODIES: Final[dict[str, dict[str, Any]]] = {
    "chat": {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4},
    "completions": {"model": "demo", "prompt": "hi", "max_tokens": 4},
    "responses": {"model": "demo", "input": "hi"},
    "messages": {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4},
}
"""By API: where it is, and a valid body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One invalid request, and what it gets."""

    number: int
    api: str
    change: dict[str, Any]
    code: str
    param: str | None
    status: int = 400
    of_engine: bool = False
    """Only a model's own tokens tell; a faked pipeline takes it."""

    @property
    def body(self) -> dict[str, Any]:
        """The body to send."""
        fields = BODIES[self.api] | self.change
        return {name: value for name, value in fields.items() if value is not ABSENT}

    @property
    def id(self) -> str:
        """What tests call it."""
        return f"{self.number}-{','.join(self.change)}"


def _rows(api: str, first: int, cases: list[tuple[Any, ...]]) -> tuple[Row, ...]:
    """Number cases of (change, code) and, where it is not the only changed field, the param."""
    return tuple(
        Row(
            number=number,
            api=api,
            change=change,
            code=code,
            param=more[0] if more else next(iter(change)),
            status=404 if code in {"model_not_found", "not_found_error"} else 400,
            of_engine=code == "context_length_exceeded",
        )
        for number, (change, code, *more) in enumerate(cases, start=first)
    )


def says(content: Any) -> dict[str, Any]:
    """A chat of one message."""
    return {"messages": [{"role": "user", "content": content}]}


def function(**fields: Any) -> dict[str, Any]:
    """A tool."""
    return {"type": "function", "function": fields}


def answered_as(schema: dict[str, Any]) -> dict[str, Any]:
    """A chat whose answer must fit a schema."""
    json_schema = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


F: Final = function(name="f", parameters={"type": "object", "properties": {}})
_PLACE: Final = "response_format.json_schema.schema"
_IMAGE: Final = {"type": "image_url", "image_url": {"url": "data:,"}}

CHAT: Final = _rows(
    "chat",
    1,
    [
        ({"model": ABSENT}, MISSING),
        ({"model": 7}, TYPE),
        ({"model": "nope"}, "model_not_found"),
        ({"messages": ABSENT}, MISSING),
        ({"messages": []}, EMPTY_LIST),
        ({"messages": [{"role": "robot", "content": "x"}]}, VALUE, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, MISSING, "messages[0].content"),
        (says([{"type": "zap"}]), VALUE, "messages[0].content[0].type"),
        (says([_IMAGE]), UNSUPPORTED_VALUE, "messages[0].content[0].type"),
        (says("\ud800"), JSON, None),
        ({"messages": [{"role": "tool", "content": "x"}]}, MISSING, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "z"}]},
            VALUE,
            "messages[0].tool_call_id",
        ),
        (says("word " * 100_000), "context_length_exceeded"),
        ({"temperature": -0.1}, BELOW),
        ({"temperature": 2.1}, ABOVE),
        ({"temperature": float("inf")}, VALUE),
        ({"top_p": 1.1}, ABOVE),
        ({"n": 0}, SMALL),
        ({"n": 129}, LARGE),
        ({"n": True}, TYPE),
        ({"max_tokens": 0}, SMALL),
        ({"max_tokens": 5, "max_completion_tokens": 6}, COMBINATION),
        ({"max_completion_tokens": 10**9, "max_tokens": ABSENT}, LARGE),
        ({"stop": 5}, TYPE),
        ({"stop": [1]}, TYPE, "stop[0]"),
        ({"stop": [""]}, EMPTY_TEXT, "stop[0]"),
        ({"stop": ["x"] * 17}, LONG_LIST),
        ({"presence_penalty": 2.5}, ABOVE),
        ({"logit_bias": {"abc": 1}}, VALUE, "logit_bias.abc"),
        ({"logit_bias": {"999999999": 1}}, VALUE, "logit_bias.999999999"),
        ({"logit_bias": {"5": 101}}, ABOVE, "logit_bias.5"),
        ({"logprobs": 3}, TYPE),
        ({"top_logprobs": 21, "logprobs": True}, LARGE),
        ({"top_logprobs": 3}, VALUE),
        ({"seed": 2**63}, LARGE),
        ({"stream": "yes"}, TYPE),
        ({"stream_options": {}}, VALUE),
        ({"response_format": {"type": "xml"}}, VALUE, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, MISSING, "response_format.json_schema"),
        (answered_as({"type": "strin"}), SCHEMA, _PLACE),
        (answered_as({"type": "object", "properties": {"a": {"type": "string"}}}), SCHEMA, _PLACE),
        (answered_as({"$ref": "https://x/y"}), SCHEMA, _PLACE),
        (answered_as({"type": "integer", "minimum": 5, "maximum": 1}), SCHEMA, _PLACE),
        ({"tools": [{"type": "zap"}]}, VALUE, "tools[0].type"),
        ({"tools": [function()]}, MISSING, "tools[0].function.name"),
        ({"tools": [function(name="a b")]}, VALUE, "tools[0].function.name"),
        ({"tools": [F, F]}, VALUE, "tools[1].function.name"),
        ({"tools": [function(name=f"f{index}") for index in range(129)]}, LONG_LIST),
        ({"tool_choice": "must"}, VALUE),
        ({"tool_choice": "required"}, VALUE),
        ({"tool_choice": function(name="g"), "tools": [F]}, VALUE),
        ({"parallel_tool_calls": False}, VALUE),
        ({"functions": [{"name": "f"}]}, UNSUPPORTED),
        ({"temprature": 1}, "unknown_parameter"),
        ({"metadata": {"a": 1}}, TYPE, "metadata.a"),
        ({"top_k": -2}, SMALL),
        ({"min_p": 1.5}, ABOVE),
        ({"min_tokens": 9}, VALUE),
        ({"stop_token_ids": [-1]}, VALUE, "stop_token_ids[0]"),
    ],
)
COMPLETIONS: Final = _rows(
    "completions",
    60,
    [
        ({"prompt": ABSENT}, MISSING),
        ({"prompt": []}, EMPTY_LIST),
        ({"prompt": ["a", 1]}, TYPE, "prompt[1]"),
        ({"prompt": [-1]}, VALUE, "prompt[0]"),
        ({"suffix": "x"}, UNSUPPORTED),
        ({"best_of": 1, "n": 2}, VALUE),
        ({"best_of": 2, "stream": True}, VALUE),
        ({"logprobs": 6}, LARGE),
    ],
)
_ANSWERED: Final = {"type": "function_call_output", "call_id": "z", "output": "1"}
_UNNAMED: Final = {"format": {"type": "json_schema", "schema": {}}}
RESPONSES: Final = _rows(
    "responses",
    68,
    [
        ({"input": ABSENT}, MISSING),
        ({"input": [{"type": "zap"}]}, VALUE, "input[0].type"),
        ({"input": [_ANSWERED]}, VALUE, "input[0].call_id"),
        ({"previous_response_id": "resp_x"}, "previous_response_not_found"),
        ({"max_output_tokens": 0}, SMALL),
        ({"include": ["zap"]}, VALUE, "include[0]"),
        ({"background": True}, UNSUPPORTED),
        ({"text": _UNNAMED}, MISSING, "text.format.name"),
        ({"tools": [{"name": "f"}]}, MISSING, "tools[0].type"),
    ],
)
_BAD: Final = "invalid_request_error"
_RESULT: Final = {"type": "tool_result", "tool_use_id": "z"}
_ROBOT: Final = {"messages": [{"role": "robot", "content": "x"}]}
MESSAGES: Final = _rows(  # Anthropic's errors have a type and no code, and the path in the message.
    "messages",
    77,
    [
        ({"max_tokens": ABSENT}, _BAD),
        ({"max_tokens": -1}, _BAD),
        ({"messages": ABSENT}, _BAD),
        ({"messages": []}, _BAD),
        (_ROBOT, _BAD, "messages.0.role"),
        (says([{"type": "zap"}]), _BAD, "messages.0.content.0.type"),
        (says([_RESULT]), _BAD, "messages.0.content.0.tool_use_id"),
        ({"stop_sequences": [""]}, _BAD, "stop_sequences.0"),
        ({"temperature": 1.5}, _BAD),
        ({"tools": [{"name": "f"}]}, _BAD, "tools.0.input_schema"),
        ({"tool_choice": {"type": "any"}}, _BAD),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, _BAD, "thinking.budget_tokens"),
        ({"model": "nope"}, "not_found_error"),
    ],
)
ROWS: Final = (*CHAT, *COMPLETIONS, *RESPONSES, *MESSAGES)
