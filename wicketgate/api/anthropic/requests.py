"""What a body of Anthropic's API means: its prompt, and one request (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wicketgate.api import schemas, tools
from wicketgate.api.anthropic.bodies import ClientTool
from wicketgate.api.anthropic.input import read_messages
from wicketgate.api.dialects import answer_grammar, check_tools, draw, kind_at, planned, read_at
from wicketgate.api.requests import build_request
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import ChatPrompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.api.anthropic.bodies import MessagesBody, PromptBody, ToolChoice
    from wicketgate.api.requests import Arrival, ModelCard
    from wicketgate.api.tools import ToolPlan
    from wicketgate.inference import Grammar, InferenceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class MeantPrompt:
    """What of a body makes its prompt."""

    prompt: ChatPrompt
    plan: ToolPlan
    grammar: Grammar | None
    dropped: tuple[str, ...]
    """Tools that are not served here."""


def read_prompt(body: PromptBody, *, card: ModelCard, max_tokens: int) -> MeantPrompt:
    """
    Make the prompt that a body means.

    Args:
        max_tokens: Of the answer.

    Raises:
        InvalidRequestError: a message, a tool or a schema.
    """
    kept, places, dropped = _tools(body.tools)
    plan = planned(
        kept,
        _choice(body.tool_choice),
        card=card,
        param="tools[{index}].input_schema",
        places=places,
        max_tokens=max_tokens,
    )
    grammar = answer_grammar(plan, _grammar(body))
    messages, continues = read_messages(body)
    if continues and grammar is not None:
        place = f"messages[{len(body.messages) - 1}]"
        raise InvalidRequestError(
            f"{place} begins the answer, which cannot be held to {grammar.param} then;"
            " let a user's message be the last",
            param=place,
            code="invalid_parameter_combination",
        )
    thinking: dict[str, object] = {}
    if body.thinking is not None and card.thinks:
        thinking = {"enable_thinking": body.thinking.type != "disabled"}
    prompt = ChatPrompt(
        messages=messages,
        template_kwargs={**thinking, **body.chat_template_kwargs},
        tools=plan.prompt_tools,
        continues=continues,
    )
    return MeantPrompt(prompt=prompt, plan=plan, grammar=grammar, dropped=dropped)


def read_request(
    body: MessagesBody, *, card: ModelCard, arrival: Arrival
) -> tuple[InferenceRequest, tuple[str, ...]]:
    """
    Make the request that a body means.

    Returns:
        The request, and the tools that are not served here.

    Raises:
        InvalidRequestError: a message, a tool or a schema.
    """
    # Clients send the greatest answer of Anthropic's models, whatever model is served. To fill the cache, the
    # prompt must run: one token is the least, and nobody is shown it.
    max_tokens = min(max(body.max_tokens, 1), card.context_tokens)
    meant = read_prompt(body, card=card, max_tokens=max_tokens)
    sampling = draw(
        card=card,
        arrival=arrival,
        max_tokens=max_tokens,
        grammar=meant.grammar,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
    )
    request = build_request(
        card=card,
        arrival=arrival,
        prompt=meant.prompt,
        sampling=sampling,
        api="messages",
        # One value names person, account and session together, so that it names a conversation.
        names={"session_id": body.session_id or body.metadata.user_id},
        stop=body.stop_sequences,
        stream=body.stream,
        priority=body.priority,
        cache_salt=body.cache_salt,
        output=meant.plan.output,
    )
    return request, meant.dropped


def _tools(given: Sequence[object]) -> tuple[tuple[tools.Tool, ...], tuple[int, ...], tuple[str, ...]]:
    kept: dict[int, tools.Tool] = {}
    dropped: list[str] = []
    for index, value in enumerate(given):
        place = f"tools[{index}]"
        kind = kind_at(place, value, default="custom")
        if kind == "custom":
            tool = read_at(place, ClientTool, value)
            kept[index] = tools.Tool(
                name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
            )
        else:
            dropped.append(kind)
    check_tools([(index, tool.name) for index, tool in kept.items()])
    return tuple(kept.values()), tuple(kept), tuple(dropped)


def _choice(choice: ToolChoice) -> tools.ToolChoice:
    parallel = not choice.disable_parallel_tool_use
    match choice.type:
        case "any":
            return tools.ToolChoice(kind="required", parallel=parallel)
        case "tool":
            return tools.ToolChoice(kind="named", name=choice.name, parallel=parallel)
        case "auto" | "none":
            return tools.ToolChoice(kind=choice.type, parallel=parallel)


def _grammar(body: PromptBody) -> Grammar | None:
    form, param = body.output_config.format, "output_config.format.schema"
    if form is None:
        form, param = body.output_format, "output_format.schema"
    return None if form is None else schemas.structured(form.json_schema, strict=False, param=param)
