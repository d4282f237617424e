"""What the body of /v1/responses means: one request, and what of the response is certain (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from transport import sse
from wicketgate.api import schemas
from wicketgate.api.dialects import (
    answer_grammar,
    check_tools,
    draw,
    kind_at,
    planned,
    read_at,
    without_nulls,
    wrong,
)
from wicketgate.api.requests import KEY_FIELDS, build_request, check_max_tokens
from wicketgate.api.responses.bodies import LOGPROBS, ChoiceOfTool, FunctionTool
from wicketgate.api.tools import Tool, ToolChoice
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import ChatPrompt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wicketgate.api.requests import Arrival, ModelCard
    from wicketgate.api.responses.bodies import Format, ResponsesBody
    from wicketgate.api.tools import ToolPlan
    from wicketgate.inference import Grammar, InferenceRequest, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """What a body means."""

    request: InferenceRequest
    about: Mapping[str, object]
    """Fields of the response that the body settles."""
    dropped: tuple[str, ...]
    """Tools that are not served here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tools:
    kept: tuple[Tool, ...]
    places: tuple[int, ...]
    """Of those kept, in the body's list."""
    dropped: tuple[str, ...]


def read_request(
    body: ResponsesBody,
    messages: Sequence[Mapping[str, object]],
    *,
    card: ModelCard,
    arrival: Arrival,
) -> Meant:
    """
    Make the request that a body means.

    Args:
        body: What was asked.
        messages: What its input and instructions come to.
        card: The model.
        arrival: The request besides its body.

    Raises:
        InvalidRequestError: a bound of the model, a tool or a schema.
    """
    max_tokens = body.max_output_tokens or card.context_tokens
    check_max_tokens(max_tokens, param="max_output_tokens", card=card)
    tools = _tools(body.tools)
    plan = planned(
        tools.kept,
        _choice(body),
        card=card,
        param="tools[{index}].parameters",
        places=tools.places,
        max_tokens=max_tokens,
    )
    request = build_request(
        card=card,
        arrival=arrival,
        prompt=ChatPrompt(
            messages=tuple(messages),
            template_kwargs={**_thinking(body, card), **body.chat_template_kwargs},
            tools=plan.prompt_tools,
        ),
        sampling=_sampling(body, plan, card=card, arrival=arrival, max_tokens=max_tokens),
        api="responses",
        names={name: getattr(body, name) for name in KEY_FIELDS},
        stream=body.stream,
        priority=body.priority,
        cache_salt=body.cache_salt,
        output=plan.output,
    )
    return Meant(request=request, about=_about(body, request, tools=tools.kept), dropped=tools.dropped)


def finite_json(value: object, *, param: str) -> bytes:
    """
    Write what a response brings back of its request.

    Raises:
        InvalidRequestError: it holds a number as 1e999, which reads as infinite.
    """
    try:
        return sse.json_bytes(value)
    except ValueError:
        raise InvalidRequestError(f"{param} must hold no number beyond 1.8e308", param=param) from None


def _sampling(
    body: ResponsesBody, plan: ToolPlan, *, card: ModelCard, arrival: Arrival, max_tokens: int
) -> Sampling:
    return draw(
        card=card,
        arrival=arrival,
        max_tokens=max_tokens,
        grammar=answer_grammar(plan, _grammar(body.text.format)),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
        logprobs=body.top_logprobs if LOGPROBS in body.include else None,
    )


def _tools(given: Sequence[object]) -> _Tools:
    kept: dict[int, Tool] = {}
    dropped: list[str] = []
    counter = count(1)
    for index, value in enumerate(given):
        place = f"tools[{index}]"
        kind = kind_at(place, value)
        if kind == "function":
            tool = read_at(place, FunctionTool, value)
            finite_json(tool.parameters, param=f"{place}.parameters")
            kept[index] = Tool(
                name=tool.name,
                description=tool.description,
                parameters=tool.parameters,
                strict=_is_strictable(tool.parameters, counter) if tool.strict is None else tool.strict,
            )
        else:
            name = value.get("name") if isinstance(value, dict) else None
            dropped.append(f"{kind}:{name}" if isinstance(name, str) else kind)
    check_tools([(index, tool.name) for index, tool in kept.items()])
    return _Tools(kept=tuple(kept.values()), places=tuple(kept), dropped=tuple(dropped))


def _is_strictable(parameters: Mapping[str, Any] | None, counter: Iterator[int]) -> bool:
    """
    Unless it is told, OpenAI holds a call to its schema where that can be done.

    Args:
        counter: Counts the schemas of all tools that are tried: behind the bound none is.
    """
    try:
        schemas.checked(parameters or {}, strict=True, param="parameters", counter=counter)
    except InvalidRequestError:
        return False
    return parameters is not None


def _choice(body: ResponsesBody) -> ToolChoice:
    choice, parallel = body.tool_choice, body.parallel_tool_calls
    if not isinstance(choice, ChoiceOfTool):
        return ToolChoice(kind=choice, parallel=parallel)
    if choice.type == "function" and choice.name is not None:
        return ToolChoice(kind="named", name=choice.name, parallel=parallel)
    if choice.type == "allowed_tools" and choice.tools is not None:
        allowed = tuple(tool.name for tool in choice.tools if tool.type == "function" and tool.name)
        if allowed:
            return ToolChoice(kind=choice.mode, allowed=allowed, parallel=parallel)
    raise wrong("tool_choice", "none, auto, required, or name functions among tools", choice.type)


def _thinking(body: ResponsesBody, card: ModelCard) -> dict[str, object]:
    effort = body.reasoning.effort
    if effort is None or (effort == "none" and not card.thinks):
        return {}
    if not card.thinks or (effort == "none" and not card.can_stop_thinking):
        habit = "always" if card.thinks else "never"
        raise InvalidRequestError(
            f"reasoning.effort {effort} is not possible: {card.id} {habit} thinks; leave it out",
            param="reasoning.effort",
            code="unsupported_value",
        )
    return {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort}


def _grammar(form: Format) -> Grammar | None:
    match form.type:
        case "text":
            return None
        case "json_object":
            return schemas.json_object("text.format")
        case "json_schema":
            strict = form.strict or False
            return schemas.structured(form.json_schema or {}, strict=strict, param="text.format.schema")


def _about(body: ResponsesBody, request: InferenceRequest, *, tools: Sequence[Tool]) -> dict[str, object]:
    about: dict[str, object] = {
        "id": f"resp_{request.id.removeprefix('req_')}",
        "object": "response",
        "model": request.model,
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata,
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning.effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "temperature": body.temperature,
        "text": _text(body),
        "tool_choice": _choice_as_given(body),
        "tools": [_tool(tool) for tool in tools],
        "top_logprobs": body.top_logprobs,
        "top_p": body.top_p,
        "truncation": "disabled",
    }
    return about if body.user is None else {**about, "user": body.user}


def _text(body: ResponsesBody) -> dict[str, object]:
    form = without_nulls(body.text.format.model_dump(by_alias=True))
    if form["type"] == "json_schema":
        form.setdefault("strict", False)
    verbosity = body.text.verbosity
    return {"format": form} if verbosity is None else {"format": form, "verbosity": verbosity}


def _choice_as_given(body: ResponsesBody) -> object:
    choice = body.tool_choice
    return choice.model_dump(exclude_unset=True) if isinstance(choice, ChoiceOfTool) else choice


def _tool(tool: Tool) -> dict[str, object]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
