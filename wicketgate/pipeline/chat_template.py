"""A model's chat template, rendered in the environment that transformers gives it, without transformers."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import jinja2
from jinja2.ext import Extension
from jinja2.nodes import CallBlock
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wicketgate.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from tokenizers import Tokenizer

_THINK_PAIRS: Final = (
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
)
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
    """

    def __init__(self, source: str, variables: Mapping[str, object]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._template = environment.from_string(source)
        self._variables = variables

    @classmethod
    def read(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """
        Find the template in a model's folder: chat_template.jinja, else tokenizer_config.json; else None.

        Raises:
            ConfigurationError: it is no Jinja.
        """
        config = read_json(folder / "tokenizer_config.json")
        source = config.get("chat_template")
        if (path := folder / "chat_template.jinja").is_file():
            source = path.read_text(encoding="utf-8")
        if isinstance(source, list):
            source = {entry["name"]: entry["template"] for entry in source}.get("default")
        if source is None:
            return None
        try:
            return cls(source, _variables(folder, config, tokenizer))
        except jinja2.TemplateSyntaxError as error:
            raise ConfigurationError(f"{folder}: the chat template is broken: {error}") from None

    def render(self, messages: Sequence[Mapping[str, object]], template_kwargs: Mapping[str, object]) -> str:
        """
        Turn messages into the text that the model was trained on, up to where its answer begins.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """
        try:
            return self._template.render({**self._variables, **template_kwargs, "messages": list(messages)})
        except _FAULTS as error:
            reason = str(error) if isinstance(error, jinja2.TemplateError) else type(error).__name__
            raise InvalidRequestError(
                f"the model's chat template refuses these messages: {reason}", param="messages"
            ) from None


def _variables(folder: Path, config: dict[str, Any], tokenizer: Tokenizer) -> dict[str, object]:
    """What transformers and mlx_lm pass to every template; one that cannot think does not look."""
    variables: dict[str, object] = {"tools": None, "documents": None, "add_generation_prompt": True}
    variables["enable_thinking"] = any(
        tokenizer.token_to_id(start) is not None and tokenizer.token_to_id(end) is not None
        for start, end in _THINK_PAIRS
    )
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
