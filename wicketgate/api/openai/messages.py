"""The messages of a chat, checked, in the form that templates want (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wicketgate.api.fields import Arguments
from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.api.openai.bodies import Call, Message, Part


def template_messages(messages: Sequence[Message]) -> tuple[dict[str, object], ...]:
    """
    Return messages as ChatPrompt wants them.

    Raises:
        InvalidRequestError: one holds nothing or what is not supported, or answers a call that nobody made.
    """
    called: set[str] = set()
    given = Arguments()
    return tuple(_message(message, f"messages[{i}]", called, given) for i, message in enumerate(messages))


def _message(message: Message, where: str, called: set[str], given: Arguments) -> dict[str, object]:
    # Templates know "system"; OpenAI's "developer" means the same.
    role = "system" if message.role == "developer" else message.role
    rendered: dict[str, object] = {"role": role, "content": _content(message, where)}
    if message.name is not None:
        rendered["name"] = message.name
    if message.reasoning_content is not None:
        rendered["reasoning_content"] = message.reasoning_content
    if role == "tool":
        rendered["tool_call_id"] = _answered(message.tool_call_id, f"{where}.tool_call_id", called)
    if message.tool_calls:
        if role != "assistant":
            param = f"{where}.tool_calls"
            raise InvalidRequestError(f"{param} needs role assistant, got {role}", param=param)
        rendered["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{index}]", given)
            for index, call in enumerate(message.tool_calls)
        ]
        called.update(call.id for call in message.tool_calls)
    return rendered


def _content(message: Message, where: str) -> str:
    match message.content:
        case str(text):
            return text
        case None if message.refusal is not None:
            return message.refusal
        case None if message.role == "assistant" and message.tool_calls:
            return ""
        case None:
            raise _missing(f"{where}.content")
        case parts:
            return "".join(_part(part, f"{where}.content[{index}]") for index, part in enumerate(parts))


def _part(part: Part, where: str) -> str:
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


def _answered(call_id: str | None, param: str, called: set[str]) -> str:
    if call_id is None:
        raise _missing(param)
    if call_id not in called:
        raise InvalidRequestError(f"{param} must be the id of a tool call in an earlier message", param=param)
    return call_id


def _call(call: Call, where: str, given: Arguments) -> dict[str, object]:
    """Templates read arguments by name, so that they get the object that the text holds."""
    arguments = given.read(call.function.arguments, param=f"{where}.function.arguments")
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _missing(param: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} is required", param=param, code="missing_required_parameter")
