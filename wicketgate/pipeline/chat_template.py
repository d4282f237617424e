"""A model's chat template, rendered in the environment that transformers gives it, without transformers."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import jinja2
from jinja2 import meta
from jinja2.ext import Extension
from jinja2.nodes import CallBlock
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wicketgate.errors import ConfigurationError, InvalidRequestError
from wicketgate.pipeline.chat_messages import Message, plain_messages, told_messages
from wicketgate.pipeline.thinking import think_pair

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence
    from pathlib import Path

    from jinja2.nodes import Node
    from jinja2.parser import Parser

MOST_CHARS: Final = 64 * 1024 * 1024
"""No rendering is longer, whatever a template makes of the messages that it is given."""
_MOST_ENDINGS: Final = 64
_CUT: Final = "\ue000cut\ue001"
"""Characters of private use: no template looks for them or changes them."""
_EXAMPLE: Final[tuple[Message, ...]] = ({"role": "user", "content": "a"},)
_EXAMPLE_CALL: Final[tuple[Message, ...]] = (
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "abcdefgh0", "type": "function", "function": {"name": "f", "arguments": {}}}],
    },
    {"role": "tool", "tool_call_id": "abcdefgh0", "name": "f", "content": "b"},
)
_EXAMPLE_TOOL: Final = {
    "type": "function",
    "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}},
}
_FAULTS: Final = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError)
"""What a template may raise about the messages it is given."""


def read_json(path: Path) -> dict[str, Any]:
    """
    Read one of a model's JSON files; one that is not there is empty.

    Raises:
        ConfigurationError: it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}; fetch the model again") from None
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path} must hold a JSON object; fetch the model again")
    return value


def token_content(token: object) -> str | None:
    """Hugging Face writes a special token as its text or as an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


class ChatTemplate:
    """
    Messages to text.

    Args:
        source: Jinja.
        variables: What every rendering gets; a request's own win.
        tool_source: What takes its place where tools are given.
    """

    def __init__(
        self, source: str, variables: Mapping[str, object], *, tool_source: str | None = None
    ) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self.source = source if tool_source is None else tool_source
        """The one that knows most of tools."""
        self._plain = environment.from_string(source)
        self._with_tools = self._plain if tool_source is None else environment.from_string(tool_source)
        self._variables = variables
        names = meta.find_undeclared_variables(environment.parse(self.source))
        # mlx_lm calls it enable_thinking, and so do nearly all templates.
        self._renames_thinking = "thinking" in names and "enable_thinking" not in names
        self._knows_developer = "developer" in self.source
        self._endings: dict[str, str] = {}

    @classmethod
    def read(cls, folder: Path, vocabulary: Container[str]) -> ChatTemplate | None:
        """
        Find the template in a model's folder: chat_template.jinja, else tokenizer_config.json; else None.

        Raises:
            ConfigurationError: it is no Jinja.
        """
        config = read_json(folder / "tokenizer_config.json")
        sources = _sources(folder, config)
        if "default" not in sources:
            return None
        try:
            return cls(
                sources["default"],
                _variables(folder, config, vocabulary),
                tool_source=sources.get("tool_use"),
            )
        except jinja2.TemplateSyntaxError as error:
            raise ConfigurationError(f"{folder}: the chat template is broken: {error}") from None

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        template_kwargs: Mapping[str, object],
        *,
        tools: Sequence[Mapping[str, object]] = (),
        continues: bool = False,
        tells: bool = False,
    ) -> str:
        """
        Turn messages into the text that the model was trained on, up to where its answer begins.

        Args:
            messages: In OpenAI's form.
            template_kwargs: Extra variables.
            tools: What the model may call.
            continues: The text ends with the last message's content, which is the beginning of the answer.
            tells: The template knows no tools: they, calls and results are written into the messages.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """
        plain = plain_messages(messages, knows_developer=self._knows_developer)
        if tells:
            plain = told_messages(plain, tools)
        variables = {**self._variables, **self._renamed(template_kwargs)}
        if tools and not tells:
            variables["tools"] = list(tools)
        if continues and plain:
            return self._continued(plain, variables)
        return self._rendered(plain, variables)

    def ending(
        self,
        messages: Sequence[Mapping[str, object]],
        template_kwargs: Mapping[str, object],
        *,
        has_tools: bool,
    ) -> str:
        """
        Return what the template appends where the answer begins.

        It is taken from a conversation of our own that ends with the same role, so that nothing that a user
        wrote can be taken for it; empty where the template refuses that one.
        """
        role = str(messages[-1].get("role")) if messages else "user"
        key = json.dumps([role, has_tools, template_kwargs], sort_keys=True, default=str)
        if key not in self._endings:
            if len(self._endings) >= _MOST_ENDINGS:
                self._endings.clear()
            self._endings[key] = self._ending(role, template_kwargs, has_tools=has_tools)
        return self._endings[key]

    def _ending(self, role: str, template_kwargs: Mapping[str, object], *, has_tools: bool) -> str:
        messages = [*_EXAMPLE, *(_EXAMPLE_CALL if role == "tool" else ())]
        variables = {**self._variables, **self._renamed(template_kwargs)}
        if has_tools:
            variables["tools"] = [_EXAMPLE_TOOL]
        try:
            asked = self._rendered(messages, {**variables, "add_generation_prompt": True})
            told = self._rendered(messages, {**variables, "add_generation_prompt": False})
        except InvalidRequestError:
            return ""
        return asked.removeprefix(told)

    def _renamed(self, template_kwargs: Mapping[str, object]) -> dict[str, object]:
        renamed = dict(template_kwargs)
        if self._renames_thinking and "enable_thinking" in renamed:
            renamed.setdefault("thinking", renamed["enable_thinking"])
        return renamed

    def _continued(self, messages: list[Message], variables: dict[str, object]) -> str:
        """Render with a mark behind the last content, and cut there."""
        marked = [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}{_CUT}"}]
        rendered = self._rendered(marked, {**variables, "add_generation_prompt": False})
        # The last one is ours, whatever the messages hold.
        before, found, _ = rendered.rpartition(_CUT)
        if not found:
            raise InvalidRequestError(
                "the model's chat template cannot continue the last message; end with a message of the user",
                param=f"messages[{len(messages) - 1}]",
            )
        return before

    def _rendered(self, messages: list[Message], variables: dict[str, object]) -> str:
        template = self._with_tools if variables["tools"] else self._plain
        parts: list[str] = []
        chars = 0
        try:
            for part in template.generate({**variables, "messages": messages}):
                chars += len(part)
                if chars > MOST_CHARS:
                    raise jinja2.TemplateError(f"the text has more than {MOST_CHARS} characters")
                parts.append(part)
        except _FAULTS as error:
            reason = str(error) if isinstance(error, jinja2.TemplateError) else type(error).__name__
            raise InvalidRequestError(
                f"the model's chat template refuses these messages: {reason}", param="messages"
            ) from None
        return "".join(parts)


def _sources(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Templates by name: those of the configuration, over them those that have files."""
    said = config.get("chat_template")
    if isinstance(said, list):
        sources = {entry["name"]: entry["template"] for entry in said}
    else:
        sources = {} if said is None else {"default": said}
    files = {"default": "chat_template.jinja", "tool_use": "additional_chat_templates/tool_use.jinja"}
    for name, file in files.items():
        if (path := folder / file).is_file():
            sources[name] = path.read_text(encoding="utf-8")
    return sources


def _variables(folder: Path, config: dict[str, Any], vocabulary: Container[str]) -> dict[str, object]:
    """What transformers and mlx_lm pass to every template; one that cannot think does not look."""
    variables: dict[str, object] = {"tools": None, "documents": None, "add_generation_prompt": True}
    variables["enable_thinking"] = think_pair(vocabulary) is not None
    for name, token in (read_json(folder / "special_tokens_map.json") | config).items():
        if name.endswith("_token") and (content := token_content(token)) is not None:
            variables[name] = content
    return variables


class _GenerationTag(Extension):
    """Templates mark what the assistant said with this tag, for training; here it only shows its content."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_show"), [], [], body).set_lineno(line)

    def _show(self, caller: jinja2.runtime.Macro) -> str:
        return str(caller())


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    # Local time, as transformers does; the template asks for it.
    return datetime.now().strftime(form)


def _to_json(value: object, ensure_ascii: bool = False, **options: Any) -> str:
    """Unlike jinja2's own filter this escapes no HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
