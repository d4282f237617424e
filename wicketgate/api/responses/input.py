"""The items of a Responses input as messages of a chat (pure)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from wicketgate.api.dialects import PartCount, kind_at, missing, read_at, wrong
from wicketgate.api.fields import Arguments
from wicketgate.api.responses.bodies import (
    CallItem,
    CallOutputItem,
    MessageItem,
    ReasoningItem,
    ReferenceItem,
)
from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wicketgate.api.responses.bodies import Part

    Item = Mapping[str, Any]
    Find = Callable[[str], Item | None]

_TEXT_PARTS: Final = frozenset({"input_text", "output_text", "text", "reasoning_text", "summary_text"})
_OTHER_PARTS: Final = frozenset({"input_image", "input_file", "input_audio", "computer_screenshot"})
_HOSTED: Final = re.compile(r"[a-z_]+_(call|call_output|list_tools|approval_request|approval_response)\Z")
"""Items of tools that only OpenAI hosts."""


def read_items(given: str | Sequence[object], *, find: Find) -> list[Item]:
    """
    Return the items of an input as objects, references replaced by what they name.

    Args:
        find: An item of a stored answer by its id; None where there is none.

    Raises:
        InvalidRequestError: one is no object, or names nothing.
    """
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    items: list[Item] = []
    for index, item in enumerate(given):
        place = f"input[{index}]"
        kind = kind_at(place, item, default="message")
        assert isinstance(item, dict)
        items.append({"type": kind, **item} if kind != "item_reference" else _referred(place, item, find))
    return items


def _referred(place: str, item: Item, find: Find) -> Item:
    name = read_at(place, ReferenceItem, item).id
    found = find(name)
    if found is None:
        raise InvalidRequestError(
            f"{place}.id {name[:80]!r} names no item of an answer that was stored by store: true."
            " Else send the item itself (AI SDK: providerOptions.openai.store false)",
            param=f"{place}.id",
        )
    return found


def read_messages(
    items: Sequence[Item], *, instructions: str | None, earlier: int
) -> list[dict[str, object]]:
    """
    Make messages of items.

    Args:
        instructions: Come first; system messages at the beginning are joined to them, since many templates
            take one, at the beginning.
        earlier: So many items come from earlier answers; the others stand in this request's input.

    Raises:
        InvalidRequestError: an item is wrong, or of a kind that we lack.
    """
    reader = _Reader()
    if instructions is not None:
        reader.system(instructions)
    for index, item in enumerate(items):
        reader.read(f"input[{index - earlier}]", item)
    return reader.done()


class _Reader:
    def __init__(self) -> None:
        self._system: list[str] = []
        """Texts of the system before anybody else has said anything."""
        self._messages: list[dict[str, object]] = []
        self._names: dict[str, str] = {}
        """Functions called, by call."""
        self._parts = PartCount()
        self._given = Arguments()

    def read(self, place: str, item: Item) -> None:
        kind = item["type"]
        match kind:
            case "message":
                self._message(place, read_at(place, MessageItem, item))
            case "function_call":
                self._call(place, read_at(place, CallItem, item))
            case "function_call_output":
                self._output(place, read_at(place, CallOutputItem, item))
            case "reasoning":
                self._reasoning(place, read_at(place, ReasoningItem, item))
            case _:
                code = "unsupported_value" if _HOSTED.match(kind) else None
                wanted = "message, function_call, function_call_output, reasoning or item_reference"
                raise wrong(f"{place}.type", wanted, kind, code=code)

    def system(self, text: str) -> None:
        if self._messages:
            self._messages.append({"role": "system", "content": text})
        else:
            self._system.append(text)

    def done(self) -> list[dict[str, object]]:
        if not self._system:
            return self._messages
        return [{"role": "system", "content": "\n\n".join(self._system)}, *self._messages]

    def _message(self, place: str, item: MessageItem) -> None:
        text = self._text(f"{place}.content", item.content)
        match item.role:
            case "system" | "developer":
                self.system(text)
            case "user":
                self._messages.append({"role": "user", "content": text})
            case "assistant":
                message = self._assistant()
                if message["content"] or "tool_calls" in message:
                    message = self._new_assistant()
                message["content"] = text

    def _call(self, place: str, item: CallItem) -> None:
        arguments = self._given.read(item.arguments, param=f"{place}.arguments")
        message = self._assistant()
        calls = message.setdefault("tool_calls", [])
        assert isinstance(calls, list)
        function = {"name": item.name, "arguments": arguments}
        calls.append({"id": item.call_id, "type": "function", "function": function})
        self._names[item.call_id] = item.name

    def _output(self, place: str, item: CallOutputItem) -> None:
        if item.call_id not in self._names:
            raise wrong(f"{place}.call_id", "that of a function_call before it", item.call_id)
        self._messages.append(
            {
                "role": "tool",
                "tool_call_id": item.call_id,
                "name": self._names[item.call_id],
                "content": self._text(f"{place}.output", item.output),
            }
        )

    def _reasoning(self, place: str, item: ReasoningItem) -> None:
        # What a summary says is not what was thought, and encrypted content is not ours.
        text = self._text(f"{place}.content", item.content or [])
        if text:
            self._new_assistant()["reasoning_content"] = text

    def _assistant(self) -> dict[str, object]:
        """Items of one answer are one message: reasoning, text, calls."""
        if self._messages and self._messages[-1]["role"] == "assistant":
            return self._messages[-1]
        return self._new_assistant()

    def _new_assistant(self) -> dict[str, object]:
        self._messages.append({"role": "assistant", "content": ""})
        return self._messages[-1]

    def _text(self, place: str, content: str | Sequence[Part]) -> str:
        if isinstance(content, str):
            self._parts.add(place, 1)
            return content
        self._parts.add(place, len(content))
        return "".join(_part(f"{place}[{index}]", part) for index, part in enumerate(content))


def _part(place: str, part: Part) -> str:
    if part.type not in _TEXT_PARTS | {"refusal"}:
        code = "unsupported_value" if part.type in _OTHER_PARTS else None
        raise wrong(f"{place}.type", "input_text, output_text or refusal", part.type, code=code)
    name, text = ("refusal", part.refusal) if part.type == "refusal" else ("text", part.text)
    if text is None:
        raise missing(f"{place}.{name}")
    return text
