"""The system prompt and messages of Anthropic's API as messages of a chat (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from wicketgate.api.anthropic.bodies import (
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from wicketgate.api.dialects import PartCount, empty, kind_at, read_at, wrong

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.api.anthropic.bodies import PromptBody
    from wicketgate.errors import InvalidRequestError

SEPARATOR: Final = "\n\n"
"""Between blocks of text of a user or of the system; those of an answer are one text."""
_KINDS: Final = {
    "system": ("text",),
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
}
"""What blocks a message of each role may have."""
_OTHER_KINDS: Final = frozenset(
    {"image", "document", "search_result", "container_upload", "server_tool_use", "compaction"}
)
"""What Anthropic knows and we lack, besides results of its own tools."""


def read_messages(body: PromptBody) -> tuple[tuple[dict[str, object], ...], bool]:
    """
    Make messages of a body.

    Returns:
        The messages, and whether the last of them is the beginning of the answer.

    Raises:
        InvalidRequestError: a block is wrong, or of a kind that we lack.
    """
    reader = _Reader()
    if body.system is not None:
        texts = [body.system] if isinstance(body.system, str) else [block.text for block in body.system]
        reader.system(SEPARATOR.join(texts))
    for index, message in enumerate(body.messages):
        place = f"messages[{index}]"
        reader.read(place, read_at(place, Message, message))
    messages = reader.done()
    last = messages[-1]
    if last["role"] != "assistant":
        return messages, False
    if "tool_calls" in last:
        place = f"messages[{len(body.messages) - 1}]"
        raise wrong(place, "followed by the tool_result of each tool_use in it")
    if last["content"]:
        return messages, True
    if len(messages) == 1:
        raise empty("messages[0].content")
    # Nothing that could be continued, a thought neither.
    return messages[:-1], False


@dataclass(slots=True)
class _Turn:
    """One message while blocks are added to it."""

    role: str
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[dict[str, object]] = field(default_factory=list)
    about: dict[str, object] = field(default_factory=dict)
    """Which call a tool answers."""

    def message(self) -> dict[str, object]:
        separator = "" if self.role == "assistant" else SEPARATOR
        message: dict[str, object] = {"role": self.role, "content": separator.join(self.texts), **self.about}
        if self.thoughts:
            message["reasoning_content"] = "".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class _Reader:
    def __init__(self) -> None:
        self._turns: list[_Turn] = []
        self._names: dict[str, str] = {}
        """Tools called, by call."""
        self._parts = PartCount()

    def read(self, place: str, message: Message) -> None:
        if message.role == "assistant":
            self._turn("assistant")  # where it is empty, too
        if isinstance(message.content, str):
            self._turn(message.role).texts.append(message.content)
            return
        if not message.content and message.role != "assistant":
            raise empty(f"{place}.content")
        self._parts.add(f"{place}.content", len(message.content))
        for index, block in enumerate(message.content):
            self._block(message.role, f"{place}.content[{index}]", block)

    def system(self, text: str) -> None:
        self._turn("system").texts.append(text)

    def done(self) -> tuple[dict[str, object], ...]:
        return tuple(turn.message() for turn in self._turns)

    def _block(self, role: str, place: str, block: object) -> None:
        kind = kind_at(place, block)
        if kind not in _KINDS[role]:
            raise _wrong_kind(place, kind, _KINDS[role])
        match kind:
            case "text":
                self._turn(role).texts.append(read_at(place, TextBlock, block).text)
            case "tool_use":
                self._call(read_at(place, ToolUseBlock, block))
            case "tool_result":
                self._result(place, read_at(place, ToolResultBlock, block))
            case "thinking":
                self._turn(role).thoughts.append(read_at(place, ThinkingBlock, block).thinking)
            case _:
                pass  # Nobody but its maker can read redacted thinking.

    def _call(self, block: ToolUseBlock) -> None:
        function = {"name": block.name, "arguments": block.input}
        self._turn("assistant").calls.append({"id": block.id, "type": "function", "function": function})
        self._names[block.id] = block.name

    def _result(self, place: str, block: ToolResultBlock) -> None:
        name = self._names.get(block.tool_use_id)
        if name is None:
            raise wrong(f"{place}.tool_use_id", "the id of a tool_use before it", block.tool_use_id)
        texts = self._result_texts(f"{place}.content", block.content)
        about: dict[str, object] = {"tool_call_id": block.tool_use_id, "name": name}
        self._turns.append(_Turn("tool", texts=texts, about=about))

    def _result_texts(self, place: str, content: str | Sequence[object]) -> list[str]:
        if isinstance(content, str):
            return [content]
        self._parts.add(place, len(content))
        texts = []
        for index, block in enumerate(content):
            where = f"{place}[{index}]"
            if (kind := kind_at(where, block)) != "text":
                raise _wrong_kind(where, kind, ("text",))
            texts.append(read_at(where, TextBlock, block).text)
        return texts

    def _turn(self, role: str) -> _Turn:
        """Return the message that a role's next block belongs to: the last one, or a new one."""
        if not self._turns or self._turns[-1].role != role:
            self._turns.append(_Turn(role))
        return self._turns[-1]


def _wrong_kind(place: str, kind: str, wanted: Sequence[str]) -> InvalidRequestError:
    is_known = kind in _OTHER_KINDS or kind.endswith("_tool_result")
    code = "unsupported_value" if is_known else None
    return wrong(f"{place}.type", " or ".join(wanted), kind, code=code)
